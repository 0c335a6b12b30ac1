from __future__ import annotations

import math

import pytest

from bitnet_jax.bench import room
from bitnet_jax.bench.run import _doubts, bench_run
from bitnet_jax.bench.sizes import fit
from bitnet_jax.bench.steps import decode_row, operations, read_bytes
from bitnet_jax.core.errors import NoInput, Unavailable, UsageError
from bitnet_jax.formats.create import create
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.runtime.model import load
from bitnet_jax.targets.choose import choose

PROBE = 32 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "tiny.bitnet"
    save_checkpoint(create("tiny", layers=1), path, format="bitnet")
    return path


@pytest.fixture(scope="module")
def record(model):
    return bench_run(
        model,
        batch_sizes=(2, 1, 2),
        prompt_tokens=20,
        decode_tokens=6,
        count=3,
        probe_bytes=PROBE,
    )


def test_one_row_for_each_phase_and_batch(record):
    rows = [(r["phase"], r["batch"], r["tokens"]) for r in record["results"]]
    assert rows == [("prefill", 1, 20), ("prefill", 2, 20), ("decode", 1, 6), ("decode", 2, 6)]
    for row in record["results"]:
        speed = row["tokens_per_second"]
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]
        assert speed["count"] == len(speed["values"]) == len(row["beside_gb_s"]) == 3
        low, high = row["bandwidth_share_interval"]
        assert 0 < low <= row["bandwidth_share"] <= high
        assert row["kernel"].startswith("native")
    assert record["profile"] == "exact" and record["schema"] == "bench-run/1"


def test_bytes_per_token_are_weights_once_for_all_and_each_row_its_cache(model, record):
    engine = load(model).engine
    weights = read_bytes(engine.packed, engine.spec, 1, 1)
    assert weights == record["receipt"]["weight_bytes"] + record["receipt"]["float_bytes"]
    # Two buffers of one layer, two heads of 16 floats, over the 16 tokens before and half of six.
    kv = 2 * 2 * 16 * 4 * (16 + 3.5)
    one, two = (r["bytes_per_token"] for r in record["results"] if r["phase"] == "decode")
    assert (one, two) == (weights + kv, weights / 2 + kv)
    trits = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 128
    assert operations(engine.packed) == 2 * trits


def test_a_table_that_is_only_looked_up_counts_by_the_row(model):
    import dataclasses

    engine = load(model).engine
    table = engine.packed.leaves["embed_tokens"]
    untied = dataclasses.replace(engine.spec, tie_embeddings=False)
    less = read_bytes(engine.packed, engine.spec, 1, 1) - read_bytes(engine.packed, untied, 1, 1)
    assert less == table.nbytes - table.shape[1] * table.dtype.itemsize
    more = read_bytes(engine.packed, untied, 4, 2) - read_bytes(engine.packed, untied, 1, 1)
    assert more == 7 * table.shape[1] * table.dtype.itemsize


def test_the_receipt_proves_that_weights_stay_packed(record):
    receipt = record["receipt"]
    assert receipt["unpacked_weights"] == 0 and receipt["smallest_weight"] == 32 * 64
    assert receipt["weight_bytes"] == pytest.approx((64 * 192 + 3 * 64 * 128) / 4, rel=0.01)
    assert [(p["phase"], p["batch"]) for p in receipt["programs"]] == [
        (r["phase"], r["batch"]) for r in record["results"]
    ]
    decode = receipt["programs"][2]
    assert decode["largest_buffer_bytes"] > 0 and len(decode["hlo_sha256"]) == 64


def test_the_roofline_bounds_its_points_by_memory_and_arithmetic(record):
    roofline, gb_s = record["roofline"], record["bandwidth_gb_s"]
    for x, limit in zip(roofline["operations_per_byte"], roofline["limit_tops"], strict=True):
        assert limit == pytest.approx(min(record["int8_peak_tops"], x * gb_s / 1e3))
    assert len(roofline["points"]) == 4
    assert roofline["operations_per_byte"] == sorted(roofline["operations_per_byte"])


