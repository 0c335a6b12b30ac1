"""Packed rows of `transformers` from and to our layout, without a byte for each trit."""

import numpy as np
import pytest

from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.huggingface_packing import from_lines, pack, to_lines
from bitnet_jax.quant.packing import pack_trits

# Multiples of what is turned at once, and what has edges in either direction.
SHAPES = [(64, 16), (128, 48), (1024, 640), (192, 32), (65, 16), (64, 17), (8, 8), (2560, 4112)]


@pytest.mark.parametrize("shape", SHAPES)
def test_both_ways_as_through_trits(shape):
    trits = np.random.default_rng(0).integers(-1, 2, shape).astype(np.int8)
    packed, codes = pack(trits), pack_trits(trits)
    assert np.array_equal(to_lines(packed, shape[0], "w", "m"), codes)
    assert np.array_equal(from_lines(codes, *shape), packed)


@pytest.mark.parametrize("at", [(0, 0), (15, 47), (31, 9)])
def test_a_code_that_is_no_trit_is_named_with_its_place(at):
    packed = pack(np.zeros((128, 48), np.int8))
    packed[at] |= 3 << 4
    with pytest.raises(BadData, match=rf"\[{64 + at[0]}, {at[1]}\]"):
        to_lines(packed, 128, "w", "m")
