"""Row- and group-scaled ternary, from float checkpoints through every format and back."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from bitnet_jax.core.errors import BadData, CannotCreate
from bitnet_jax.formats.huggingface_config import Quantization, spell
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.models.names import expected
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.runtime.engine import Engine
from bitnet_jax.runtime.resident import to_device
from bitnet_jax.runtime.sampling import SamplingParams
from tests.tiny import tiny_of

SPECS = {
    "llama": tiny_of("llama", hidden_size=64, head_dim=16),
    "phi3": tiny_of("phi3", hidden_size=64, head_dim=16),
}
KINDS = [("row", 0), ("group", 16)]


def checkpoint(folder, spec, kind, group, dtype=np.float32, **config):
    """Floats that are trits times scales, fused where the family's files are; what they are of."""
    rng = np.random.default_rng(0)
    data, trits, scales = {}, {}, {}
    for name, item in expected(spec).items():
        if not item.ternary:
            value = rng.standard_normal(item.shape).astype(dtype)
        else:
            outputs, inputs = item.shape
            t = rng.integers(-1, 2, item.shape).astype(np.int8)
            t[:, ::16] = 1
            shape = (outputs,) if kind == "row" else (outputs, inputs // group)
            s = rng.uniform(0.5, 2, shape).astype(dtype).astype(np.float32)
            wide = s[:, None] if kind == "row" else np.repeat(s, group, axis=1)
            value, trits[name], scales[name] = (t * wide).astype(dtype), t, s
        data.setdefault(item.huggingface, []).append(value)
    folder.mkdir()
    keys = spell(spec, Quantization(present=False), "float32") | config
    (folder / "config.json").write_text(json.dumps(keys))
    tensors = {name: np.concatenate(parts) for name, parts in data.items()}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder, trits, scales


@pytest.mark.parametrize("family", SPECS)
@pytest.mark.parametrize(("kind", "group"), KINDS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def test_read_as_they_are_and_kept(family, kind, group, dtype, tmp_path):
    folder, trits, scales = checkpoint(tmp_path / "m", SPECS[family], kind, group, dtype)
    model = open_checkpoint(folder)
    assert model.source.encoding == "dequantized"
    for name, t in trits.items():
        found = model.read(name)
        assert isinstance(found, QuantTensor)
        assert (found.scale_kind, found.group_size) == (kind, group)
        np.testing.assert_array_equal(found.trits(), t)
        np.testing.assert_array_equal(found.scale, scales[name])
    save_checkpoint(model, tmp_path / "m.bitnet")
    native = open_checkpoint(tmp_path / "m.bitnet")
    save_checkpoint(native, tmp_path / "again", format="huggingface", encoding="dequantized")
    again = open_checkpoint(tmp_path / "again")
    assert model.digest() == native.digest() == again.digest()
    assert again.spec == model.spec


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("kind", "group"), KINDS)
def test_it_runs_and_computes_what_its_weights_say(kind, group, tmp_path):
    folder, trits, scales = checkpoint(tmp_path / "m", SPECS["llama"], kind, group)
    model = open_checkpoint(folder)
    engine = Engine(model.spec, to_device(model))
    ids = np.random.default_rng(1).integers(0, 48, (2, 9))
    logits = engine.logits(ids)
    made = list(engine.generate(ids[0, :4], SamplingParams(max_tokens=5)))
    whole = engine.logits(np.concatenate([ids[0, :4], made[:-1]])[None])[0, 3:]
    assert made == whole.argmax(-1).tolist()
    # A scale that is off by a hundredth would be seen.
    name = next(iter(scales))
    file = folder / "model.safetensors"
    data = safetensors.numpy.load_file(file)
    data[f"model.{name}.weight"][0] *= np.float32(2)
    safetensors.numpy.save_file(data, file, {"format": "pt"})
    other = open_checkpoint(folder)
    assert other.digest().trits == model.digest().trits and other.digest() != model.digest()
    assert np.abs(Engine(other.spec, to_device(other)).logits(ids) - logits).max() > 1e-4


@pytest.mark.parametrize(("kind", "group"), KINDS)
@pytest.mark.parametrize("encoding", ["packed", "master", "bitlinear", "autobitlinear"])
def test_one_scale_for_all_is_refused_with_its_price(kind, group, encoding, tmp_path):
    folder, trits, scales = checkpoint(tmp_path / "m", SPECS["llama"], kind, group)
    with pytest.raises(CannotCreate) as caught:
        save_checkpoint(
            open_checkpoint(folder), tmp_path / "n", format="huggingface", encoding=encoding
        )
    error = caught.value
    assert error.code == "huggingface.scale_kind" and "--encoding dequantized" in error.hint
    said = float(error.message.rsplit(" ", 1)[1])
    # By least squares, from the floats themselves.
    name = error.message.split("`")[1]
    t, s = trits[name].astype(np.float64), scales[name].astype(np.float64)
    w = t * (s[:, None] if kind == "row" else np.repeat(s, group, axis=1))
    best = (w * t).sum() / (t * t).sum()
    assert said == pytest.approx(np.sqrt(((w - best * t) ** 2).sum() / (w**2).sum()), rel=5e-3)
    assert not (tmp_path / "n").exists()


def test_floats_that_do_not_tell_their_scales_are_not_written(tmp_path):
    """A row of zeros has a scale that no float shows."""
    folder, _, _ = checkpoint(tmp_path / "m", SPECS["llama"], "row", 0)
    file = folder / "model.safetensors"
    data = safetensors.numpy.load_file(file)
    data["model.layers.0.mlp.up_proj.weight"][3] = 0
    safetensors.numpy.save_file(data, file, {"format": "pt"})
    model = open_checkpoint(folder)
    save_checkpoint(model, tmp_path / "a", format="huggingface", encoding="dequantized")
    assert open_checkpoint(tmp_path / "a").digest() == model.digest()
    entry = model.entries["layers.0.mlp.up_proj"]
    tensor = entry.read()
    tensor.scale[3] = 0.5
    entries = dict(model.entries)
    entries[entry.name] = type(entry)(entry.name, entry.shape, entry.dtype, True, lambda: tensor)
    altered = type(model)(model.spec, entries, None, model.source)
    with pytest.raises(CannotCreate, match="do not tell its row scales"):
        save_checkpoint(altered, tmp_path / "b", format="huggingface", encoding="dequantized")


def test_one_weight_that_is_none_of_them_is_named(tmp_path):
    folder, _, _ = checkpoint(tmp_path / "m", SPECS["llama"], "row", 0)
    file = folder / "model.safetensors"
    data = safetensors.numpy.load_file(file)
    data["model.layers.1.mlp.up_proj.weight"][3, 5] = 0.3333
    safetensors.numpy.save_file(data, file, {"format": "pt"})
    with pytest.raises(BadData, match="nor has each row") as caught:
        open_checkpoint(folder).digest()
    assert caught.value.code == "tensor.not_ternary"


def test_masters_are_not_taken_for_dequantized(tmp_path):
    """Under `online` the reference takes the mean of them, whatever they look like."""
    online = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
    config = {"quantization_config": online | {"quantization_mode": "online"}}
    folder, _, _ = checkpoint(tmp_path / "m", SPECS["llama"], "row", 0, **config)
    model = open_checkpoint(folder)
    assert model.source.encoding == "master"
    assert model.read("layers.0.mlp.up_proj").scale_kind == "tensor"


@pytest.mark.parametrize("encoding", ["bitlinear", "master", "latent"])
def test_parts_of_one_matrix_with_scales_of_their_own(encoding, tmp_path):
    """As training leaves them: a fused file with one scale cannot hold that."""
    spec = SPECS["phi3"]
    folder, _, _ = checkpoint(tmp_path / "m", spec, "row", 0)
    file = folder / "model.safetensors"
    data = safetensors.numpy.load_file(file)
    for item in expected(spec).values():
        if item.ternary:
            rows = slice(*(item.rows or (0, item.shape[0])))
            scale = 1 + 0.25 * (item.rows or (0, 0))[0] / 64
            data[item.huggingface][rows] = np.sign(data[item.huggingface][rows]) * scale
    safetensors.numpy.save_file(data, file, {"format": "pt"})
    model = open_checkpoint(folder)
    assert float(model.read("layers.0.self_attn.k_proj").scale) == 1.25
    wanted = {"latent": "no_latent"}.get(encoding, "fused")
    with pytest.raises(CannotCreate) as caught:
        save_checkpoint(model, tmp_path / "n", format="huggingface", encoding=encoding)
    assert caught.value.code == f"huggingface.{wanted}"
    save_checkpoint(model, tmp_path / "o", format="huggingface", encoding="dequantized")
    assert open_checkpoint(tmp_path / "o").digest() == model.digest()