def test_token_times_are_set_beside_the_clock(record):
    check = record["consistency"]
    assert check["tokens"] == [192, 64] and check["repeats"] >= 1
    assert math.isfinite(check["ratio"]) and isinstance(check["agrees"], bool)


def test_what_the_context_cannot_hold_is_said_or_refused(model):
    spec, warnings = open_checkpoint(model).spec, []
    assert fit(spec, None, None, warnings) == (256, 64)
    assert len(warnings) == 1 and "256 tokens, not 512" in warnings[0]
    assert fit(spec, 256, 240, warnings) == (256, 240) and len(warnings) == 1
    for sizes in ({"prompt_tokens": 257}, {"decode_tokens": 241}):
        with pytest.raises(UsageError, match="context is 256"):
            bench_run(model, **sizes)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"batch_sizes": (0,)}, "bench.size"),
        ({"batch_sizes": (-1,)}, "bench.size"),
        ({"batch_sizes": ()}, "bench.size"),
        ({"batch_sizes": (1.5,)}, "bench.size"),
        ({"prompt_tokens": 0}, "bench.size"),
        ({"decode_tokens": -3}, "bench.size"),
        ({"device": "gppu"}, "device.unknown"),
        ({"probe_bytes": 1000}, "bench.probe_size"),
        ({"count": 0}, "bench.size"),
    ],
)
def test_what_is_no_size_and_no_device_is_a_usage_error(model, asked, code):
    with pytest.raises(UsageError) as caught:
        bench_run(model, **asked)
    assert caught.value.code == code


def test_what_is_not_here_is_unavailable(model, tmp_path, monkeypatch):
    for device in ("tpu", "cuda", "gpu", "metal", "mlx"):
        with pytest.raises(Unavailable) as caught:
            choose(device)
        assert caught.value.code == "device.missing" and caught.value.hint
    assert choose("auto") == choose("cpu")
    # Before the machine is measured, which takes longer than a model.
    monkeypatch.setattr("bitnet_jax.bench.run.host_probes", None)
    for wrong in ({"head": "int7"}, {"layout": "t3"}, {"threads": 0}, {"kv": "int3"}):
        with pytest.raises(UsageError):
            bench_run(model, **wrong)
    with pytest.raises(NoInput):
        bench_run(tmp_path / "none.bitnet")


def test_a_batch_that_cannot_fit_is_refused_before_anything_is_loaded(model, monkeypatch):
    monkeypatch.setattr("bitnet_jax.bench.holding.Model", None)  # it would be a TypeError
    with pytest.raises(Unavailable, match="batch 10000000 of 256 tokens") as caught:
        bench_run(model, batch_sizes=(10_000_000,), probe_bytes=PROBE)
    assert caught.value.code == "bench.memory"


def test_a_compiled_program_that_cannot_fit_is_refused(model, monkeypatch):
    step = load(model).engine.decode_executable(1, 256)
    room.check_compiled(step, "decode 1")
    monkeypatch.setattr(room, "memory_available", lambda: 10)
    with pytest.raises(Unavailable, match="decode 1 takes"):
        room.check_compiled(step, "decode 1")
    engine = load(model).engine
    engine.new_cache = None  # it would be a TypeError: nothing is allotted first
    with pytest.raises(Unavailable, match="a decode of batch 1 takes"):
        decode_row(engine, 1, 4)


def test_what_makes_figures_doubtful_is_said():
    row = {"phase": "decode", "batch": 1, "bandwidth_share": 0.9, "int8_share": None}
    quiet, busy = ({"load_average": load, "cores": 2} for load in (0.5, 5.0))
    assert _doubts([row], quiet) == []
    assert "5.0 processes" in _doubts([row], busy)[0]
    assert "120% of what memory" in _doubts([{**row, "bandwidth_share": 1.2}], quiet)[0]
    assert "decode, batch 1 is at 150%" in _doubts([{**row, "int8_share": 1.5}], quiet)[0]
    assert _doubts([row], {"load_average": None, "cores": None}) == []
