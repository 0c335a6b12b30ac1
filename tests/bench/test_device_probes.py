from __future__ import annotations

from bitnet_jax.bench import device_probes


def test_a_devices_memory_is_read_through_xla():
    found = device_probes.bandwidth(8 << 20)
    assert found.form == "xla" and found.bytes == 8 << 20 and len(found.values) == 3
    assert 0 < found.gb_s < 1e4 and found.again() > 0


def test_a_devices_int8_products():
    peak = device_probes.int8_peak(256)
    assert peak.form == "xla" and 0 < peak.tops < 1e4 and peak.reason is None


def test_work_a_second(monkeypatch):
    import jax.numpy as jnp

    clock = iter([10.0, 10.5])
    monkeypatch.setattr(device_probes.time, "perf_counter", lambda: next(clock))
    assert device_probes._rate(lambda: jnp.ones(()), 4.0)() == 8.0
