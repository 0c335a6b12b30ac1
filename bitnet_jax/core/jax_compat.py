"""The only file that knows JAX versions: what moved, or has no public name.

Supports jax 0.10.2 (the last for Python 3.11) to 0.11. Each entry says what it
stands in for, so that it can go when a public name comes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

_HERE = str(Path(__file__).resolve().parents[1])
_JAX = str(Path(jax.__file__).resolve().parent)
# Code between the user's function and JAX: frames in these packages are not the user's.
_LIBRARIES = (_JAX, _HERE, str(Path(_JAX).parent / "flax"), str(Path(_JAX).parent / "jaxlib"))


@contextlib.contextmanager
def source_of(eqn: Any) -> Iterator[None]:
    """Keeps an equation's name stack (named_scope, profiler names) while it is bound again.

    There is no public form of `user_context`; without one, names are lost, nothing else.
    """
    try:
        from jax._src import source_info_util
    except ImportError:  # a later jax moved it
        yield
        return
    stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
    with source_info_util.user_context(eqn.source_info.traceback, name_stack=stack):
        yield


def source_line(eqn: Any) -> str | None:
    """The user's own ``file:line`` (and function) that made `eqn`, or None if unknown."""
    traceback = getattr(eqn.source_info, "traceback", None)
    if traceback is None:
        return None
    frame = traceback.as_python_traceback()
    frames = []
    while frame is not None:
        code = frame.tb_frame.f_code
        frames.append((code.co_filename, frame.tb_lineno, code.co_name))
        frame = frame.tb_next
    # The outermost frame comes first or last depending on the version: the user's
    # innermost frame is the one nearest to JAX's own.
    if frames and frames[0][0].startswith(_JAX):
        frames.reverse()
    for filename, line, name in reversed(frames):
        if not filename.startswith(_LIBRARIES) and not filename.startswith("<"):
            return f"{filename}:{line} ({name})"
    return None


def bind_params(eqn: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An equation's sub-functions and parameters, as `primitive.bind` takes them.

    Up to jax 0.10.1 ``get_bind_params`` gave a pair, from 0.10.2 one dict.
    """
    found = eqn.primitive.get_bind_params(eqn.params)
    return found if isinstance(found, tuple) else ((), found)
