"""Codes of int8, int6 and int4 in a file: what is no code of the kind, and what is no padding."""

import numpy as np
import pytest

from bitnet_jax.containers import native_codes
from bitnet_jax.core.errors import BadData
from bitnet_jax.quant.kinds import KINDS
from bitnet_jax.quant.layouts import LAYOUT_OF, LAYOUTS, pack_codes

INTEGERS = ("int8", "int6", "int4")


def packed(kind, shape=(2, 5, 7), seed=0):
    high = KINDS[kind].high
    codes = np.random.default_rng(seed).integers(-high, high + 1, shape).astype(np.int8)
    return pack_codes(codes, LAYOUT_OF[kind]).view(np.uint8)


def test_the_layouts_are_those_of_the_tensors():
    assert list(native_codes.LAYOUTS) == list(LAYOUTS)
    for name, layout in native_codes.LAYOUTS.items():
        for out, inputs in ((1, 1), (16, 80), (17, 81), (5, 7)):
            assert layout.shape(out, inputs) == LAYOUTS[name].shape(out, inputs)
        assert layout.group_step == LAYOUTS[name].group_step
    kinds = {layout.kind for layout in native_codes.LAYOUTS.values()}
    assert kinds == set(KINDS) == set(native_codes.KINDS)


@pytest.mark.parametrize("inputs", range(1, 9))
@pytest.mark.parametrize("kind", INTEGERS)
def test_what_packing_makes_is_legal(kind, inputs):
    codes = packed(kind, (3, 4, inputs))
    native_codes.check_codes("w", codes, LAYOUT_OF[kind], 4, inputs, "here")


@pytest.mark.parametrize(
    ("kind", "at", "bits", "where"),
    [
        ("int8", (1, 3, 6), 0x80, [1, 3, 6]),
        ("int4", (1, 3, 2), 0x08, [1, 3, 4]),
        ("int4", (1, 3, 2), 0x80, [1, 3, 5]),
        ("int6", (1, 3, 0), 0x20, [1, 3, 0]),
        ("int6", (1, 3, 4), 0x08, [1, 3, 5]),  # bit 5 of columns 5: bits 6 to 11 of 24
    ],
)
def test_the_lowest_number_is_no_code_and_is_located(kind, at, bits, where):
    codes = packed(kind)
    codes[...] = 0
    codes[at] = bits
    with pytest.raises(BadData) as caught:
        native_codes.check_codes("w", codes, LAYOUT_OF[kind], 5, 7, "here")
    assert caught.value.code == "bitnet.illegal_code"
    assert str(where) in caught.value.message and "1 codes" in caught.value.message


@pytest.mark.parametrize(("kind", "byte"), [("int4", 0x10), ("int6", 0x04)])
def test_padding_must_be_zero(kind, byte):
    codes = packed(kind)
    codes[0, 2, -1] |= byte
    with pytest.raises(BadData) as caught:
        native_codes.check_codes("w", codes, LAYOUT_OF[kind], 5, 7, "here")
    assert caught.value.code == "bitnet.padding"
