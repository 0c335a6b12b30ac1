"""The order that `quant analyze` predicts, against the one that it measures: trained models."""

import pytest

from bitnet_jax.workflows.quant_analyze import quant_analyze
from tests.workflows.float_models import trained


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_predicted_order_is_the_measured_one(seed, tmp_path):
    """At least 24 linears: each quantized by itself, and each left out of the quantization."""
    loss = trained(tmp_path / "m.hf", seed)
    assert loss < 5.0, "it has learned nothing: ln 512 is 6.2"
    record = quant_analyze(tmp_path / "m.hf", seed=seed, length=64, tokens=2048)
    assert len(record["layers"]) >= 24
    for question in ("alone", "kept"):
        agreement = record["order"][question]["agreement"]
        print(f"seed {seed}, {question}: {agreement}")
        assert agreement["spearman"] >= 0.8, question
        assert agreement["low"] >= 0.6, question
    change = record["price"]["loss_change"]
    assert 0 < change["low"] <= change["value"] <= change["high"]
