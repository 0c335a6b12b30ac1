"""A tensor in the other layout: the library and numpy give the same bytes."""

import numpy as np
import pytest

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.ops.native import library as native
from bitnet_jax.ops.native.repack import repack
from bitnet_jax.quant.tensor import from_codes

LAYOUTS = ("t2.16x16", "t1.16x20")


@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (2, 40, 160), (300, 2561)], ids=str)
@pytest.mark.parametrize("to", LAYOUTS)
def test_there_and_back(by, rng, shape, to):
    trits = rng.integers(-1, 2, shape).astype(np.int8)
    plain, packed = (from_codes(trits, np.ones(shape[:-2], np.float32), layout=x) for x in LAYOUTS)
    source, wanted = (packed, plain) if to == "t2.16x16" else (plain, packed)
    turned = repack(source, to)
    turned.verify("w")
    np.testing.assert_array_equal(turned.codes, wanted.codes)
    assert turned.layout == to and repack(turned, to) is turned


def test_what_cannot_be_is_refused(by, rng):
    trits = rng.integers(-1, 2, (4, 32)).astype(np.int8)
    w = from_codes(trits, np.ones((4, 2), np.float32), scale_kind="group", group_size=16)
    with pytest.raises(BadData, match="`layers.0` has a scale for every 16") as caught:
        repack(w, "t1.16x20", "layers.0")
    assert caught.value.code == "tensor.group_size"
    with pytest.raises(UsageError, match="`t1.16` is no layout") as caught:
        repack(w, "t1.16")
    assert caught.value.code == "tensor.layout_unknown"


@pytest.mark.parametrize(("layout", "byte"), [("t2.16x16", 0b11), ("t1.16x20", 243)])
def test_a_code_that_is_no_trit_is_not_passed_on(rng, layout, byte):
    if not native.status().available:
        pytest.skip(f"no C++ kernels: {native.status().reason}")
    w = from_codes(rng.integers(-1, 2, (4, 32)).astype(np.int8), np.float32(1), layout=layout)
    w.codes[0, 0, 5] = byte
    with pytest.raises(BadData) as caught:
        repack(w, next(other for other in LAYOUTS if other != layout))
    assert caught.value.code == "tensor.not_ternary"
