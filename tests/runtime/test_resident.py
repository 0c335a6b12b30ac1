"""Tensors on the device: heads quantized as they are read, floats widened exactly, damage told."""

import ml_dtypes
import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core import pages
from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.ops.native.rows_quantize import quantize_rows
from bitnet_jax.runtime import resident
from bitnet_jax.runtime.resident import to_device


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resident")
    bj.create(shape="tiny", output=folder / "m.bitnet", seed=3)
    return folder / "m.bitnet"


@pytest.mark.parametrize("piece", [1, 200, 1 << 20])
@pytest.mark.parametrize("kind", resident.HEADS)
def test_a_head_in_pieces_is_the_head_at_once(path, monkeypatch, kind, piece):
    monkeypatch.setattr(resident, "_PIECE", piece)
    checkpoint = open_checkpoint(path)
    found = to_device(checkpoint, kind).leaves["embed_tokens"]
    whole = np.asarray(checkpoint.read("embed_tokens"))
    want = quantize_rows([whole], whole.shape, kind)
    np.testing.assert_array_equal(found.codes, want.codes)
    np.testing.assert_array_equal(found.scale, want.scale)


def test_a_flipped_bit_of_a_head_that_is_read_in_pieces_is_told(path, tmp_path):
    data = bytearray(path.read_bytes())
    table = np.asarray(open_checkpoint(path).read("embed_tokens"))
    at = bytes(data).index(table[7].tobytes())
    data[at] ^= 1  # still a number
    damaged = tmp_path / "m.bitnet"
    damaged.write_bytes(data)
    with pytest.raises(BadData, match="`embed_tokens`") as caught:
        bj.load(damaged, head="int6")
    assert caught.value.code == "bitnet.checksum"


def test_bfloat16_becomes_float32_exactly():
    # Every bfloat16 there is.
    narrow = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    wide = resident._widened(narrow)
    np.testing.assert_array_equal(wide.view(np.uint32) >> 16, narrow.view(np.uint16))
    assert not (wide.view(np.uint32) & 0xFFFF).any() and wide.dtype == np.float32


def test_what_was_read_onto_large_pages_is_not_copied(path):
    held = pages.Pages().empty((1 << 18,), np.dtype(np.float32))
    held[:] = 3
    assert pages.is_held(held) and pages.is_held(held[5:].reshape(-1, 1))
    assert not pages.is_held(np.ones(4)) and not pages.is_held(held.copy())
    put = resident._Place(None, None)._put(held)
    assert put.unsafe_buffer_pointer() == held.ctypes.data
