"""Time per instruction of a compiled program, from the profiler's trace of its runs.

The program runs as it always does; XLA's executor marks each instruction's begin and end. Knows
nothing of what the instructions are.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from bitnet_jax.core.paths import atomic_directory
from bitnet_jax.stats.medians import median

PERFETTO = "perfetto_trace.json.gz"


@dataclass(frozen=True)
class Traced:
    """What a trace says.

    Attributes:
      seconds: instruction to the median over runs of its time in one run.
      wall: the median time of one run, traced.
      files: names of what was written, below the folder that was asked for.
    """

    seconds: dict[str, float]
    wall: float
    files: tuple[str, ...]


def trace(
    run: Callable[[], object], module: str, times: int, folder: str | None, force: bool
) -> Traced:
    """Runs something `times` times under the profiler.

    Args:
      run: one run of the program, waited for.
      module: the name of its HLO module: other programs' instructions are left out.
      folder: where the trace is kept, for XProf and Perfetto; None keeps nothing.

    Raises:
      CannotCreate: `folder` exists, and `force` is false.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Python's own calls would take most of the trace, and time
    walls = []
    with _kept(folder, force) as place:
        with jax.profiler.trace(
            str(place), create_perfetto_trace=folder is not None, profiler_options=options
        ):
            for _ in range(times):
                begun = time.perf_counter()
                run()
                walls.append(time.perf_counter() - begun)
        files = sorted(path for path in place.rglob("*") if path.is_file())
        names = tuple(str(path.relative_to(place)) for path in files)
        traces = [path for path in files if path.name.endswith(".xplane.pb")]
        runs: dict[str, dict[object, float]] = defaultdict(lambda: defaultdict(float))
        for path in traces:
            for name, number, seconds in _events(path, module):
                runs[name][number] += seconds
    return Traced(
        {name: median(list(found.values())) for name, found in runs.items()},
        median(walls),
        names if folder is not None else (),
    )


@contextlib.contextmanager
def _kept(folder: str | None, force: bool) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory() as place:
            yield Path(place)
    else:
        with atomic_directory(Path(folder), force=force) as place:
            yield place


def _events(path: Path, module: str) -> Iterator[tuple[str, object, float]]:
    """Instruction, run and seconds of each event that is an instruction of `module`."""
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name.startswith("end: "):
                    continue
                # The first look makes a type, of which Python 3.12 warns; where warnings are
                # errors jaxlib then aborts the process.
                with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                    stats = dict(event.stats)
                if stats.get("hlo_op") == event.name and stats.get("hlo_module") == module:
                    yield event.name, stats.get("run_id"), event.duration_ns / 1e9
