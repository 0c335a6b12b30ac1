from __future__ import annotations

import itertools

import pytest

from bitnet_jax.bench import checks
from bitnet_jax.bench.checks import CHECKS, Check, Found
from bitnet_jax.bench.validate import bench_validate
from bitnet_jax.core.errors import CheckFailed, Unavailable, UsageError
from bitnet_jax.ops.native import library

# What takes no second here, and no memory to speak of.
LIGHT = ("device", "compiler", "kernel library", "kernels, edges of tiles", "other work")


def row(record, name):
    return next(row for row in record["checks"] if row["name"] == name)


def test_this_machine_passes_what_is_light():
    chosen = tuple(check for check in CHECKS if check.name in (*LIGHT, "forms on this device"))
    record = bench_validate(quick=True, checks=chosen)
    assert record["passed"] and not record["failed"] and len(record["checks"]) == len(chosen)
    assert "every bit equal" in row(record, "kernels, edges of tiles")["message"]
    assert row(record, "kernel library")["found"]["instruction_sets"]
    assert record["machine"]["cores"] >= 1


def test_the_quick_checks_are_of_a_minute_and_the_others_more():
    quick = [check for check in CHECKS if check.quick]
    assert sum(check.seconds for check in quick) < 40 and len(quick) < len(CHECKS)
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def fine(name, seconds=1.0, quick=True):
    return Check(name, seconds, quick, lambda device: Found("fine"))


def test_the_budget_is_told_before_anything_runs():
    told = []

    def first(device):
        told.append("first check")
        return Found("fine")

    bench_validate(say=told.append, checks=(Check("a", 3, True, first), fine("b", 4, False)))
    assert told[0].startswith("1 checks: about 3 seconds") and told[1] == "first check"
    told.clear()
    bench_validate(say=told.append, comprehensive=True, checks=(fine("a", 3), fine("b", 4, False)))
    assert told == ["2 checks: about 7 seconds on two idle cores"]


def test_a_busy_machine_does_not_make_quick_slow():
    now = itertools.count(step=20.0)
    chosen = tuple(fine(name) for name in "abcd")
    record = bench_validate(quick=True, checks=chosen, clock=lambda: next(now))
    assert [one["name"] for one in record["checks"]] == ["a"]
    assert record["skipped"] == ["b", "c", "d"] and "no time was left" in record["warnings"][0]
    now = itertools.count(step=20.0)
    record = bench_validate(comprehensive=True, checks=chosen, clock=lambda: next(now))
    assert not record["skipped"] and len(record["checks"]) == 4


def test_a_check_that_does_not_hold_is_a_row_with_its_fix():
    def wrong(device):
        raise CheckFailed("bench.x", "it is broken", "mend it")

    record = bench_validate(checks=(Check("x", 1, True, wrong), fine("y")))
    assert record["failed"] == ["x"] and not record["passed"]
    found = row(record, "x")
    assert (found["code"], found["message"], found["fix"]) == ("bench.x", "it is broken", "mend it")
    assert row(record, "y")["passed"]


def test_no_compiler_and_no_kernels_is_a_finding(monkeypatch, tmp_path):
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    chosen = tuple(c for c in CHECKS if c.name in ("compiler", "kernel library", "int8 peak"))
    record = bench_validate(checks=chosen)
    assert record["failed"] == ["compiler", "kernel library", "int8 peak"]
    assert row(record, "compiler")["code"] == "kernel.no_compiler"
    assert "install g++" in row(record, "compiler")["fix"]


def test_a_corrupt_prebuilt_kernel_is_a_finding(monkeypatch, tmp_path):
    from bitnet_jax.ops.native import build

    folder = tmp_path / "kernels"
    folder.mkdir(mode=0o755)
    name = build.name_prefix() + "00000000" + build.this_system().suffix
    (folder / name).write_bytes(b"no library")
    monkeypatch.setenv("BITNET_KERNELS", str(folder))
    record = bench_validate(checks=tuple(c for c in CHECKS if c.name == "kernel library"))
    assert row(record, "kernel library")["code"] == "kernel.prebuilt_corrupt"
    assert "bitnet dev build" in row(record, "kernel library")["fix"]


def test_a_kernel_that_gives_one_other_bit_is_found(monkeypatch):
    real = library.Library.run

    def wrong(self, isa, sizes, x, codes, scale, y, threads=1, entry="bitnet_run"):
        real(self, isa, sizes, x, codes, scale, y, threads, entry)
        if isa == "portable":
            y.view("uint32").reshape(-1)[-1] ^= 1

    monkeypatch.setattr(library.Library, "run", wrong)
    with pytest.raises(CheckFailed, match="`portable` kernel differs"):
        checks._kernels(checks.SMALL[:1])("cpu")


def test_too_little_memory_and_no_huge_pages(monkeypatch):
    monkeypatch.setattr(checks, "memory_available", lambda: 1 << 30)
    with pytest.raises(Unavailable, match=r"1\.0 GiB"):
        checks._memory("cpu")
    monkeypatch.setattr(checks, "memory_available", lambda: 8 << 30)
    monkeypatch.setattr(checks, "huge_pages", lambda: "never")
    assert "2 MiB pages" in checks._memory("cpu").warnings[0]


def test_other_work_is_told(monkeypatch):
    monkeypatch.setattr(checks, "load_average", lambda: 99.0)
    assert "99.0 processes" in checks._quiet("cpu").warnings[0]
    monkeypatch.setattr(checks, "load_average", lambda: None)
    assert not checks._quiet("cpu").warnings


@pytest.mark.parametrize(
    ("asked", "error", "code"),
    [
        ({"quick": True, "comprehensive": True}, UsageError, "bench.clash"),
        ({"device": "gppu"}, UsageError, "device.unknown"),
        ({"device": "tpu"}, Unavailable, "device.missing"),
    ],
)
def test_what_cannot_be_asked(asked, error, code):
    with pytest.raises(error) as caught:
        bench_validate(**asked)
    assert caught.value.code == code
