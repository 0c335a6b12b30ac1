"""The only file that knows JAX versions: what moved, or has no public name.

Supports jax 0.10.2 (the last for Python 3.11) to 0.11. Each entry says what it
stands in for, so that it can go when a public name comes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

_HERE = str(Path(__file__).resolve().parents[1])
_JAX = str(Path(jax.__file__).resolve().parent)
# Code between the user's function and JAX: frames in these packages are not the user's.
_LIBRARIES = (_JAX, _HERE, str(Path(_JAX).parent / "flax"), str(Path(_JAX).parent / "jaxlib"))
# Folders of installed packages: a line in one of them is rarely the user's own.
_INSTALLED = {"site-packages", "dist-packages"}


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


@contextlib.contextmanager
def without_locations() -> Iterator[None]:
    """Keeps the lines and paths of this machine out of what is lowered in the block.

    There is no argument for it, only a setting of the process.
    """
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def custom_calls(module: str) -> set[str]:
    """The targets of the custom calls in the text of a StableHLO module."""
    named = re.findall(r'call_target_name\s*=\s*"([^"]*)"', module)
    return {*named, *re.findall(r"custom_call\s+@([\w.$-]+|\"[^\"]*\")", module)}


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
    return _users_own(frames)


def raised_at(traceback: TracebackType | None) -> str | None:
    """The user's own ``file:line`` (and function) in an exception's traceback, or None."""
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append((code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    return _users_own(frames)


def _users_own(frames: Sequence[tuple[str, int, str]]) -> str | None:
    """The innermost frame of the user's own; of a library of layers only if there is none."""
    own = [f for f in frames if not f[0].startswith(_LIBRARIES) and not f[0].startswith("<")]
    theirs = [f for f in own if not set(Path(f[0]).parts) & _INSTALLED]
    for filename, line, name in reversed(theirs or own):
        return f"{filename}:{line} ({name})"
    return None


def bind_params(eqn: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An equation's sub-functions and parameters, as `primitive.bind` takes them.

    Up to jax 0.10.1 ``get_bind_params`` gave a pair, from 0.10.2 one dict.
    """
    found = eqn.primitive.get_bind_params(eqn.params)
    return found if isinstance(found, tuple) else ((), found)


def scan_counts(eqn: Any) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many its carry."""
    params = eqn.params
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry = params["ft_in"].unpack()[:2]  # jax 0.11
    return len(consts), len(carry)


def holds_matrices(eqn: Any) -> bool:
    """True if a body of `eqn` closes over an array of two or more axes."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            closed = getattr(item, "consts", ()) if hasattr(item, "eqns") else ()
            if any(getattr(const, "ndim", 0) > 1 for const in closed):
                return True
    return any(holds_matrices(inner) for body in bodies(eqn) for inner in body.eqns)


def is_unspecified(sharding: Any) -> bool:
    """True for the value that stands for "no sharding was asked for"; it has no public name."""
    return sharding is None or type(sharding).__name__ == "UnspecifiedValue"


def jvp_rule(eqn: Any) -> Callable[[Sequence[Any], Sequence[Any]], list[Any]]:
    """The rule of a `custom_jvp_call`: flat primals and tangents to the same of the results."""
    (_, jvp) = _subfuns(eqn)
    return lambda primals, tangents: [
        _instantiated(out) for out in jvp.call_wrapped(*primals, *tangents)
    ]


@dataclass(frozen=True)
class VjpRules:
    """The rules of a `custom_vjp_call`, over its flat operands."""

    _forward: Any
    _backward: Any
    _trees: Callable[[], Any]

    def forward(self, values: Sequence[Any], perturbed: Sequence[bool]) -> list[Any]:
        """What the forward rule gives: saved values that are no operand, then the results."""
        pairs = [item for pair in zip(values, perturbed, strict=True) for item in pair]
        return list(self._forward.call_wrapped(*pairs))

    def split(self, out: Sequence[Any], operands: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The results, and all saved values, of what `forward` gave (call it first)."""
        _, saved_tree, forwarded = self._trees()
        count = saved_tree.num_leaves - sum(place is not None for place in forwarded)
        rest = iter(out[:count])
        return list(out[count:]), [next(rest) if p is None else operands[p] for p in forwarded]

    def backward(self, saved: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        """A cotangent, or None for zero, for each operand."""
        arrays = [_instantiated(cotangent) for cotangent in cotangents]
        out = self._backward.call_wrapped(*saved, *arrays)
        if len(out) == 2 and isinstance(out[0], list):  # jax 0.11: with what it logged
            out = out[0]
        return [None if type(c).__name__ in ("Zero", "SymbolicZero") else c for c in out]


def vjp_rules(eqn: Any) -> VjpRules:
    """The forward and backward rules of a `custom_vjp_call`."""
    (_, forward, backward) = _subfuns(eqn)
    return VjpRules(forward, backward, eqn.params["out_trees"])


def _subfuns(eqn: Any) -> tuple[Any, ...]:
    """The functions that `bind` takes, from either form of `get_bind_params`."""
    positional, params = bind_params(eqn)
    return tuple(positional) or tuple(params["subfuns"])


def _instantiated(cotangent: Any) -> Any:
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        whole = np if cotangent.dtype == jax.dtypes.float0 else jax.numpy
        return whole.zeros(cotangent.shape, cotangent.dtype)
    return cotangent


def bodies(eqn: Any) -> list[Any]:
    """The jaxprs among an equation's parameters, open or closed."""
    found = []
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                found.append(getattr(item, "jaxpr", item))
    return found


def without_dead(jaxpr: Any) -> Any:
    """An open jaxpr less what its results do not need, in the bodies of loops too."""
    from jax.interpreters import partial_eval

    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), True)[0]


