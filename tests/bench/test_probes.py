from __future__ import annotations

import time

import numpy as np
import pytest

from bitnet_jax.bench import probes
from bitnet_jax.core import pages
from bitnet_jax.core.errors import Unavailable, UsageError

SIZE = 256 << 20  # no cache holds it


def numpy_speed(held):
    words = held.view(np.uint64)
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        np.bitwise_xor.reduce(words)
        seconds.append(time.perf_counter() - begun)
    return held.size / min(seconds) / 1e9


def test_memory_is_read_as_fast_as_numpy_does_and_not_out_of_this_world():
    found = probes.bandwidth(SIZE)
    plain = numpy_speed(pages.touched(pages.buffer(SIZE, huge=False)))
    best = max(row["gb_s"] for row in found.tried)
    # numpy's loop reads one stream on one thread; what else runs may take most of either.
    assert plain / 5 < best < 100 * plain
    assert found.bytes == SIZE and found.form != "numpy" and len(found.values) == 3
    assert found.gb_s == pytest.approx(sorted(found.values)[1])
    assert found.again() > 0 and len(found.values) == 4
    assert {row["pages"] for row in found.tried} >= {"small"}
    assert {row["streams"] for row in found.tried} == {1, 4}


def test_every_instruction_set_reads_all_and_multiplies():
    native = probes.native_library()
    held = pages.buffer(1 << 20, huge=False)
    names = [name for _, name in probes.forms(native)]
    assert "portable" in names and set(names) <= {*native.isas, "avx2"}
    for form, _ in probes.forms(native):
        for threads in (1, 2, 3):
            for streams in probes.STREAMS:
                _, read = probes._run(native, form, threads, held, 2, streams)
                assert read == 2 * threads * ((1 << 20) // threads // 256 * 256)
        _, operations = probes._run(native, form, 2, None, 64)
        assert operations > 0


def test_the_peak_is_above_what_one_thread_of_the_portable_form_does():
    peak = probes.int8_peak()
    native = probes.native_library()
    form = dict((name, index) for index, name in probes.forms(native))["portable"]
    assert peak.tops > 0 and peak.reason is None
    assert peak.tops >= 0.5 * probes._tops(native, form, 1, 1 << 12)
    assert peak.again() > 0


def test_one_instruction_set_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("BITNET_ISA", "portable")
    assert [name for _, name in probes.forms(probes.native_library())] == ["portable"]


def test_without_the_library_numpy_reads_and_the_peak_is_unknown(monkeypatch):
    def none():
        raise Unavailable("kernel.no_compiler", "no compiler")

    monkeypatch.setattr(probes, "library", none)
    found = probes.bandwidth(SIZE)
    assert found.form == "numpy" and found.gb_s > 0
    peak = probes.int8_peak()
    assert peak.tops is None and "no compiler" in peak.reason
    assert np.isnan(peak.again())


def test_a_buffer_is_as_large_as_memory_allows_and_never_a_cache(monkeypatch):
    monkeypatch.setattr(pages, "memory_available", lambda: 1 << 30)
    assert probes.buffer_bytes() == 256 << 20
    assert probes.buffer_bytes(64 << 20) == 64 << 20
    monkeypatch.setattr(pages, "memory_available", lambda: 0)
    assert probes.buffer_bytes() == 32 << 20
    with pytest.raises(UsageError, match="caches"):
        probes.buffer_bytes(1 << 20)


def test_thread_counts():
    assert probes.thread_counts(1) == [1]
    assert probes.thread_counts(2) == [1, 2]
    assert probes.thread_counts(6) == [1, 2, 4, 6]
    assert probes.thread_counts(8) == [1, 2, 4, 8]
