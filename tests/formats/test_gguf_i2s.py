"""One number, several layouts: what can be told of an I2_S file is told, and the rest is said."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.gguf_i2s import LAYOUTS, OURS
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.models.names import gguf_names
from bitnet_jax.quant.ternary import from_trits, ternarize
from tests.formats import gguf_edit as edit
from tests.formats import gguf_models as made

SPEC = made.wide(hidden_size=512, intermediate_size=512, head_dim=128)


def pack(trits: np.ndarray, layout: str) -> np.ndarray:
    """The body of an I2_S tensor in any of the layouts that were written under its number."""
    codes = (trits + 1).astype(np.uint8)
    if "rows" in layout:
        groups = codes.reshape(-1, 4, codes.shape[1]).transpose(1, 0, 2)
    elif "consecutive" in layout:
        groups = codes.reshape(-1, 4).T
        groups = groups[::-1] if "low" in layout else groups
    else:
        groups = codes.reshape(-1, 4, 32 if layout == OURS else 16).transpose(1, 0, 2)
    return (groups[0] << 6 | groups[1] << 4 | groups[2] << 2 | groups[3]).reshape(-1)


def trained_like(spec):
    """Columns as training leaves them: where the norm is large, so are the weights behind it."""
    model = made.model(spec)
    rng = np.random.default_rng(3)
    entries = dict(model.entries)
    size = np.exp(0.5 * rng.standard_normal(spec.hidden_size)).astype(np.float32)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        name = f"layers.0.{norm}"
        entries[name] = dataclasses.replace(entries[name], read=lambda: size)
    for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj"):
        name = f"layers.0.{part}"
        weights = rng.standard_normal(entries[name].shape) * size
        trits, scale = ternarize(weights.astype(np.float32))
        tensor = from_trits(np.asarray(trits), np.asarray(scale))
        entries[name] = dataclasses.replace(entries[name], read=lambda tensor=tensor: tensor)
    return dataclasses.replace(model, entries=entries)


def repacked(model, layout, folder):
    """The file that another build of bitnet.cpp would have written."""
    path = folder / "m.gguf"
    save_checkpoint(model, folder / "ours.gguf", encoding="i2_s", force=True)
    edit.without_ours(folder / "ours.gguf", path)
    for name, theirs in gguf_names(model.spec).items():
        if model.entries[name].ternary:
            body = pack(np.asarray(model.read(name).trits()), layout)

            def put(data, body=body):
                data[:-32] = body

            edit.tensor(path, theirs, put)
    return path


@pytest.fixture(scope="module")
def trained():
    return trained_like(SPEC)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_585_598_600_another_layout_under_the_same_number_is_refused(layout, trained, tmp_path):
    """microsoft/BitNet#585, #598, #600: 64/16 read as 128/32 is garbage ("GGGG")."""
    path = repacked(trained, layout, tmp_path)
    found = open_checkpoint(path)
    assert any("I2_S names several layouts" in warning for warning in found.warnings)
    name = "layers.0.mlp.down_proj"  # whichever is read first
    if layout == OURS:
        assert found.digest() == trained.digest()
        return
    with pytest.raises(BadData, match="its I2_S tensors are not 128 elements") as caught:
        found.read(name)
    assert caught.value.code == "gguf.i2s_layout" and layout.split(" (")[0] in caught.value.message


def test_in_trits_without_structure_nothing_tells_and_that_is_said(tmp_path):
    model = made.model(SPEC)
    for layout in LAYOUTS:
        found = open_checkpoint(repacked(model, layout, tmp_path))
        assert any("nothing in the file says which" in warning for warning in found.warnings)
        assert (found.digest() == model.digest()) == (layout == OURS)
        (tmp_path / "m.gguf").unlink()


def test_our_own_files_state_their_digest_and_need_no_guess(trained, tmp_path):
    save_checkpoint(trained, tmp_path / "m.gguf", encoding="i2_s")
    assert not open_checkpoint(tmp_path / "m.gguf").warnings


def test_half_of_the_trits_are_wrong_in_another_layout():
    """Why it matters: what the wrong kernel sees keeps the histogram and loses the model."""
    trits = np.random.default_rng(0).integers(-1, 2, (64, 256)).astype(np.int8)
    arm = "64 elements in 16 bytes (bitnet.cpp on ARM)"
    read = pack(trits, arm).reshape(-1, 1, 32) >> np.array([[6], [4], [2], [0]], np.uint8) & 3
    share = (read.reshape(trits.shape).astype(int) - 1 == trits).mean()
    assert 0.4 < share < 0.6
