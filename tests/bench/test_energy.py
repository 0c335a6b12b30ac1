from __future__ import annotations

import pytest

from bitnet_jax.bench.energy import energy


@pytest.fixture
def powercap(tmp_path):
    for name, value in (("intel-rapl:0", 1_000_000), ("intel-rapl:0:0", 7), ("intel-rapl:1", 500)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("2000000\n")
    return tmp_path


def test_packages_are_summed_and_their_parts_are_not(powercap):
    found, words = energy(powercap)
    assert words == "intel-rapl:0, intel-rapl:1"
    before = found.read()
    (powercap / "intel-rapl:0/energy_uj").write_text("1500000")
    (powercap / "intel-rapl:1/energy_uj").write_text("1000500")
    assert found.since(before) == pytest.approx(1.5)


def test_a_counter_that_began_again(powercap):
    found, _ = energy(powercap)
    before = found.read()
    (powercap / "intel-rapl:0/energy_uj").write_text("0")
    assert found.since(before) == pytest.approx(1.0)


def test_why_there_is_none(tmp_path, powercap):
    assert energy(tmp_path / "none")[0] is None
    (powercap / "intel-rapl:0/energy_uj").write_text("x")
    found, words = energy(powercap)
    assert found is None and "cannot be read" in words
