"""Stages: every Program as it was traced and as each pass left it, written or checked on request.

`trace` and `Program.derived` hand each program to `record`, so that no pass has a line
for it. Without a request it gives the program back and does nothing else. Knows no pass.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.extend.core as jec

from bitnet_jax.core.errors import CannotCreate
from bitnet_jax.core.paths import atomic_file, os_failure
from bitnet_jax.stores.address import require_local

if TYPE_CHECKING:
    from bitnet_jax.ir.program import Program

# 1: every program is verified as it is made. The tests run so; it costs about as much as
# the passes themselves.
VERIFY = "BITNET_VERIFY_PASSES"
INDEX = "index.json"

_current: ContextVar[_Dump | None] = ContextVar("bitnet_jax_dump", default=None)


@contextlib.contextmanager
def dump_passes(folder: str | os.PathLike | None) -> Iterator[None]:
    """Writes each stage of every program that is made in the block.

    A folder per traced function holds ``00-trace.txt`` and, numbered on, a file per pass;
    ``index.json`` lists them with seconds and counts of equations. What JAX has compiled
    before the block is not traced again in it and leaves nothing; nor do other threads.

    Args:
      folder: made if missing; None does nothing.

    Raises:
      CannotCreate: it holds something already (``dump.exists``): two runs' stages do not mix.
      PermissionDenied, IOFailure: from the operating system.
    """
    if folder is None:
        yield
        return
    require_local(folder, "the folder of the stages", "write them to a local folder")
    dump = _Dump(Path(folder))
    token = _current.set(dump)
    try:
        yield
        dump.finish()
    finally:
        _current.reset(token)


def record(
    program: Program, before: Program | None = None, of: Callable[..., Any] | None = None
) -> Program:
    """Returns `program`, written and verified where that was asked for.

    Args:
      before: what the pass was given; None for a program that was just traced.
      of: the function that was traced.

    Raises:
      InternalError: an invariant does not hold; the pass that broke it is named, and the
        file that shows it, where there is one.
    """
    dump = _current.get()
    # Written first: a program that does not verify is the one to look at.
    file = None if dump is None else dump.write(program, before, of)
    if os.environ.get(VERIFY, "0") not in ("", "0"):
        from bitnet_jax.ir.verify import verify

        verify(program, dump=file)
    return program


def count_equations(program: Program) -> Counter[str]:
    """How many equations of each primitive, those of inner bodies included."""
    counts: Counter[str] = Counter()
    bodies = [program.jaxpr.jaxpr]
    while bodies:
        for eqn in bodies.pop().eqns:
            counts[eqn.primitive.name] += 1
            bodies += jec.jaxprs_in_params(eqn.params)
    return counts


class _Dump:
    """One folder of stages, and what it holds so far."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.programs: list[dict[str, Any]] = []
        # Each program that was written and its entry; holding it keeps its id its own.
        self.places: dict[int, tuple[Program, dict[str, Any]]] = {}
        self.lock = threading.Lock()
        self.last = time.perf_counter()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            used = any(folder.iterdir())
        except FileExistsError as error:
            raise _exists(folder) from error
        except OSError as error:
            raise os_failure(error, "create the folder of stages", folder) from error
        if used:
            raise _exists(folder)

    def write(
        self, program: Program, before: Program | None, of: Callable[..., Any] | None
    ) -> Path:
        """Writes one stage; returns its file."""
        # A pass took as long as since the stage before it, less the writing of that.
        seconds = time.perf_counter() - self.last
        with self.lock:
            if before is None:
                entry = self._open(of)
                path = self._stage(program, entry, "trace", None)
            else:
                if id(before) not in self.places:  # traced before the block
                    self._stage(before, self._open(None), "input", None)
                entry = self.places[id(before)][1]
                path = self._stage(program, entry, program.passes[-1], seconds)
            self._write_index()
            self.last = time.perf_counter()
        return path

    def finish(self) -> None:
        """Writes an index also where nothing was traced.

        A block that failed before has left the folder empty: the next try may have it.
        """
        if not self.programs:
            self._write_index()

    def _open(self, of: Callable[..., Any] | None) -> dict[str, Any]:
        name = _name(of)
        path = self.folder / f"{len(self.programs):02}-{name}"
        try:
            path.mkdir()
        except FileExistsError as error:  # another run, since this one began
            raise _exists(self.folder) from error
        except OSError as error:
            raise os_failure(error, "create", path) from error
        entry = {"function": name, "folder": path.name, "stages": []}
        self.programs.append(entry)
        return entry

    def _stage(
        self, program: Program, entry: dict[str, Any], name: str, seconds: float | None
    ) -> Path:
        counts = count_equations(program)
        file = f"{len(entry['stages']):02}-{name}.txt"
        path = self.folder / entry["folder"] / file
        with atomic_file(path) as stream:
            stream.write(str(program).encode())
        entry["stages"].append(
            {
                "file": file,
                "passes": list(program.passes),
                "seconds": None if seconds is None else round(seconds, 6),
                "equations": counts.total(),
                "primitives": dict(sorted(counts.items())),
            }
        )
        self.places[id(program)] = (program, entry)
        return path

    def _write_index(self) -> None:
        index = {"schema": "bitnet/1", "programs": self.programs}
        with atomic_file(self.folder / INDEX) as stream:
            stream.write(json.dumps(index, indent=2).encode() + b"\n")


def _exists(folder: Path) -> CannotCreate:
    return CannotCreate(
        "dump.exists",
        f"`{folder}` holds files already; the stages of two runs do not mix",
        "choose a new directory",
    )


def _name(of: Callable[..., Any] | None) -> str:
    """The traced function's name as a file may be called; never its path or address."""
    while isinstance(of, functools.partial):
        of = of.func
    name = getattr(of, "__name__", None) or ("program" if of is None else type(of).__name__)
    return re.sub(r"\W+", "", name)[:40] or "function"
