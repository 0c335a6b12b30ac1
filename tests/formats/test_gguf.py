"""GGUF files to models and back: digests, exact scales, and the traps that others fell into."""

from __future__ import annotations

import dataclasses
import json
import struct

import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.containers.gguf import open_gguf_file
from bitnet_jax.core.errors import BadData, CannotCreate, UsageError
from bitnet_jax.formats.doctor import blocking, examine
from bitnet_jax.formats.gguf_encoding import ENCODINGS
from bitnet_jax.formats.gguf_rotary import interleave, separate
from bitnet_jax.formats.gguf_table import SCALES, TABLE
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.models.names import expected, gguf_names
from bitnet_jax.quant.tensor import from_codes
from tests.formats import gguf_edit as edit
from tests.formats import gguf_models as made
from tests.formats.checkpoints import AUTO, BIT, ONLINE, config, tensors, write

EXACT = ("tq2_0", "tq1_0", "i2_s", "f32", "bf16", "f16")


@pytest.fixture(scope="module")
def plain():
    return made.model(made.wide(activation="silu"))


@pytest.fixture(scope="module")
def awkward():
    return made.model(made.wide(activation="silu"), awkward=True)


def saved(checkpoint, folder, encoding=None, name="m.gguf"):
    save_checkpoint(checkpoint, folder / name, encoding=encoding)
    return open_checkpoint(folder / name)


def same(ours, theirs) -> None:
    assert ours.digest() == theirs.digest() and ours.spec == theirs.spec
    assert ours.tokenizer == theirs.tokenizer
    for name, entry in theirs.entries.items():
        mine = ours.entries[name]
        assert (mine.shape, mine.dtype, mine.ternary) == (entry.shape, entry.dtype, entry.ternary)
        if entry.ternary:
            mine, entry = mine.read(), entry.read()
            assert (mine.scale_dtype, mine.dtype) == (entry.scale_dtype, entry.dtype)
        else:
            value, wanted = mine.read(), entry.read()
            assert value.dtype == wanted.dtype
            np.testing.assert_array_equal(value, wanted)


# ---------------------------------------------------------------------------- there and back
@pytest.mark.parametrize("encoding", EXACT)
def test_every_encoding_holds_the_same_model(encoding, awkward, tmp_path):
    again = saved(awkward, tmp_path, encoding)
    same(again, awkward)
    assert again.source.format == "gguf" and again.source.encoding == encoding
    # Numpy alone finds the digests in the bytes, wherever the scales stand.
    names = {n: t for n, t in gguf_names(awkward.spec).items() if awkward.entries[n].ternary}
    digest = awkward.digest()
    data = (tmp_path / "m.gguf").read_bytes()
    assert made.raw_digests(data, names) == (digest.trits, digest.trits_scales)
    assert not blocking(examine(again))


@pytest.mark.parametrize("encoding", ["tq2_0", "f32"])
def test_llama_with_all_its_parts(encoding, tmp_path):
    extra = {"attention_bias": True, "mlp_bias": True} | made.LLAMA3
    model = made.model(made.wide_llama(2, extra, tie_embeddings=True), awkward=True)
    same(saved(model, tmp_path, encoding), model)


@pytest.mark.parametrize("form,quantization", [("auto", AUTO), ("bit", BIT), ("master", ONLINE)])
def test_from_hugging_face_through_bitnet_and_gguf_and_back(form, quantization, tmp_path):
    spec = made.wide()
    data, trits, _ = tensors(spec, form)
    first = open_checkpoint(write(tmp_path / "m", data, config(spec, quantization)))
    save_checkpoint(first, tmp_path / "m.bitnet")
    step = open_checkpoint(tmp_path / "m.bitnet")
    for encoding in ("tq2_0", "tq1_0", "i2_s", "f32"):
        save_checkpoint(step, tmp_path / f"{encoding}.gguf", encoding=encoding)
        step = open_checkpoint(tmp_path / f"{encoding}.gguf")
    save_checkpoint(step, tmp_path / "back.hf", encoding="packed")
    back = open_checkpoint(tmp_path / "back.hf")
    assert back.digest() == first.digest()
    for name, value in trits.items():
        np.testing.assert_array_equal(back.read(name).trits(), value)
    for name, entry in first.entries.items():
        if not entry.ternary:  # bfloat16 norms, which the file holds as float32
            assert back.entries[name].dtype == entry.dtype == "bfloat16"
            np.testing.assert_array_equal(back.read(name), entry.read())