def in_derivative(eqn: Any) -> bool:
    """True if `eqn` came from a derivative taken inside the traced function itself.

    JAX names what `grad`, `vjp`, `jvp` and `linearize` make; it does not when the
    derivative is taken of us, outside.
    """
    return any(word in str(eqn.source_info.name_stack) for word in ("jvp(", "transpose("))


def result_aval(shape: Sequence[int], dtype: Any, *operands: Any) -> Any:
    """The abstract result of a primitive of ours: it varies over what its operands vary over.

    Inside `shard_map`, JAX tracks the mesh axes over which a value differs between devices.
    """
    varying: frozenset[str] = frozenset()
    like = None
    for aval in operands:
        own = _varying(aval)
        like = aval if own else like
        varying |= own
    if like is None:
        return jax.core.ShapedArray(tuple(shape), dtype)
    sharding = like.sharding.update(spec=jax.sharding.PartitionSpec(*[None] * len(shape)))
    if hasattr(like, "manual_axis_type"):
        kind = type(like.manual_axis_type)(varying=varying)
        return jax.core.ShapedArray(tuple(shape), dtype, sharding=sharding, manual_axis_type=kind)
    renamed: dict[str, Any] = {"vma": varying}
    return jax.core.ShapedArray(tuple(shape), dtype, sharding=sharding, **renamed)


def _varying(aval: Any) -> frozenset[str]:
    """Mesh axes over which a value differs; up to 0.10.1 they were called `vma`."""
    if hasattr(aval, "manual_axis_type"):
        return frozenset(aval.manual_axis_type.varying)
    return frozenset(getattr(aval, "vma", ()))


def struct(aval: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of `aval`, with the sharding that its type has on an explicit mesh."""
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=explicit_sharding(aval))


def explicit_sharding(aval: Any) -> Any:
    """The sharding in the type of `aval`, or None where the mesh has no explicit axes."""
    sharding = getattr(aval, "sharding", None)
    mesh = getattr(sharding, "mesh", None)
    return sharding if getattr(mesh, "explicit_axes", ()) else None


def in_auto_axes(function: Callable[..., Any], out_sharding: Any) -> Callable[..., Any]:
    """`function` with the explicit axes of the mesh left to the compiler; itself without any.

    Explicit axes want an output sharding for each reshape and each contraction; `out_sharding`
    (an `explicit_sharding`, or None) is what the results have.
    """
    if out_sharding is None:
        return function
    axes = tuple(out_sharding.mesh.explicit_axes)  # not those that a shard_map has taken
    return jax.sharding.auto_axes(function, axes=axes, out_sharding=out_sharding)


def replicated(sharding: Any) -> Any:
    """The sharding on the same mesh that splits nothing; None for None."""
    if sharding is None:
        return None
    return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())


def laid_as(array: Any, spec: Any) -> Any:
    """`array` split by `spec`, where its type says how it is split; else itself."""
    sharding = explicit_sharding(jax.typeof(array))
    if sharding is None:
        return array
    return jax.sharding.reshard(array, jax.sharding.NamedSharding(sharding.mesh, spec))


def is_dead(value: Any) -> bool:
    """True for a tracer of a trace that has ended: nothing can be computed from it."""
    trace = getattr(value, "_trace", None)
    return isinstance(value, jax.core.Tracer) and not getattr(trace, "is_valid", lambda: True)()


def out_of_range(eqn: Any) -> tuple[str, float | None]:
    """What a `gather` does with an index out of range: ``clip``, or ``fill`` and with what.

    None fills with NaN.
    """
    fill = eqn.params.get("fill_value")
    if "FILL" not in str(eqn.params.get("mode")):
        return "clip", None
    return "fill", None if fill is None or fill != fill else float(fill)


def closing_rule(jaxpr: Any) -> Any:
    """The first equation in `jaxpr` whose function has derivative rules and closes over values."""
    for eqn in jaxpr.eqns:
        if (
            eqn.primitive.name in ("custom_jvp_call", "custom_vjp_call")
            and eqn.params["num_consts"]
        ):
            return eqn
        for body in bodies(eqn):
            found = closing_rule(body)
            if found is not None:
                return found
    return None
