from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitnet_jax.core import pages


@pytest.mark.parametrize("huge", [True, False])
def test_a_buffer_is_aligned_present_and_writable(huge):
    held = pages.buffer(3 << 20, huge=huge)
    assert held.shape == (3 << 20,) and held.dtype == np.uint8
    assert held.ctypes.data % pages.HUGE == 0
    assert not held.any()
    assert pages.touched(held) is held
    firsts = {bytes(held[at : at + 4096]) for at in range(0, held.size, 4096)}
    assert len(firsts) == held.size // 4096  # no two pages alike
    held[:] = 7
    assert held.sum(dtype=np.int64) == 7 * held.size


def test_a_system_that_refuses_the_advice_gives_what_it_has(monkeypatch):
    monkeypatch.setitem(pages._ADVICE, True, "NO_SUCH_ADVICE")
    assert pages.buffer(4096, huge=True).size == 4096
    assert pages.page_sizes() == (False,)


def test_what_is_free_is_less_than_what_there_is():
    import psutil

    assert 0 < pages.memory_available() <= psutil.virtual_memory().total


def test_a_groups_limit_holds(monkeypatch, tmp_path):
    limit, used = tmp_path / "max", tmp_path / "current"
    limit.write_text("5000\n")
    used.write_text("2000\n")
    monkeypatch.setattr(pages, "_GROUPS", ((str(limit), str(used)),))
    assert pages.memory_available() == 3000
    used.write_text("6000")
    assert pages.memory_available() == 0
    limit.write_text("max")
    assert pages.memory_available() > 6000


def test_how_the_system_gives_huge_pages_is_one_word():
    assert pages.huge_pages() in ("always", "madvise", "never", "unknown")


def test_the_peak_of_a_process(monkeypatch):
    import os
    import subprocess
    import sys

    import psutil

    own = pages.peak_resident(os.getpid())
    assert own >= 0.9 * psutil.Process().memory_info().rss
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert pages.peak_resident(ended.pid) is None
    monkeypatch.setattr(pages, "Path", lambda name: Path("/nowhere"))  # a system without procfs
    assert 0 < pages.peak_resident(os.getpid()) <= own * 1.1