def test_the_same_model_gives_the_same_bytes(plain, tmp_path):
    one = saved(plain, tmp_path, "tq2_0", "a.gguf")
    save_checkpoint(plain, tmp_path / "a.bitnet")
    saved(open_checkpoint(tmp_path / "a.bitnet"), tmp_path, "tq2_0", "b.gguf")
    assert save_checkpoint(one, tmp_path / "c.gguf").encoding == "tq2_0"  # unless asked
    data = (tmp_path / "a.gguf").read_bytes()
    assert data == (tmp_path / "b.gguf").read_bytes() == (tmp_path / "c.gguf").read_bytes()


def test_scales_stand_in_the_blocks_where_those_hold_them_and_else_beside(plain, awkward, tmp_path):
    for model, count in ((plain, 0), (awkward, 7)):
        saved(model, tmp_path, "tq2_0", f"{count}.gguf")
        _, found = made.raw_file((tmp_path / f"{count}.gguf").read_bytes())
        scales = {name: data for name, (*_, data) in found.items() if name.endswith(".scale")}
        assert len(scales) == count
        for name, data in scales.items():
            ours = next(n for n, t in gguf_names(model.spec).items() if t[:-6] == name[:-5])
            assert data.view("<f4")[0] == np.float32(model.read(ours).scale)
            blocks = found[name.replace("scale", "weight")][2].reshape(-1, 66)
            assert (blocks[:, 64:].copy().view("<f2") == 1).all()


@pytest.mark.parametrize("scale_kind,group", [("row", 0), ("group", 256), ("group", 512)])
def test_row_and_group_scales_stand_in_the_blocks(scale_kind, group, tmp_path):
    spec = made.wide(hidden_size=512, intermediate_size=512, head_dim=128)
    for awkward in (False, True):
        model = made.model(spec, scale_kind=scale_kind, group_size=group, awkward=awkward)
        for encoding in ("tq1_0", "tq2_0", "f32", "f16"):
            same(saved(model, tmp_path, encoding, f"{awkward}{encoding}.gguf"), model)


def test_scales_that_a_container_has_no_place_for_are_refused(tmp_path):
    spec = made.wide()
    for group, encoding in ((128, "tq2_0"), (128, "tq1_0"), (256, "i2_s")):
        model = made.model(spec, scale_kind="group", group_size=group)
        with pytest.raises(CannotCreate, match=f"every {group} inputs") as caught:
            save_checkpoint(model, tmp_path / "m.gguf", encoding=encoding)
        assert caught.value.code == "gguf.scale_kind" and not list(tmp_path.iterdir())
    model = made.model(spec, scale_kind="group", group_size=128)
    same(saved(model, tmp_path, "f32"), model)


def test_a_matrix_of_zeros_keeps_its_scale(tmp_path):
    model = made.model(made.wide(activation="silu"), awkward=True)
    name = "layers.0.mlp.up_proj"
    zeros = from_codes(np.zeros((512, 256), np.int8), np.float32(0.123), scale_dtype="float32")
    entry = dataclasses.replace(model.entries[name], read=lambda: zeros)
    model = dataclasses.replace(model, entries={**model.entries, name: entry})
    for encoding in EXACT:
        same(saved(model, tmp_path, encoding, f"{encoding}.gguf"), model)


def test_a_scale_that_no_float16_comes_near_is_beside_or_refused(tmp_path):
    for value, fine in ((1e-12, False), (70000.0, False), (3e-6, True)):
        model = made.model(made.wide_llama(extra={"mlp_bias": True}), awkward=True)
        name = "layers.0.mlp.up_proj"  # has no tensor for its scale, beside a bias
        tensor = dataclasses.replace(model.read(name), scale=np.array(value, np.float32))
        entry = dataclasses.replace(model.entries[name], read=lambda tensor=tensor: tensor)
        model = dataclasses.replace(model, entries={**model.entries, name: entry})
        if fine:
            same(saved(model, tmp_path, "tq2_0", f"{value}.gguf"), model)
            continue
        with pytest.raises(CannotCreate, match="outside what TQ2_0 can hold"):
            save_checkpoint(model, tmp_path / "m.gguf", encoding="tq2_0")
        same(saved(model, tmp_path, "f32", f"{value}.gguf"), model)


