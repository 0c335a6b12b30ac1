"""What the engine's passes make of each family: fused where the parts fit, as it is elsewhere."""

import numpy as np
import pytest

from bitnet_jax.models.families import family_of
from bitnet_jax.passes.pack import pack
from tests.passes.test_serving import ops, program_of
from tests.tiny import tiny_of

LLAMA3 = {
    "rope_type": "llama3", "rope_factor": 8.0, "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0, "rope_original_positions": 32,
}  # fmt: skip
# Of each two-layer model: the gate that is no squared ReLU stays an op of its own; dense_matmul is
# the head, and in Phi the mean of each LayerNorm too.
GATED = {"fused_linears": 8, "cached_attention": 2, "gated_activation": 2, "dense_matmul": 1}
EXPECTED = {
    "llama": (LLAMA3, GATED | {"rms_norm": 1}),
    # A norm in each linear: it stands before each product by itself. Outside are two a layer.
    "llama, norms inside": (
        {"linear_norms": True}, GATED | {"fused_linears": 14, "rms_norm": 5}),
    "mistral": ({"sliding_window": 5}, GATED | {"rms_norm": 1}),
    # Queries and keys are normed one by one.
    "qwen3": ({}, GATED | {"rms_norm": 5}),
    # A layer that turns nothing is not fused, and another is.
    "smollm3": (
        {"rope_layers": "rn"},
        GATED | {"rms_norm": 1, "cached_attention": 1, "attention": 1, "cache_write": 2}),
    # Half of each head is turned.
    "phi": (
        {},
        {"fused_linears": 6, "rotary": 4, "attention": 2, "cache_write": 4, "rms_norm": 3,
         "dense_matmul": 4}),
}  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", EXPECTED)
def test_what_is_fused(case):
    extra, wanted = EXPECTED[case]
    name = case.partition(",")[0]
    spec = tiny_of(name, hidden_size=48, head_dim=16, extra=extra)
    family = family_of(name)
    packed = pack(
        family.forward(spec), family.init(spec, 0), family.rules, np.zeros((1, 2), np.int32)
    )
    zero = np.zeros(1, np.int32)
    args = (np.zeros((1, 1), np.int32), family.cache(spec, 1, 32), zero, zero)
    assert ops(program_of(family.step(spec), packed, *args)) == wanted
