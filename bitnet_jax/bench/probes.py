"""What this machine can do at most, measured: bytes a second from memory, int8 products.

The figures that an engine reaches are set beside these, taken in the same minute. Knows nothing
of models.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bitnet_jax.core import pages
from bitnet_jax.core.errors import BitnetError, InternalError, UsageError
from bitnet_jax.core.system import usable_cores
from bitnet_jax.ops.native.library import Library, library
from bitnet_jax.stats.medians import median

BUFFER = 2 << 30
# Of what is free, the probe takes at most this share; less than the least says nothing.
_SHARE, _LEAST = 0.25, 32 << 20
_TRIES = 3
_PEAK_SECONDS = 0.02
_NUMPY = "numpy"
# How many places a thread reads from in turn: which is faster depends on the processor.
STREAMS = (4, 1)
Reader = Callable[[np.ndarray, int], float]


@dataclass
class Bandwidth:
    """The best way found to read memory, ready to be taken again.

    Attributes:
      gb_s: the median of `values`, in 1e9 bytes a second.
      threads, pages, form: of the best.
      bytes: of the buffer.
      values: every time that the best way was taken.
      tried: each way, with what it reached.
    """

    threads: int
    pages: str
    form: str
    bytes: int
    values: list[float]
    tried: list[dict[str, Any]]
    _again: Callable[[], float] = field(repr=False)

    def again(self) -> float:
        """Takes the best way again, the best of a few tries; returns GB/s.

        It is a limit that is looked for: what else runs only ever makes it lower.
        """
        self.values.append(max(self._again() for _ in range(_TRIES)))
        return self.values[-1]

    @property
    def gb_s(self) -> float:
        """The median of what the best way reached, in GB/s."""
        return median(self.values)

    def to_json(self) -> dict[str, Any]:
        """As it stands in records."""
        names = ("gb_s", "threads", "pages", "form", "bytes", "values", "tried")
        return {name: getattr(self, name) for name in names}


@dataclass
class Peak:
    """The most int8 operations a second that were found, two a product, ready to be taken again.

    Attributes:
      form, threads: of the best; None and 0 where there is nothing to measure with.
      values: in 1e12 operations a second, every time that the best was taken.
      reason: why there are none.
    """

    form: str | None
    threads: int
    values: list[float]
    reason: str | None = None
    _again: Callable[[], float] | None = field(default=None, repr=False)

    def again(self) -> float:
        """As `Bandwidth.again`; returns TOP/s, NaN where there is nothing to measure with."""
        if self._again is None:
            return math.nan
        self.values.append(max(self._again() for _ in range(_TRIES)))
        return self.values[-1]

    @property
    def tops(self) -> float | None:
        """The median of what the best reached; None if it is not known."""
        return median(self.values) if self.values else None

    def to_json(self) -> dict[str, Any]:
        """As it stands in records."""
        return {name: getattr(self, name) for name in ("form", "threads", "values", "reason")}


def buffer_bytes(asked: int | None = None) -> int:
    """How large the probe's buffer is: 2 GiB, or as much as memory allows.

    Raises:
      UsageError: one was asked for that says nothing (``bench.probe_size``).
    """
    if asked is not None and asked < _LEAST:
        raise UsageError(
            "bench.probe_size",
            f"a buffer of {asked >> 20} MiB lies in caches: it says nothing of memory",
            f"ask for {_LEAST >> 20} MiB or more",
        )
    room = int(pages.memory_available() * _SHARE)
    return max(min(asked or BUFFER, room), _LEAST) // _LEAST * _LEAST


def thread_counts(cores: int | None = None) -> list[int]:
    """1, 2, 4, … and the number of cores."""
    cores = cores or usable_cores() or 1
    powers = [1 << n for n in range(cores.bit_length()) if 1 << n < cores]
    return [*powers, cores]


def bandwidth(bytes: int | None = None) -> Bandwidth:
    """Measures how fast memory is read: the best over thread counts and page sizes."""
    size = buffer_bytes(bytes)
    readers, form = _readers()
    best: tuple[float, int, bool, np.ndarray, Reader] | None = None
    tried = []
    for huge in pages.page_sizes():
        held = pages.touched(pages.buffer(size, huge=huge))
        for threads in thread_counts():
            for streams, reader in readers.items():
                speed = max(reader(held, threads) for _ in range(_TRIES))
                row = {"threads": threads, "pages": _pages(huge), "streams": streams}
                tried.append({**row, "gb_s": speed})
                if best is None or speed > best[0]:
                    best = (speed, threads, huge, held, reader)
    assert best is not None
    _, threads, huge, held, reader = best
    found = Bandwidth(threads, _pages(huge), form, size, [], tried, lambda: reader(held, threads))
    for _ in range(_TRIES):
        found.again()
    return found


def int8_peak() -> Peak:
    """Measures int8 products with operands in registers: the best over forms and threads."""
    native = native_library()
    if isinstance(native, BitnetError):
        return Peak(None, 0, [], f"it takes the C++ library: {native.message}")
    best: tuple[float, int, str, int, int] | None = None
    for index, name in forms(native):
        rounds, seconds = 1 << 10, 0.0
        while seconds < _PEAK_SECONDS and rounds < 1 << 40:
            rounds *= 4
            seconds, _ = _run(native, index, 1, None, rounds)
        for threads in thread_counts():
            speed = max(_tops(native, index, threads, rounds) for _ in range(_TRIES))
            if best is None or speed > best[0]:
                best = (speed, index, name, threads, rounds)
    assert best is not None  # `portable` runs everywhere
    _, form, name, threads, rounds = best
    found = Peak(name, threads, [], None, lambda: _tops(native, form, threads, rounds))
    for _ in range(_TRIES):
        found.again()
    return found


def _tops(native: Library, form: int, threads: int, rounds: int) -> float:
    seconds, operations = _run(native, form, threads, None, rounds)
    return operations / seconds / 1e12


def native_library() -> Library | BitnetError:
    """The C++ library, or why there is none."""
    try:
        return library()
    except BitnetError as error:
        return error


def forms(native: Library) -> list[tuple[int, str]]:
    """Number and name of each of the probe's instruction sets that this processor has.

    ``BITNET_ISA`` holds for the probe too: what is compared runs under the same rule.
    """
    handle = native.handle
    handle.bitnet_probe_name.restype = ctypes.c_char_p
    handle.bitnet_probe_name.argtypes = [ctypes.c_int64]
    handle.bitnet_probe_usable.argtypes = [ctypes.c_int64]
    found, index = [], 0
    while (name := handle.bitnet_probe_name(index)) is not None:
        if handle.bitnet_probe_usable(index):
            found.append((index, name.decode()))
        index += 1
    forced = os.environ.get("BITNET_ISA")
    return [row for row in found if row[1] == forced] or found


def _run(
    native: Library,
    form: int,
    threads: int,
    held: np.ndarray | None,
    rounds: int,
    streams: int = STREAMS[0],
) -> tuple[float, float]:
    """Seconds, and bytes or operations, of one call of the probe."""
    out = (ctypes.c_double * 3)()
    failed = native.handle.bitnet_probe(
        ctypes.c_int64(form),
        ctypes.c_int64(threads),
        ctypes.c_void_p(held.ctypes.data if held is not None else None),
        ctypes.c_int64(held.size if held is not None else 0),
        ctypes.c_int64(streams),
        ctypes.c_int64(rounds),
        out,
    )
    if failed:
        raise InternalError("bench.probe_failed", f"probe {form} on {threads} threads: {failed}")
    return max(out[0], 1e-9), out[1]


def _readers() -> tuple[dict[int, Reader], str]:
    """What reads a buffer on some threads and gives GB/s, by streams; and what it is called."""
    native = native_library()
    if isinstance(native, BitnetError):
        return {1: _numpy_reader}, _NUMPY
    form, name = forms(native)[0]

    def by(streams: int) -> Reader:
        def read(held: np.ndarray, threads: int) -> float:
            seconds, read = _run(native, form, threads, held, 1, streams)
            return read / seconds / 1e9

        return read

    return {streams: by(streams) for streams in STREAMS}, name


def _numpy_reader(held: np.ndarray, threads: int) -> float:
    """Without the library: sums of 64-bit words, which let other threads run."""
    words = held[: held.size // 8 * 8].view(np.uint64)
    parts = np.array_split(words, threads)
    with ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        list(pool.map(np.bitwise_xor.reduce, parts))
        return held.size / (time.perf_counter() - begun) / 1e9


def _pages(huge: bool) -> str:
    return "2 MiB" if huge else "small"