def test_floats_keep_their_bits_and_a_model_of_floats_its_type(tmp_path):
    model = made.floats(made.model(made.wide(activation="silu"), dtype="bfloat16"))
    again = saved(model, tmp_path)
    assert again.source.encoding == "bf16"
    same(again, model)
    warnings = save_checkpoint(model, tmp_path / "q.gguf", encoding="q8_0").warnings
    assert any("were rounded to Q8_0" in warning for warning in warnings)
    name = "layers.0.mlp.up_proj"
    rounded, wanted = open_checkpoint(tmp_path / "q.gguf").read(name), model.read(name)
    assert np.abs(rounded.astype(np.float32) - wanted.astype(np.float32)).max() < 0.001
    large = dataclasses.replace(
        model.entries[name], read=lambda: np.full((512, 256), 1e38, ml_dtypes.bfloat16)
    )
    model = dataclasses.replace(model, entries={**model.entries, name: large})
    with pytest.raises(CannotCreate, match="become infinite as F16"):
        save_checkpoint(model, tmp_path / "inf.gguf", encoding="f16")
    assert not (tmp_path / "inf.gguf").exists()


@pytest.mark.parametrize("encoding", ["tq2_0+q8_0", "tq2_0+q4_0", "f32+f16"])
def test_an_embedding_is_rounded_only_when_asked_and_it_is_said(encoding, plain, tmp_path):
    done = save_checkpoint(plain, tmp_path / "m.gguf", encoding=encoding)
    assert any("`embed_tokens`" in w and "were rounded" in w for w in done.warnings)
    again = open_checkpoint(tmp_path / "m.gguf")
    assert again.digest() == plain.digest()
    assert again.source.encoding in (encoding, "f32")
    worst = np.abs(again.read("embed_tokens") - plain.read("embed_tokens")).max()
    assert 0 < worst < {"f16": 1e-4, "q8_0": 1e-3, "q4_0": 2e-2}[encoding.split("+")[1]]


def test_rows_are_interleaved_as_llama_cpp_does():
    weights = np.arange(2 * 8 * 3).reshape(16, 3)
    turned = interleave(weights, 2)
    # LlamaModel.permute of its converter
    wanted = weights.reshape(2, 2, 4, 3).swapaxes(1, 2).reshape(16, 3)
    np.testing.assert_array_equal(turned, wanted)
    assert turned[:4, 0].tolist() == [0, 12, 3, 15]
    np.testing.assert_array_equal(separate(turned, 2), weights)


# ------------------------------------------------------------------------------ the traps
def test_616_the_scale_multiplies_whichever_way_the_source_had_it(tmp_path):
    """microsoft/BitNet#616: F16 output was divided by a scale that multiplies."""
    spec = made.wide()
    for form, quantization in (("auto", AUTO), ("bit", BIT)):
        data, trits, scales = tensors(spec, form)
        source = open_checkpoint(write(tmp_path / form, data, config(spec, quantization)))
        save_checkpoint(source, tmp_path / f"{form}.gguf", encoding="f16")
        _, found = made.raw_file((tmp_path / f"{form}.gguf").read_bytes())
        for name, theirs in gguf_names(spec).items():
            if name in trits:
                kind, shape, raw = found[theirs]
                weight = raw.view("<f2").astype(np.float32).reshape(shape)
                outer = found.get(theirs.replace(".weight", ".scale"))
                weight *= outer[2].view("<f4")[0] if outer else np.float32(1)
                np.testing.assert_array_equal(weight, trits[name] * scales[name])


@pytest.mark.parametrize("encoding", ["i2_s", "tq1_0", "tq2_0"])
@pytest.mark.parametrize("family", ["bitnet", "llama"])
def test_621_what_is_asked_is_written_and_never_f16(family, encoding, plain, tmp_path):
    """microsoft/BitNet#621: `--outtype i2_s` wrote F16 for other architectures, without a word."""
    model = plain if family == "bitnet" else made.model(made.wide_llama())
    if (family, encoding) == ("llama", "i2_s"):
        with pytest.raises(CannotCreate, match="bitnet.cpp") as caught:
            save_checkpoint(model, tmp_path / "m.gguf", encoding=encoding)
        assert caught.value.code == "gguf.encoding"
        return
    saved(model, tmp_path, encoding)
    _, found = made.raw_file((tmp_path / "m.gguf").read_bytes())
    wanted = {"i2_s": 36, "tq1_0": 34, "tq2_0": 35}[encoding]
    kinds = {found[t][0] for n, t in gguf_names(model.spec).items() if model.entries[n].ternary}
    assert kinds == {wanted}


