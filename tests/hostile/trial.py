"""One hostile trial: a good sample is damaged and read. What may come of it is checked here.

Allowed are a typed error, told in a line and within bounded memory, or a reading that the
container's row finds right. `python -m tests.hostile.trial NAME RUNS SEED` runs many.
"""

from __future__ import annotations

import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from functools import cache
from pathlib import Path

from bitnet_jax.core.errors import BadData, BitnetError, NoInput
from tests.hostile.containers import CONTAINERS, Reading, put
from tests.hostile.mutate import Choices, Sample, Seeded, damage

# A sample has 30 KB. Parsing its JSON takes a hundred times as much; a length that was
# believed would take far more than this.
MOST_MEMORY = 48 << 20
MOST_SECONDS = 10.0


class Wrong(AssertionError):
    """Something else than an error or a right reading came of a trial."""

    def __init__(self, what: str, sample: Sample, used: list[str]):
        sizes = ", ".join(f"{name}: {len(data)} bytes" for name, data in sorted(sample.items()))
        super().__init__(f"after {', '.join(used)}: {what}\n({sizes})")
        self.sample = sample


@cache
def good(name: str, seed: str) -> Reading:
    """What the undamaged sample gives."""
    row = CONTAINERS[name]
    with tempfile.TemporaryDirectory() as folder:
        put(row.seeds()[seed], Path(folder))
        return row.read(Path(folder) / row.entry)


def trial(name: str, choose: Choices) -> str:
    """Runs one; returns how it ended: an error's code, or ``read``.

    Raises:
      Wrong: another exception, too much memory or time, or a wrong reading.
    """
    row = CONTAINERS[name]
    seed = choose.one_of(sorted(row.seeds()))
    sample, used = damage(choose, dict(row.seeds()[seed]), row.mutations)
    judge = None if row.free.intersection(used) else row.judge
    return read(name, sample, used, judge and (lambda ours: judge(ours, sample, good(name, seed))))


def read(name: str, sample: Sample, used: list[str], judge) -> str:
    """Reads one sample as `trial` does; `judge` says what is wrong with a reading."""
    row = CONTAINERS[name]
    with tempfile.TemporaryDirectory() as folder:
        put(sample, Path(folder))
        if tracemalloc.is_tracing():
            tracemalloc.reset_peak()
        begun = time.process_time()
        try:
            found = row.read(Path(folder) / row.entry)
            ended = "read"
        except BitnetError as error:
            found, ended = None, error.code
            fault = error_fault(error)
        except BaseException as error:
            raise Wrong(f"{type(error).__name__}: {error}", sample, used) from error
    if tracemalloc.is_tracing() and tracemalloc.get_traced_memory()[1] > MOST_MEMORY:
        raise Wrong(f"{tracemalloc.get_traced_memory()[1] >> 20} MB were taken", sample, used)
    if time.process_time() - begun > MOST_SECONDS:
        raise Wrong("it took too long", sample, used)
    if found is not None:
        fault = judge(found) if judge else None
    if fault:
        raise Wrong(f"{ended}: {fault}", sample, used)
    return ended


def error_fault(error: BitnetError) -> str | None:
    """What a person would mind about an error, in words."""
    if not isinstance(error, BadData | NoInput):
        return f"{type(error).__name__} is no word for a bad file: {error}"
    if len(error.message) > 1500:
        return f"the message has {len(error.message)} letters"
    try:
        str(error).encode()
    except UnicodeEncodeError:
        return "the message cannot be printed"
    return None


def main(name: str, runs: int, seed: int) -> None:
    tracemalloc.start()
    ended: Counter[str] = Counter()
    for number in range(seed, seed + runs):
        try:
            ended[trial(name, Seeded(number))] += 1
        except Wrong as wrong:
            ended[f"WRONG {str(wrong)[:300]}"] += 1
            ended["wrong"] += 1
            if ended["wrong"] < 20:
                print(number, str(wrong)[:600], repr(wrong.__cause__)[:300], flush=True)
    for what, count in ended.most_common():
        print(f"{count:8}  {what}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
