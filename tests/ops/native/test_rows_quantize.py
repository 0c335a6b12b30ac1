"""A matrix quantized by rows: the library and numpy give the bytes of `quant.kinds`."""

import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.ops.native.rows_quantize import quantize_rows
from bitnet_jax.quant.kinds import quantize_weights
from bitnet_jax.quant.layouts import LAYOUT_OF, pack_codes

KINDS = ("int8", "int6", "int4")


def weights(rng, shape, dtype):
    w = (rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 3, (*shape[:-1], 1))).astype(dtype)
    w[0] = 0  # the smallest scale
    # Codes that lie on a half, in a row whose scale is a power of two.
    halves = np.arange(shape[1]) % 12 - 5.5
    w[1] = np.where(np.arange(shape[1]) == 0, 127, halves).astype(dtype)
    return w


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16], ids=str)
@pytest.mark.parametrize("shape", [(2, 1), (5, 63), (131, 130), (70, 517)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_are_those_of_the_definition(by, rng, kind, shape, dtype):
    w = weights(rng, shape, dtype)
    found = quantize_rows([w[:3], w[3:]], shape, kind)
    found.verify("w")
    codes, scale = quantize_weights(w.astype(np.float32), kind, "row", scale_dtype="float32")
    np.testing.assert_array_equal(found.scale, scale)
    np.testing.assert_array_equal(found.codes, pack_codes(codes, LAYOUT_OF[kind]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=str)
def test_what_is_no_number_is_refused(by, rng, dtype, value):
    w = weights(rng, (70, 40), dtype)
    w[66, 33] = value
    with pytest.raises(BadData, match="`lm_head` holds NaN") as caught:
        quantize_rows([w], w.shape, "int6", name="lm_head")
    assert caught.value.code == "weights.not_finite"


def test_an_unknown_kind_is_told():
    with pytest.raises(UsageError, match="no kind of weight 'int5'"):
        quantize_rows([], (2, 2), "int5")