def test_622_the_pre_tokenizer_is_always_named(plain, tmp_path):
    """microsoft/BitNet#622: without `tokenizer.ggml.pre` text is cut otherwise: garbage."""
    saved(plain, tmp_path)
    metadata, _ = made.raw_file((tmp_path / "m.gguf").read_bytes())
    assert metadata["tokenizer.ggml.pre"] == "llama-bpe"
    raw = json.loads(plain.tokenizer.tokenizer_json)
    raw["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-z]+"
    other = dataclasses.replace(plain.tokenizer, tokenizer_json=json.dumps(raw).encode())
    with pytest.raises(CannotCreate, match="no name known here") as caught:
        save_checkpoint(dataclasses.replace(plain, tokenizer=other), tmp_path / "x.gguf")
    assert caught.value.code == "gguf.pre_tokenizer" and not (tmp_path / "x.gguf").exists()


def test_130_columns_are_refused_with_what_fits(tmp_path):
    model = made.model(made.wide(intermediate_size=640))
    with pytest.raises(
        CannotCreate, match=r"multiple of 256.*`layers.0.mlp.down_proj \(640\)`"
    ) as e:
        save_checkpoint(model, tmp_path / "m.gguf", encoding="tq2_0")
    assert (
        e.value.code == "gguf.block" and e.value.hint == "encodings that fit: i2_s, f32, bf16, f16"
    )
    same(saved(model, tmp_path, "i2_s"), model)
    model = made.model(made.wide(intermediate_size=130))
    with pytest.raises(CannotCreate, match="multiple of 128") as caught:
        save_checkpoint(model, tmp_path / "n.gguf", encoding="i2_s")
    assert caught.value.hint == "encodings that fit: f32, bf16, f16"
    done = save_checkpoint(model, tmp_path / "f.gguf")
    assert done.encoding == "f32" and "sixteen times as large" in done.warnings[0]


def test_a_quantizer_of_floats_by_their_maximum_is_not_there_and_is_found_out(plain, tmp_path):
    """bitnet.cpp's quantize_i2_s makes every float ±1 (#107, #236): we neither do, nor take it."""
    model = made.floats(plain)
    name = "layers.0.mlp.up_proj"
    noise = np.random.default_rng(0).standard_normal((512, 256)).astype(np.float32)
    entry = dataclasses.replace(model.entries[name], read=lambda: noise)
    model = dataclasses.replace(model, entries={**model.entries, name: entry})
    for encoding in ("i2_s", "tq2_0"):
        with pytest.raises(CannotCreate, match="is a model of floats") as caught:
            save_checkpoint(model, tmp_path / "m.gguf", encoding=encoding)
        assert caught.value.code == "gguf.encoding"
    # What that quantizer would have made of it: no zeros at all.
    signs = from_codes(np.where(noise < 0, -1, 1).astype(np.int8), np.float32(3.5))
    entry = dataclasses.replace(plain.entries[name], read=lambda: signs)
    broken = saved(
        dataclasses.replace(plain, entries={**plain.entries, name: entry}), tmp_path, "i2_s"
    )
    faults = blocking(examine(broken))
    assert ("weights.histogram", name) in [(fault.code, fault.tensor) for fault in faults]


def test_squared_relu_is_warned_of_and_stands_in_the_file(tmp_path):
    """microsoft/BitNet#588: llama.cpp runs SiLU; the file says what is right."""
    model = made.model(made.wide())
    for encoding, architecture in (("tq2_0", "bitnet"), ("i2_s", "bitnet-b1.58")):
        path = tmp_path / f"{encoding}.gguf"
        done = save_checkpoint(model, path, encoding=encoding)
        assert any("squared ReLU" in warning for warning in done.warnings)
        metadata, _ = made.raw_file(path.read_bytes())
        assert metadata["general.architecture"] == architecture
        assert metadata[f"{architecture}.hidden_activation"] == "relu2"
        # Without our own key the activation is still the file's.
        others = edit.without_ours(path, tmp_path / "others.gguf")
        assert open_checkpoint(others).spec.activation == "relu2"


# --------------------------------------------------------------------- files of others
@pytest.mark.parametrize("encoding", EXACT)
def test_a_file_without_our_keys_holds_the_same_model(encoding, plain, tmp_path):
    save_checkpoint(plain, tmp_path / "m.gguf", encoding=encoding)
    found = open_checkpoint(edit.without_ours(tmp_path / "m.gguf", tmp_path / "o.gguf"))
    assert found.spec == plain.spec and found.digest() == plain.digest()
    assert found.tokenizer is not None and found.tokenizer != plain.tokenizer  # made again


def test_gguf_py_quantizes_blocks_of_zeros_with_the_scale_0(plain, tmp_path):
    """Blocks of nothing but zeros say no scale; the others' is the tensor's."""
    name = "layers.0.mlp.up_proj"
    trits = np.asarray(plain.read(name).trits()).copy()
    trits[3] = 0
    tensor = from_codes(trits, np.float32(0.5))
    entry = dataclasses.replace(plain.entries[name], read=lambda: tensor)
    model = dataclasses.replace(plain, entries={**plain.entries, name: entry})
    save_checkpoint(model, tmp_path / "m.gguf", encoding="tq2_0")
    path = edit.without_ours(tmp_path / "m.gguf", tmp_path / "o.gguf")

    def zero(data: np.ndarray) -> None:
        data.reshape(512, 66)[3, 64:] = 0

    edit.tensor(path, gguf_names(model.spec)[name], zero)
    found = open_checkpoint(path)
    assert found.digest() == model.digest()

    def trit(data: np.ndarray) -> None:
        data.reshape(512, 66)[3, 0] = 0

    edit.tensor(path, gguf_names(model.spec)[name], trit)
    with pytest.raises(BadData, match="trits and the scale 0"):
        open_checkpoint(path).read(name)


def test_floats_that_are_not_ternary_are_floats(plain, tmp_path):
    model = made.floats(plain)
    noise = np.random.default_rng(0).standard_normal((512, 256)).astype(np.float32)
    name = "layers.0.mlp.up_proj"
    entry = dataclasses.replace(model.entries[name], read=lambda: noise)
    save_checkpoint(
        dataclasses.replace(model, entries={**model.entries, name: entry}),
        tmp_path / "m.gguf", encoding="f32",
    )  # fmt: skip
    found = open_checkpoint(edit.without_ours(tmp_path / "m.gguf", tmp_path / "o.gguf"))
    assert not found.entries[name].ternary and found.entries["layers.0.mlp.gate_proj"].ternary
    np.testing.assert_array_equal(found.read(name), noise)

    # One that begins as a ternary matrix and goes on otherwise is damaged.
    def late(data: np.ndarray) -> None:
        data.view("<f4")[-1] *= 3

    edit.tensor(tmp_path / "o.gguf", gguf_names(model.spec)["layers.0.mlp.gate_proj"], late)
    with pytest.raises(BadData, match=r"1 values differ .* first at \[511, 255\]") as caught:
        open_checkpoint(tmp_path / "o.gguf").read("layers.0.mlp.gate_proj")
    assert caught.value.code == "tensor.not_ternary"


# ---------------------------------------------------------------------- edited and damaged
def test_what_was_edited_after_it_was_written_is_found(awkward, tmp_path):
    spec = made.wide_llama(extra={"mlp_bias": True})
    model = made.model(spec, awkward=True)
    name = "layers.0.mlp.up_proj"  # its exact scale stands in the table

    def double(data: np.ndarray) -> None:
        data.reshape(-1, 66)[:, 65] += 4

    cases = {
        "gguf.scale_mismatch": lambda p: edit.tensor(p, gguf_names(spec)[name], double),
        "gguf.spec": lambda p: edit.value(
            p, "llama.attention.layer_norm_rms_epsilon", ("f32", 0.5)),
        "gguf.table": lambda p: edit.value(p, TABLE, ("string", '{"norm":["int4"]}')),
        "scale.invalid": lambda p: edit.value(p, SCALES, ("[f32]", np.full(3, -1, "<f4"))),
        "gguf.tokenizer": lambda p: edit.value(
            p, "tokenizer.ggml.tokens", ("[string]", ["a"] * 512)),
        "gguf.key_missing": lambda p: edit.value(p, "llama.block_count", None),
        "gguf.split": lambda p: edit.value(p, "split.count", ("u16", 2)),
        "gguf.not_a_model": lambda p: edit.value(p, "general.type", ("string", "adapter")),
        "model.unknown_architecture": lambda p: edit.value(
            edit.without_ours(p, p), "general.architecture", ("string", "gpt")),
        "config.unsupported": lambda p: edit.value(
            p, "llama.rope.scaling.type", ("string", "yarn")),
        "gguf.pre_tokenizer": lambda p: edit.value(
            edit.without_ours(p, p), "tokenizer.ggml.pre", None),
        "config.value": lambda p: edit.value(
            edit.without_ours(p, p), "llama.attention.head_count", ("u32", 3)),
    }  # fmt: skip
    save_checkpoint(model, tmp_path / "good.gguf", encoding="tq2_0")
    for code, change in cases.items():
        path = tmp_path / "m.gguf"
        path.write_bytes((tmp_path / "good.gguf").read_bytes())
        change(path)
        with pytest.raises(BadData) as caught:
            open_checkpoint(path).read(name)
        assert caught.value.code == code, caught.value
        assert caught.value.hint


def test_a_flipped_trit_is_seen_by_the_doctor(plain, tmp_path):
    save_checkpoint(plain, tmp_path / "m.gguf", encoding="tq2_0")

    def flip(data: np.ndarray) -> None:
        data[0] ^= 1 if data[0] & 3 == 0 else data[0] & 3

    edit.tensor(tmp_path / "m.gguf", "blk.0.ffn_up.weight", flip)
    assert [f.code for f in blocking(examine(open_checkpoint(tmp_path / "m.gguf")))] == [
        "digest.mismatch", "digest.mismatch",
    ]  # fmt: skip


def test_tensors_that_are_missing_strange_or_of_another_shape(plain, tmp_path):
    save_checkpoint(plain, tmp_path / "good.gguf", encoding="tq2_0")
    for old, new, code in (
        ("blk.0.attn_sub_norm.weight", "blk.0.attn_sub_nrom.weight", "model.missing_sub_norm"),
        ("output_norm.weight", "outputs_norm.weight", "model.missing_tensor"),
    ):
        path = edit.renamed(tmp_path / "good.gguf", tmp_path / "m.gguf", old, new)
        with pytest.raises(BadData, match=f"lacks tensor `{old}`.*`{new}`") as caught:
            open_checkpoint(path)
        assert caught.value.code == code
    path = edit.extended(tmp_path / "good.gguf", tmp_path / "m.gguf", "blk.0.attn_gate.weight")
    with pytest.raises(BadData, match="blk.0.attn_gate.weight") as caught:
        open_checkpoint(path)
    assert caught.value.code == "model.unknown_tensor"
    path.write_bytes((tmp_path / "good.gguf").read_bytes())
    edit.value(edit.without_ours(path, path), "bitnet.feed_forward_length", ("u32", 1024))
    with pytest.raises(BadData, match=r"\[512, 256\]; its keys ask for \[1024, 256\]") as caught:
        open_checkpoint(path)
    assert caught.value.code == "model.tensor_shape"


# ------------------------------------------------------------------------------- refused
@pytest.mark.parametrize(
    "changes,words",
    [
        ({"tie_embeddings": False}, "head is not tied"),
        ({"sub_norms": False}, "no sub-norms"),
        ({"head_dim": 32}, "heads are 4 x 32 wide"),
    ],
)
def test_models_that_the_architecture_cannot_hold(changes, words, tmp_path):
    with pytest.raises(CannotCreate, match=words) as caught:
        save_checkpoint(made.model(made.wide(**changes)), tmp_path / "m.gguf", encoding="f32")
    assert caught.value.code == "gguf.architecture"


def test_other_refusals_before_anything_is_written(plain, tmp_path):
    with pytest.raises(UsageError, match="`tq9` is not one of the gguf format"):
        save_checkpoint(plain, tmp_path / "m.gguf", encoding="tq9")
    for encoding in ("q8_0", "q4_0"):
        with pytest.raises(CannotCreate, match="does not hold ternary weights exactly"):
            save_checkpoint(plain, tmp_path / "m.gguf", encoding=encoding)
    name = "layers.0.mlp.up_proj"
    codes = from_codes(np.ones((512, 256), np.int8), np.float32(0.5), kind="int8")
    entry = dataclasses.replace(plain.entries[name], read=lambda: codes)
    with pytest.raises(CannotCreate, match="is int8"):
        save_checkpoint(
            dataclasses.replace(plain, entries={**plain.entries, name: entry}), tmp_path / "m.gguf"
        )
    assert not list(tmp_path.iterdir()) and "tq2_0+q8_0" in ENCODINGS


def test_a_source_that_changes_while_it_is_read_leaves_nothing(plain, tmp_path):
    name, calls = "layers.0.mlp.up_proj", []
    good, other = plain.read(name), made.model(plain.spec, seed=9).read(name)
    entry = dataclasses.replace(
        plain.entries[name], read=lambda: calls.append(1) or (other if len(calls) > 1 else good)
    )
    with pytest.raises(BadData, match="a second time"):
        save_checkpoint(
            dataclasses.replace(plain, entries={**plain.entries, name: entry}), tmp_path / "m.gguf"
        )
    assert not list(tmp_path.iterdir())


def test_what_a_model_says_of_itself_goes_along(plain, tmp_path):
    said = {"general.name": "A name", "general.license": "mit", "general.url": "https://x.y",
            "general.count.of_it": 5, "general.half": 0.1, "general.yes": True,
            "general.architecture": "gpt"}  # fmt: skip
    again = saved(dataclasses.replace(plain, metadata=said), tmp_path, "tq2_0")
    # What the file is, is not the model's to say.
    assert again.metadata == {k: v for k, v in said.items() if k != "general.architecture"}
    assert saved(plain, tmp_path, "tq2_0", "bare.gguf").metadata == {}
    assert save_checkpoint(again, tmp_path / "m.bitnet").path == tmp_path / "m.bitnet"
    assert open_checkpoint(tmp_path / "m.bitnet").metadata == again.metadata


def test_reading_a_header_reads_no_tensor(plain, tmp_path, monkeypatch):
    save_checkpoint(plain, tmp_path / "m.gguf", encoding="i2_s")
    file = type(open_gguf_file(tmp_path / "m.gguf"))
    monkeypatch.setattr(file, "read_bytes", lambda *a: pytest.fail("a tensor was read"))
    assert len(open_checkpoint(tmp_path / "m.gguf").entries) == len(expected(plain.spec))


def test_the_keys_of_a_file(plain, tmp_path):
    """Golden: what stands in it, beside tokens and tables, in this order."""
    save_checkpoint(plain, tmp_path / "m.gguf", encoding="tq2_0")
    metadata, found = made.raw_file((tmp_path / "m.gguf").read_bytes())
    assert struct.unpack_from("<I", (tmp_path / "m.gguf").read_bytes(), 4) == (3,)
    said = {k: v for k, v in metadata.items() if not isinstance(v, list | str) or len(v) < 40}
    assert said == {
        "general.architecture": "bitnet",
        "general.type": "model",
        "general.name": "bitnet 722K",
        "general.size_label": "722K",
        "general.quantized_by": "bitnet-jax",
        "general.quantization_version": 2,
        "general.file_type": 37,
        "bitnet.vocab_size": 512,
        "bitnet.context_length": 256,
        "bitnet.embedding_length": 256,
        "bitnet.block_count": 1,
        "bitnet.feed_forward_length": 512,
        "bitnet.attention.head_count": 4,
        "bitnet.attention.head_count_kv": 2,
        "bitnet.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
        "bitnet.rope.freq_base": 10000.0,
        "bitnet.hidden_activation": "silu",
        "bitnet.rope.dimension_count": 64,
        "bitnet.rope.scaling.type": "linear",
        "bitnet.rope.scaling.factor": 1.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.merges": [],  # 256 bytes and 256 special tokens are the vocabulary
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.ggml.eot_token_id": 265,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }
    assert metadata["bitnet_jax.digest.trits"] == plain.digest().trits
    assert list(found) == [gguf_names(plain.spec)[name] for name in sorted(plain.entries)]
