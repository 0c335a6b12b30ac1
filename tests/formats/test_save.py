"""Round trips between formats keep both digests, and nobody sees half an output."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from bitnet_jax.core import errors
from bitnet_jax.formats.checkpoint import Source, checkpoint_of
from bitnet_jax.formats.create import create
from bitnet_jax.formats.huggingface_weights import EXACT_KEY
from bitnet_jax.formats.huggingface_write import write_huggingface
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.quant.tensor import from_codes
from bitnet_jax.quant.ternary import from_trits, ternarize
from tests.formats.checkpoints import AUTO, BIT, ONLINE, TINY, config, tensors, write


def awkward(scale_kind="tensor", spec=TINY, scale=None):
    """A model in memory whose scales no 16-bit float holds."""
    rng = np.random.default_rng(1)
    params = {}
    for name, entry in create("tiny", layers=1).entries.items():
        if not entry.ternary:
            params[name] = entry.read()
            continue
        size = {"tensor": (), "row": entry.shape[:1], "group": (entry.shape[0], 2)}[scale_kind]
        value = rng.uniform(0.01, 3, size).astype("<f4") if scale is None else np.float32(scale)
        params[name] = from_trits(
            rng.integers(-1, 2, entry.shape).astype(np.int8),
            np.asarray(value, np.float32),
            scale_kind=scale_kind,
            group_size=entry.shape[1] // 2 if scale_kind == "group" else 0,
            dtype="bfloat16",
        )
    return checkpoint_of(spec, params, None, Source(Path("memory"), "memory", "packed"))


@pytest.mark.parametrize("encoding", ["master", "packed", "autobitlinear", "bitlinear"])
def test_awkward_scales_survive_every_huggingface_encoding(encoding, tmp_path):
    model = awkward()
    saved = save_checkpoint(model, tmp_path / "m", format="huggingface", encoding=encoding)
    again = open_checkpoint(tmp_path / "m")
    assert again.digest() == model.digest()
    assert saved.encoding == ("bitlinear" if encoding == "packed" else encoding)
    native = tmp_path / "m.bitnet"
    save_checkpoint(again, native)
    assert open_checkpoint(native).digest() == model.digest()


@pytest.mark.parametrize("form,quantization", [("auto", AUTO), ("bit", BIT), ("master", ONLINE)])
def test_through_bitnet_and_back(form, quantization, tmp_path):
    data, _, _ = tensors(form=form)
    model = open_checkpoint(write(tmp_path / "m", data, config(quantization=quantization)))
    save_checkpoint(model, tmp_path / "m.bitnet")
    native = open_checkpoint(tmp_path / "m.bitnet")
    assert native.digest() == model.digest() and native.spec == model.spec
    for encoding in (None, "master"):
        save_checkpoint(native, tmp_path / f"{encoding}.hf", encoding=encoding)
        assert open_checkpoint(tmp_path / f"{encoding}.hf").digest() == model.digest()
    for name, entry in model.entries.items():
        if not entry.ternary:
            np.testing.assert_array_equal(native.read(name), entry.read())


def test_either_layout_of_bitnet_keeps_the_model(tmp_path):
    model = awkward("row")
    saved = save_checkpoint(model, tmp_path / "m.bitnet", encoding="packed-1.6")
    packed = open_checkpoint(tmp_path / "m.bitnet")
    assert saved.encoding == packed.source.encoding == "packed-1.6"
    assert packed.digest() == model.digest()
    assert {value.layout for _, value in packed.tensors() if hasattr(value, "layout")} == {
        "t1.16x20"
    }
    # Unless another is asked for, a file keeps its own.
    assert save_checkpoint(packed, tmp_path / "same.bitnet").encoding == "packed-1.6"
    assert (tmp_path / "same.bitnet").read_bytes() == (tmp_path / "m.bitnet").read_bytes()
    save_checkpoint(packed, tmp_path / "back.bitnet", encoding="packed")
    save_checkpoint(model, tmp_path / "never.bitnet")
    assert (tmp_path / "back.bitnet").read_bytes() == (tmp_path / "never.bitnet").read_bytes()


def test_groups_that_five_trits_a_byte_cannot_have_leave_nothing(tmp_path):
    model = awkward("group")
    with pytest.raises(errors.BadData, match="a multiple of 80") as caught:
        save_checkpoint(model, tmp_path / "m.bitnet", encoding="packed-1.6")
    assert caught.value.code == "tensor.group_size" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale_kind", ["row", "group"])
def test_row_and_group_scales_keep_in_bitnet_and_are_refused_elsewhere(scale_kind, tmp_path):
    model = awkward(scale_kind)
    save_checkpoint(model, tmp_path / "m.bitnet")
    assert open_checkpoint(tmp_path / "m.bitnet").digest() == model.digest()
    with pytest.raises(errors.CannotCreate) as caught:
        save_checkpoint(model, tmp_path / "m.hf")
    assert caught.value.code == "huggingface.scale_kind"
    assert not (tmp_path / "m.hf").exists()
    assert sorted(os.listdir(tmp_path)) == ["m.bitnet"]


@pytest.mark.parametrize("kind", ["int8", "int6", "int4"])
def test_other_kinds_of_weights_are_refused_by_name_and_nothing_is_left(kind, tmp_path):
    model = awkward()
    name, entry = next((name, entry) for name, entry in model.entries.items() if entry.ternary)
    codes = np.ones(entry.shape, np.int8)
    tensor = from_codes(codes, np.float32(0.5), kind=kind, dtype="bfloat16")
    model = replace(model, entries={**model.entries, name: replace(entry, read=lambda: tensor)})
    model.digest()  # of the others
    for path, code in (("m.bitnet", "bitnet.kind"), ("m.hf", "huggingface.kind")):
        with pytest.raises(errors.CannotCreate, match=f"`{name}` is {kind}") as caught:
            save_checkpoint(model, tmp_path / path)
        assert caught.value.code == code
    assert not os.listdir(tmp_path)


def test_packed_is_what_the_source_was(tmp_path):
    for form, quantization, kind in (("auto", AUTO, "autobitlinear"), ("bit", BIT, "bitlinear")):
        data, _, _ = tensors(form=form)
        model = open_checkpoint(write(tmp_path / kind, data, config(quantization=quantization)))
        save_checkpoint(model, tmp_path / f"{kind}.bitnet")
        native = open_checkpoint(tmp_path / f"{kind}.bitnet")
        assert save_checkpoint(native, tmp_path / f"{kind}.hf").encoding == kind


def test_a_packed_autobitlinear_source_comes_back_byte_for_byte(tmp_path):
    data, _, _ = tensors()
    model = open_checkpoint(write(tmp_path / "m", data, config(quantization=AUTO)))
    save_checkpoint(model, tmp_path / "m.hf")
    again = safetensors.numpy.load_file(tmp_path / "m.hf" / "model.safetensors")
    assert again.keys() == data.keys()
    for name, wanted in data.items():
        assert (again[name].dtype, again[name].tobytes()) == (wanted.dtype, wanted.tobytes())
    assert json.loads((tmp_path / "m.hf" / "config.json").read_text())["dtype"] == "bfloat16"


def test_rows_no_multiple_of_four_are_written_as_master_and_said(tmp_path):
    spec = replace(TINY, intermediate_size=130)
    data, _, _ = tensors(spec)
    model = open_checkpoint(write(tmp_path / "m", data, config(spec, AUTO)))
    saved = save_checkpoint(model, tmp_path / "m.hf")
    assert saved.encoding == "master" and "multiple of 4" in saved.warnings[0]
    assert open_checkpoint(tmp_path / "m.hf").digest() == model.digest()
    with pytest.raises(errors.CannotCreate):
        save_checkpoint(model, tmp_path / "other.hf", encoding="bitlinear")


def test_latent_weights_only_where_the_source_has_them(tmp_path):
    data, _, _ = tensors(form="master")
    model = open_checkpoint(write(tmp_path / "m", data, config(quantization=ONLINE)))
    save_checkpoint(model, tmp_path / "l.hf", encoding="latent")
    again = safetensors.numpy.load_file(tmp_path / "l.hf" / "model.safetensors")
    assert all(again[name].tobytes() == data[name].tobytes() for name in data)
    assert open_checkpoint(tmp_path / "l.hf").digest() == model.digest()
    save_checkpoint(model, tmp_path / "m.bitnet")
    with pytest.raises(errors.CannotCreate):
        save_checkpoint(open_checkpoint(tmp_path / "m.bitnet"), tmp_path / "x", encoding="latent")


def test_trained_trits_with_rounded_scales_leave_in_latent_as_they_were(tmp_path):
    model = create("tiny", layers=1)  # its scales are bf16, not the masters' mean
    entries = {}
    for name, entry in model.entries.items():
        if entry.ternary:
            trits, scale = ternarize(entry.latent(), scale_dtype="bfloat16")
            tensor = from_trits(trits, scale, scale_dtype="bfloat16", dtype="bfloat16")
            entry = replace(entry, read=lambda tensor=tensor: tensor)
        entries[name] = entry
    model = replace(model, entries=entries)
    save_checkpoint(model, tmp_path / "l.hf", encoding="latent")
    assert open_checkpoint(tmp_path / "l.hf").digest() == model.digest()


@pytest.mark.parametrize("encoding", ["master", "autobitlinear", "bitlinear"])
def test_an_exact_scale_that_the_tensor_does_not_bear_out_is_refused(encoding, tmp_path):
    save_checkpoint(awkward(), tmp_path / "m", format="huggingface", encoding=encoding)
    path = tmp_path / "m" / "model.safetensors"
    data = safetensors.numpy.load_file(path)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    metadata = json.loads(raw[8 : 8 + length])["__metadata__"]
    table = json.loads(metadata[EXACT_KEY])
    table["layers.0.mlp.up_proj"][0] *= 1.00001
    metadata[EXACT_KEY] = json.dumps(table)
    safetensors.numpy.save_file(data, path, metadata)
    with pytest.raises(errors.BadData, match="up_proj") as caught:
        open_checkpoint(tmp_path / "m").digest()
    assert caught.value.code == "huggingface.scale_mismatch"


def test_shards_are_cut_and_read_again(tmp_path):
    model = create("tiny")
    (tmp_path / "m").mkdir()
    written = write_huggingface(model, tmp_path / "m", max_shard_bytes=12_000)
    shards = [name for name in written.files if name.startswith("model-")]
    assert len(shards) > 2
    assert open_checkpoint(tmp_path / "m").digest() == model.digest()


def test_tokenizer_and_generation_settings_travel(tmp_path):
    model = create("tiny", layers=1)
    save_checkpoint(model, tmp_path / "a.bitnet")
    save_checkpoint(open_checkpoint(tmp_path / "a.bitnet"), tmp_path / "b.hf")
    again = open_checkpoint(tmp_path / "b.hf")
    assert again.tokenizer == model.tokenizer
    names = {p.name for p in (tmp_path / "b.hf").iterdir()}
    assert names >= {"tokenizer.json", "tokenizer_config.json", "generation_config.json",
                     "special_tokens_map.json", "config.json", "model.safetensors",
                     "README.md"}  # fmt: skip


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        source = write(tmp_path / folder / "m", tensors()[0], config(quantization=AUTO))
        save_checkpoint(open_checkpoint(source), tmp_path / folder / "m.bitnet")
        save_checkpoint(open_checkpoint(source), tmp_path / folder / "m.hf")
    for file in ("m.bitnet", "m.hf/model.safetensors", "m.hf/config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_output_is_not_overwritten_unless_forced_and_never_the_input(tmp_path):
    source = write(tmp_path / "m", tensors()[0], config(quantization=AUTO))
    model = open_checkpoint(source)
    out = tmp_path / "m.bitnet"
    out.write_text("mine")
    with pytest.raises(errors.CannotCreate):
        save_checkpoint(model, out)
    assert out.read_text() == "mine"
    save_checkpoint(model, out, force=True)
    assert open_checkpoint(out).digest() == model.digest()
    for target in (source, tmp_path):
        with pytest.raises(errors.CannotCreate):
            save_checkpoint(model, target, format="huggingface", force=True)
    with pytest.raises(errors.CannotCreate):
        save_checkpoint(open_checkpoint(out), out, force=True)
    assert open_checkpoint(source).digest() == model.digest()


def test_an_error_half_way_leaves_the_old_output_and_no_litter(tmp_path):
    model = create("tiny", layers=1)
    out = tmp_path / "m.bitnet"
    out.write_text("old")
    entries = dict(model.entries)
    name = "layers.0.mlp.up_proj"

    def broken():
        raise errors.BadData("x.y", "half way")

    entries[name] = replace(entries[name], read=broken)
    model = replace(model, entries=entries)
    for target in (out, tmp_path / "m.hf"):
        with pytest.raises(errors.BadData):
            save_checkpoint(model, target, force=True)
    assert out.read_text() == "old"
    assert os.listdir(tmp_path) == ["m.bitnet"]


def test_formats_and_encodings_that_are_not(tmp_path):
    model = create("tiny", layers=1)
    for path, options in (
        ("m.xyz", {}),
        ("m", {"format": "gguff"}),
        ("m", {"format": "huggingface", "encoding": "tq9"}),
        ("m.bitnet", {"encoding": "master"}),
    ):
        with pytest.raises(errors.UsageError):
            save_checkpoint(model, tmp_path / path, **options)


def test_a_scale_that_the_reference_would_raise_is_not_written_as_master(tmp_path):
    with pytest.raises(errors.CannotCreate) as caught:
        save_checkpoint(awkward(scale=1e-6), tmp_path / "m.hf", encoding="master")
    assert caught.value.code == "huggingface.small_scale"


@pytest.mark.parametrize("name", ["m.bitnet", "m.hf"])
def test_a_full_disk_leaves_the_old_output_and_no_litter(name, tmp_path):
    resource = pytest.importorskip("resource")
    model = create("tiny", layers=1)
    save_checkpoint(model, tmp_path / name)
    digest = open_checkpoint(tmp_path / name).digest()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(errors.IOFailure) as caught:
            save_checkpoint(create("tiny", seed=1), tmp_path / name, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == "io.disk_full"
    assert os.listdir(tmp_path) == [name]
    assert open_checkpoint(tmp_path / name).digest() == digest


def test_two_writers_of_one_output(tmp_path):
    model = create("tiny", layers=1)
    seen = []

    def second():
        with pytest.raises(errors.Resumable) as caught:
            save_checkpoint(model, tmp_path / "m.bitnet")
        seen.append(caught.value.code)
        return model.read("norm")

    entries = {**model.entries, "norm": replace(model.entries["norm"], read=second)}
    save_checkpoint(replace(model, entries=entries), tmp_path / "m.bitnet")
    assert seen == ["io.busy"]
    assert open_checkpoint(tmp_path / "m.bitnet").digest() == model.digest()
