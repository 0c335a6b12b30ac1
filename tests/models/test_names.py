"""The names table, both ways."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.shapes import shape
from bitnet_jax.models.names import expected, from_huggingface, table, to_huggingface

TINY = shape("tiny")


def test_every_name_goes_there_and_back():
    for name, item in expected(TINY).items():
        assert to_huggingface("bitnet", name) == item.huggingface
        assert from_huggingface("bitnet", item.huggingface) == name


def test_names_not_in_the_table_have_no_translation():
    for name in ("model.layers.x.input_layernorm.weight", "layers.0.mlp", "modelXnorm.weight"):
        assert from_huggingface("bitnet", name) is None


def test_shapes_and_count_of_the_released_model():
    params = expected(shape("bitnet-2b-4t"))
    assert params["layers.29.self_attn.k_proj"].shape == (640, 2560)
    assert params["layers.0.mlp.down_proj"].shape == (2560, 6912)
    assert "lm_head" not in params
    sizes = {
        ternary: sum(
            p.shape[0] * (p.shape[1] if len(p.shape) > 1 else 1)
            for p in params.values()
            if p.ternary is ternary
        )
        for ternary in (True, False)
    }
    assert sizes[True] == 2_084_044_800
    assert sum(sizes.values()) == 2_412_820_480


def test_rows_that_a_spec_does_without():
    assert "lm_head" in expected(replace(TINY, tie_embeddings=False))
    assert not any("sub_norm" in name for name in expected(replace(TINY, sub_norms=False)))


def test_an_unknown_family_lists_the_known():
    with pytest.raises(BadData) as caught:
        table("bitnett")
    assert caught.value.code == "model.unknown_family" and "bitnet" in caught.value.hint
