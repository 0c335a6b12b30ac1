"""Phi-3, Gemma, Gemma 3 in GGUF files: tensors of several matrices, norms larger by 1, windows."""

from __future__ import annotations

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.containers.gguf import open_gguf_file
from bitnet_jax.containers.gguf_types import TYPES
from bitnet_jax.containers.gguf_write import GgufWriter, Planned
from bitnet_jax.core.errors import BadData, BitnetError, CannotCreate
from bitnet_jax.formats.gguf_table import TABLE
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.models.names import gguf_names
from tests.formats import gguf_edit as edit
from tests.formats import gguf_models as made
from tests.formats.test_gguf import same
from tests.tiny import tiny_of

WINDOWS = {"sliding_window": 4, "layer_types": "ssf", "local_rope_theta": 500.0}
SPECS = {
    "phi3": tiny_of("phi3", **made.WIDE | {"num_layers": 1}, extra={"sliding_window": 256}),
    "gemma": made.gemma("gemma", num_layers=1),
    "gemma3": made.gemma("gemma3", num_layers=3, extra=WINDOWS),
}
FAMILIES = list(SPECS)


def model(family, **how):
    return made.model(SPECS[family], **how)


def written(family, folder, encoding="f32", change=lambda checkpoint: checkpoint):
    path = folder / "m.gguf"
    save_checkpoint(change(model(family)), path, encoding=encoding)
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A file of ours and one of others, of each family."""
    found = {}
    for family in FAMILIES:
        path = written(family, tmp_path_factory.mktemp(family))
        found[family, True] = path
        found[family, False] = edit.without_ours(path, path.with_name("o.gguf"))
    return {what: path.read_bytes() for what, path in found.items()}


def with_norm(checkpoint, name, value):
    entry = dataclasses.replace(
        checkpoint.entries[name], read=lambda: value, dtype=str(value.dtype), parts=None
    )
    return dataclasses.replace(checkpoint, entries=checkpoint.entries | {name: entry})


# ----------------------------------------------------------------------------- there and back
@pytest.mark.parametrize("encoding", ["tq2_0", "tq1_0", "f32", "f16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_model_comes_back(family, encoding, tmp_path):
    source = model(family, awkward=True)
    save_checkpoint(source, tmp_path / "m.gguf", encoding=encoding)
    same(open_checkpoint(tmp_path / "m.gguf"), source)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("encoding", ["f32", "bf16", "q8_0"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_floats_comes_back(family, encoding, tmp_path):
    source = made.floats(model(family, dtype="bfloat16"))
    save_checkpoint(source, tmp_path / "m.gguf", encoding=encoding)
    again = open_checkpoint(tmp_path / "m.gguf")
    assert again.spec == source.spec
    for name, entry in source.entries.items():
        value, wanted = again.read(name), entry.read()
        if encoding != "q8_0" or wanted.ndim == 1:
            np.testing.assert_array_equal(value.astype("f4"), wanted.astype("f4"))
        else:
            assert np.abs(value - wanted.astype("f4")).max() <= np.abs(wanted).max() / 128


@pytest.mark.parametrize("encoding", ["tq2_0", "f32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_others_holds_the_same_model(family, encoding, tmp_path):
    source = model(family)
    path = written(family, tmp_path, encoding)
    again = open_checkpoint(edit.without_ours(path, tmp_path / "o.gguf"))
    assert again.digest() == source.digest() and again.spec == source.spec
    for name, entry in source.entries.items():
        if len(entry.shape) == 1:
            np.testing.assert_allclose(again.read(name), entry.read(), rtol=0, atol=3e-7)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("encoding", ["tq2_0", "f32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_from_hugging_face_and_back(family, encoding, tmp_path):
    step = first = model(family, dtype="bfloat16")
    for path, how in (
        ("a.hf", "dequantized"), ("m.gguf", encoding), ("m.bitnet", None), ("n.gguf", "tq1_0"),
        ("b.hf", "dequantized"),
    ):  # fmt: skip
        format_ = "huggingface" if path.endswith(".hf") else None
        save_checkpoint(step, tmp_path / path, format=format_, encoding=how)
        step = open_checkpoint(tmp_path / path)
        assert step.digest() == first.digest() and step.spec == first.spec, path
    for name, entry in first.entries.items():
        if not entry.ternary:
            assert step.entries[name].dtype == entry.dtype
            np.testing.assert_array_equal(step.read(name), entry.read())


# --------------------------------------------------------------------------- as the bytes are
def test_phi3_has_q_k_v_and_gate_up_one_after_the_other(tmp_path):
    source = made.floats(model("phi3"))
    save_checkpoint(source, tmp_path / "m.gguf", encoding="f32")
    _, tensors = made.raw_file((tmp_path / "m.gguf").read_bytes())
    for theirs, parts in {
        "attn_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "ffn_up": ("mlp.gate_proj", "mlp.up_proj"),
    }.items():
        _, shape, data = tensors[f"blk.0.{theirs}.weight"]
        wanted = np.concatenate([source.read(f"layers.0.{name}") for name in parts])
        np.testing.assert_array_equal(data.view("<f4").reshape(shape), wanted)
    assert not {"blk.0.attn_q.weight", "blk.0.ffn_gate.weight"} & {*tensors}


@pytest.mark.parametrize("family", ["gemma", "gemma3"])
def test_every_norm_of_gemma_stands_with_the_1_that_is_added(family, tmp_path):
    source = model(family)
    path = written(family, tmp_path)
    _, tensors = made.raw_file(path.read_bytes())
    names = gguf_names(source.spec)
    norms = [name for name, entry in source.entries.items() if len(entry.shape) == 1]
    assert len(norms) == {"gemma": 2 + 1, "gemma3": 3 * 6 + 1}[family]
    for name in norms:
        data = tensors[names[name]][2].view("<f4")
        np.testing.assert_array_equal(data, source.read(name) + np.float32(1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_norm_that_the_sum_does_not_tell_comes_back_to_the_bit(dtype, tmp_path):
    small = np.random.default_rng(0).standard_normal(256) * 10.0 ** -(np.arange(256.0) ** 0.4)
    small = small.astype(np.dtype(dtype) if dtype != "bfloat16" else ml_dtypes.bfloat16)
    path = written("gemma", tmp_path, change=lambda c: with_norm(c, "norm", small))
    found = open_checkpoint(path).read("norm")
    assert found.dtype == small.dtype
    np.testing.assert_array_equal(found.view("u1"), small.view("u1"))
    assert len(json.loads(open_gguf_file(path).metadata[TABLE])["norm"]) == 3
    others = open_checkpoint(edit.without_ours(path, tmp_path / "o.gguf")).read("norm")
    np.testing.assert_allclose(others, small.astype("f4"), rtol=0, atol=2**-23)


def test_a_norm_of_float64_is_said_to_be_rounded(tmp_path):
    def change(checkpoint):
        return with_norm(checkpoint, "norm", np.full(256, 0.1))

    done = save_checkpoint(change(model("gemma")), tmp_path / "m.gguf", encoding="f32")
    assert any("rounded to F32: `norm`" in warning for warning in done.warnings)
    assert open_checkpoint(tmp_path / "m.gguf").read("norm")[0] == np.float32(0.1)


@pytest.mark.parametrize(("letters", "layers", "period"), [
    ("s", 3, 6), ("sssssf", 7, 6), ("s", 7, 8), ("sf", 4, 2), ("ssf", 8, 3), ("ssfs", 4, 3),
])  # fmt: skip
def test_windows_stand_as_a_size_and_a_period(letters, layers, period, tmp_path):
    extra = {"sliding_window": 4, "layer_types": letters}
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "head_dim": 64}
    spec = made.gemma("gemma3", num_layers=layers, extra=extra, **sizes)
    save_checkpoint(made.model(spec), tmp_path / "m.gguf", encoding="f32")
    metadata = open_gguf_file(tmp_path / "m.gguf").metadata
    assert metadata["gemma3.attention.sliding_window_pattern"] == period
    again = open_checkpoint(edit.without_ours(tmp_path / "m.gguf", tmp_path / "o.gguf"))
    found = str(again.spec.extra["layer_types"])
    assert (found * layers)[:layers] == (letters * layers)[:layers]


def test_the_27b_has_another_scale_of_attention(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "head_dim": 8,
             "num_kv_heads": 1, "num_layers": 62}  # fmt: skip
    spec = made.gemma("gemma3", extra={"query_pre_attn_scalar": 16}, **sizes)
    save_checkpoint(made.model(spec), tmp_path / "m.gguf", encoding="f32")
    again = open_checkpoint(edit.without_ours(tmp_path / "m.gguf", tmp_path / "o.gguf"))
    assert again.spec.extra["query_pre_attn_scalar"] == 16


def test_the_keys_of_a_gemma3(tmp_path):
    path = written("gemma3", tmp_path)
    keys = {
        key.removeprefix("gemma3."): value
        for key, value in open_gguf_file(path).metadata.items()
        if key.startswith("gemma3.")
    }
    assert keys == {
        "vocab_size": 512, "context_length": 256, "embedding_length": 256, "block_count": 3,
        "feed_forward_length": 512, "attention.head_count": 4, "attention.head_count_kv": 2,
        "attention.key_length": 64, "attention.value_length": 64,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-5), "rope.freq_base": 10000.0,
        "rope.freq_base_swa": 500.0, "rope.dimension_count": 64,
        "attention.sliding_window": 4, "attention.sliding_window_pattern": 3,
    }  # fmt: skip


# ------------------------------------------------------------------------------------ refused
@pytest.mark.parametrize(("family", "changes", "words"), [
    ("phi3", {"extra": {"sliding_window": 255}}, "window of 255 of 256"),
    ("phi3", {"extra": made.LLAMA3}, "Llama 3.1"),
    ("gemma", {"tie_embeddings": False}, "not tied"),
    ("gemma", {"extra": {"attention_bias": True}}, "biases"),
    ("gemma", {"extra": made.LLAMA3}, "Llama 3.1"),
    ("gemma3", {"extra": {"attention_bias": True}}, "biases"),
    ("gemma3", {"extra": {"query_pre_attn_scalar": 32}}, "takes the width of a head, 64"),
    ("gemma3", {"num_layers": 62, "extra": {"query_pre_attn_scalar": 32}}, "by heads, 64"),
    ("gemma3", {"num_layers": 4, "extra": {"sliding_window": 4, "layer_types": "fs"}}, "each n-th"),
    ("gemma3", {"num_layers": 4, "extra": {"sliding_window": 4, "layer_types": "sffs"}}, "'sffs'"),
], ids=str)  # fmt: skip
def test_what_llama_cpp_cannot_have_is_refused_with_what_fits(family, changes, words, tmp_path):
    extra = dict(SPECS[family].extra) | {"sliding_window": 0, "layer_types": "f"}
    extra = {name: value for name, value in extra.items() if name in SPECS[family].extra}
    changes = changes | {"extra": extra | changes.get("extra", {})}
    checkpoint = made.model(dataclasses.replace(SPECS[family], **changes))
    with pytest.raises(CannotCreate, match=words) as refused:
        save_checkpoint(checkpoint, tmp_path / "m.gguf")
    assert refused.value.code == "gguf.architecture" and "--format bitnet" in refused.value.hint
    assert not list(tmp_path.iterdir())


def test_parts_of_one_tensor_are_of_one_type_or_refused(tmp_path):
    mixed, plain = model("phi3"), made.floats(model("phi3"))
    name = "layers.0.self_attn.k_proj"
    mixed = dataclasses.replace(mixed, entries=mixed.entries | {name: plain.entries[name]})
    with pytest.raises(CannotCreate, match="attn_qkv.weight") as refused:
        save_checkpoint(mixed, tmp_path / "m.gguf", encoding="tq2_0")
    assert refused.value.code == "gguf.fused"
    save_checkpoint(mixed, tmp_path / "m.gguf", encoding="f16")
    again = open_checkpoint(tmp_path / "m.gguf")
    assert again.digest() == mixed.digest() and not again.entries[name].ternary
    np.testing.assert_array_equal(again.read(name), mixed.read(name))


# -------------------------------------------------------------------------------- files broken
def key(name, value):
    return lambda path: edit.value(path, name, value)


def lost(name, other):
    def change(path):
        path.write_bytes(edit.renamed(path, path.with_suffix(".x"), name, other).read_bytes())

    return change


def more(name, size):
    def change(path):
        file = open_gguf_file(path)
        new = {name: np.ones(size, "<f4")}
        metadata = edit.kinds(file.metadata)
        path.write_bytes(edit.write(file, path.with_suffix(".x"), metadata, more=new).read_bytes())

    return change


def sized(name, shape):
    """One tensor is of another size."""

    def change(path):
        lost(name, "old")(path)
        more(name, shape)(path)

    return change


def one(data):
    data[4:8] = np.frombuffer(np.float32(3).tobytes(), np.uint8)


BROKEN = {
    # what is not there
    "phi3, no qkv": ("phi3", lost("blk.0.attn_qkv.weight", "blk.0.attn_q.weight"), "attn_qkv"),
    "phi3, no up": ("phi3", lost("blk.0.ffn_up.weight", "blk.0.ffn_gate.weight"), "ffn_up"),
    "no norm of q": ("gemma3", lost("blk.1.attn_q_norm.weight", "x"), "attn_q_norm"),
    "no norm behind": ("gemma3", lost("blk.2.post_ffw_norm.weight", "x"), "post_ffw_norm"),
    "no norm after attention": (
        "gemma3", lost("blk.0.post_attention_norm.weight", "x"), "post_attention_norm"
    ),
    "no width of a head": ("gemma3", key("gemma3.attention.key_length", None), "key_length"),
    "no epsilon": ("gemma", key("gemma.attention.layer_norm_rms_epsilon", None), "epsilon"),
    # what is too much
    "a layer more than the keys": (
        "gemma3", key("gemma3.block_count", ("u32", 2)), "blk.2|num_layers"
    ),
    "a norm more": ("gemma", more("blk.0.attn_q_norm.weight", 64), "attn_q_norm"),
    "longrope": ("phi3", more("rope_factors_long.weight", 32), "longrope"),
    # sizes
    "rows of qkv": ("phi3", sized("blk.0.attn_qkv.weight", (500, 256)), "512, 256"),
    "columns of up": ("phi3", sized("blk.0.ffn_up.weight", (1024, 255)), "1024, 256"),
    "qkv is a vector": ("phi3", sized("blk.0.attn_qkv.weight", 512), "attn_qkv"),
    "a norm of q": ("gemma3", sized("blk.0.attn_q_norm.weight", 63), "attn_q_norm"),
    "the norm of all heads": ("gemma3", sized("blk.0.attn_k_norm.weight", 128), "attn_k_norm"),
    # keys
    "period 0": ("gemma3", key("gemma3.attention.sliding_window_pattern", ("u32", 0)), "from 1"),
    "period as text": (
        "gemma3", key("gemma3.attention.sliding_window_pattern", ("string", "6")), "from 1"
    ),
    "periods": (
        "gemma3", key("gemma3.attention.sliding_window_pattern", ("[i32]", np.ones(3, "<i4"))),
        "from 1",
    ),
    "window below 0": ("gemma3", key("gemma3.attention.sliding_window", ("i32", -1)), "from 0"),
    "window as a truth": ("gemma3", key("gemma3.attention.sliding_window", ("bool", True)), "True"),
    "local base": ("gemma3", key("gemma3.rope.freq_base_swa", ("f32", np.nan)), "local_rope_theta"),
    "local base 0": ("gemma3", key("gemma3.rope.freq_base_swa", ("f32", 0.0)), "local_rope_theta"),
    "softcap": ("gemma3", key("gemma3.final_logit_softcapping", ("f32", 30.0)), "softcapped"),
    "half turned": ("gemma3", key("gemma3.rope.dimension_count", ("u32", 32)), "whole heads"),
    "half of a gemma": ("gemma", key("gemma.rope.dimension_count", ("u32", 32)), "whole heads"),
    "turned past a head": ("phi3", key("phi3.rope.dimension_count", ("u32", 66)), "head of 64"),
    "phi3's window": ("phi3", key("phi3.attention.sliding_window", ("f32", 2.0)), "kind u32"),
    "longrope by its key": ("phi3", key("phi3.rope.scaling.type", ("string", "longrope")), "longr"),
}  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "of others"])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_by_name(case, ours, good, tmp_path):
    family, change, words = BROKEN[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(good[family, ours])
    change(path)
    with pytest.raises(BadData, match=words) as refused:
        checkpoint = open_checkpoint(path)
        for entry in checkpoint.entries.values():
            entry.read()
    assert refused.value.hint or "softcapped" in words


def test_a_type_with_one_scale_for_all_parts_is_refused(good, tmp_path):
    (tmp_path / "m.gguf").write_bytes(good["phi3", False])
    file = open_gguf_file(tmp_path / "m.gguf")
    plan = [
        Planned(i.name, TYPES["I2_S"] if "qkv" in i.name else i.type, i.shape)
        for i in file.tensors.values()
    ]
    with open(tmp_path / "o.gguf", "wb") as stream:
        writer = GgufWriter(stream, edit.kinds(file.metadata), plan)
        for row in plan:
            data = np.zeros(row.nbytes, np.uint8)
            writer.write(row.name, data if "qkv" in row.name else file.read_bytes(row.name))
    with pytest.raises(BadData, match="one scale for all of layers.0.self_attn.q_proj") as refused:
        open_checkpoint(tmp_path / "o.gguf")
    assert refused.value.code == "model.tensor_dtype"


@pytest.mark.parametrize(("family", "name", "value"), [
    ("gemma3", "gemma3.attention.sliding_window", ("u32", 5)),
    ("gemma3", "gemma3.attention.sliding_window", None),
    ("gemma3", "gemma3.attention.sliding_window_pattern", ("u32", 2)),
    ("gemma3", "gemma3.rope.freq_base_swa", ("f32", 400.0)),
    ("gemma3", "gemma3.rope.freq_base_swa", None),
    ("gemma3", "gemma3.rope.freq_base", ("f32", 400.0)),
    ("gemma", "gemma.rope.scaling.factor", ("f32", 2.0)),
    ("phi3", "phi3.attention.sliding_window", ("u32", 0)),
    ("phi3", "phi3.rope.dimension_count", ("u32", 32)),
])  # fmt: skip
def test_an_edited_key_does_not_fit_what_the_file_says_of_its_model(
    family, name, value, good, tmp_path
):
    path = tmp_path / "m.gguf"
    path.write_bytes(good[family, True])
    edit.value(path, name, value)
    if name.endswith("scaling.factor"):
        edit.value(path, "gemma.rope.scaling.type", ("string", "linear"))
    with pytest.raises(BadData) as refused:
        open_checkpoint(path)
    assert refused.value.code == "gguf.spec"


def test_a_model_that_no_such_file_holds_is_not_believed(tmp_path):
    path = written("gemma3", tmp_path)
    spec = json.loads(open_gguf_file(path).metadata["bitnet_jax.spec"])
    spec["extra"]["query_pre_attn_scalar"] = 100
    edit.value(path, "bitnet_jax.spec", ("string", json.dumps(spec)))
    with pytest.raises(BadData, match="no file of this architecture holds: query_pre") as refused:
        open_checkpoint(path)
    assert refused.value.code == "gguf.spec"


def test_norms_and_the_table_must_agree(tmp_path):
    small = np.full(256, 1e-9, np.float32)
    path = written("gemma", tmp_path, change=lambda c: with_norm(c, "norm", small))
    edit.tensor(path, "output_norm.weight", one)
    with pytest.raises(BadData, match="say different weights") as refused:
        open_checkpoint(path).read("norm")
    assert refused.value.code == "gguf.table"


@pytest.mark.parametrize("row", [
    ["float32", 0, 255], ["float32", -1, 256], ["float32", 1, 256], ["float32", 0, 1 << 60],
    ["float32", 0.0, 256], ["float32", 0], ["complex64", 0, 256], ["float32", "0", "256"],
], ids=str)  # fmt: skip
def test_a_strange_row_of_a_norm_is_refused(row, tmp_path):
    small = np.full(256, 1e-9, np.float32)
    path = written("gemma", tmp_path, change=lambda c: with_norm(made.floats(c), "norm", small))
    table = json.loads(open_gguf_file(path).metadata[TABLE])
    edit.value(path, TABLE, ("string", json.dumps(table | {"norm": row})))
    with pytest.raises(BadData) as refused:
        open_checkpoint(path).read("norm")
    assert refused.value.code == "gguf.table"


def test_exact_values_of_what_is_no_sum_must_be_the_values(tmp_path):
    """A row of a norm in a family that adds nothing."""
    path = written("phi3", tmp_path)
    file = open_gguf_file(path)
    table = json.loads(file.metadata[TABLE])
    metadata = edit.kinds(file.metadata) | {
        TABLE: ("string", json.dumps(table | {"norm": ["float32", 0, 256]})),
        "bitnet_jax.scales": ("[f32]", np.full(256, 7, "<f4")),
    }
    path = edit.write(file, tmp_path / "o.gguf", metadata)
    with pytest.raises(BitnetError, match="say different weights"):
        open_checkpoint(path).read("norm")
