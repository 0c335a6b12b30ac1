"""ONNX files of ours, read as checkpoints; those that others made are in test_onnx_exporters.py."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.checkpoint import Source, checkpoint_of
from bitnet_jax.formats.create_tokenizer import make_tokenizer
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.models.names import expected
from bitnet_jax.quant.kinds import kind_of
from bitnet_jax.quant.tensor import QuantTensor, from_codes
from tests.formats import onnx_files
from tests.formats.onnx_files import edit, metadata
from tests.tiny import tiny_spec

SPEC = tiny_spec(
    vocab_size=272, hidden_size=16, intermediate_size=40, num_layers=1, num_heads=2,
    num_kv_heads=1, head_dim=8, bos_token_id=256, eos_token_ids=(257,),
)  # fmt: skip
Q = "layers.0.self_attn.q_proj"


def model(scale_kind="tensor", tokenizer=True, path=None):
    """A random model whose ternary tensors have a scale of a kind."""
    rng = np.random.default_rng(0)
    params = {}
    for name, item in expected(SPEC).items():
        if not item.ternary:
            params[name] = rng.standard_normal(item.shape).astype(onnx_bf16())
            continue
        out, inner = item.shape
        size = {"tensor": (), "row": (out,), "group": (out, -(-inner // 16))}[scale_kind]
        if scale_kind == "group" and inner % 16:
            size = ()
        params[name] = from_codes(
            rng.integers(-1, 2, item.shape).astype(np.int8),
            rng.uniform(0.5, 2, size).astype("f4"),
            scale_kind="tensor" if size == () else scale_kind,
            group_size=16 if len(size) == 2 else 0,
            dtype="bfloat16",
        )
    source = Source(path, "memory", "packed")
    return checkpoint_of(SPEC, params, make_tokenizer(SPEC) if tokenizer else None, source)


def onnx_bf16():
    import ml_dtypes

    return ml_dtypes.bfloat16


@pytest.mark.parametrize("scale_kind", ["tensor", "row", "group"])
@pytest.mark.parametrize("storage", ["int8", "int4", "int2", "nbits2"])
def test_every_storage_is_read_to_the_same_digests(storage, scale_kind, tmp_path):
    source = model(scale_kind)
    path = onnx_files.write(source, tmp_path / "m.onnx", storage, widen=storage == "int4")
    found = open_checkpoint(path)
    assert found.digest() == source.digest()
    assert found.spec == SPEC and found.source.format == "onnx"
    assert found.source.detail["digests"] == source.digest().to_json()
    assert found.tokenizer.tokenizer_json == source.tokenizer.tokenizer_json
    for name, value in found.tensors():
        wanted = source.read(name)
        if isinstance(wanted, QuantTensor):
            np.testing.assert_array_equal(value.codes_matrix(), wanted.codes_matrix())
        else:
            assert value.dtype == wanted.dtype
            np.testing.assert_array_equal(value, wanted)


@pytest.mark.parametrize("kind, storage", [("int8", "int8"), ("int6", "int8"), ("int4", "int4")])
def test_other_kinds_than_ternary_are_read_too(kind, storage, tmp_path):
    source = model(tokenizer=False)
    high = kind_of(kind).high
    entry = source.entries[Q]
    codes = np.random.default_rng(0).integers(-high, high + 1, entry.shape).astype(np.int8)
    made = from_codes(codes, np.float32(0.5), kind=kind, dtype="bfloat16")
    entries = source.entries | {Q: dataclasses.replace(entry, read=lambda: made)}
    whole = dataclasses.replace(source, entries=entries)
    path = onnx_files.write(whole, tmp_path / "m.onnx", storage)
    found = open_checkpoint(path)
    assert found.read(Q).kind == kind and found.digest() == whole.digest()
    np.testing.assert_array_equal(found.read(Q).codes_matrix(), codes)
    _byte(path, f"{Q}.codes", {"int4": 0x88}.get(kind, 0x80))
    with pytest.raises(BadData) as caught:
        open_checkpoint(path, verify=False).read(Q)
    assert caught.value.code == "onnx.illegal_code"


def test_it_converts_to_every_format_with_the_same_trits(tmp_path):
    source = model()
    path = onnx_files.write(source, tmp_path / "m.onnx")
    bj.convert(path, tmp_path / "m.bitnet", allow=["scale.inverted"])
    bj.convert(tmp_path / "m.bitnet", tmp_path / "m.hf", allow=["scale.inverted"])
    for made in ("m.bitnet", "m.hf"):
        assert open_checkpoint(tmp_path / made).digest() == source.digest()


def test_a_file_without_its_data_inside_of_it_is_read_too(tmp_path):
    path = onnx_files.write(model(), tmp_path / "m.onnx", inline=True)
    assert open_checkpoint(path).digest() == model().digest()


def change_row(**changes):
    return metadata("bitnet.rows", lambda rows: rows[Q].update(changes))


def _without(key):
    def change(model):
        kept = [(p.key, p.value) for p in model.metadata_props if p.key != key]
        del model.metadata_props[:]
        for name, value in kept:
            model.metadata_props.add(key=name, value=value)

    return change


def _set(key, value):
    def change(model):
        next(p for p in model.metadata_props if p.key == key).value = value

    return change


def _drop_row(rows):
    del rows[Q]


FAULTS = {
    "a later version": (_set("bitnet.format", "2"), "onnx.format_version"),
    "no spec": (_without("bitnet.spec"), "onnx.no_spec"),
    "a spec that is no JSON": (_set("bitnet.spec", "{"), "onnx.metadata"),
    "a spec that is a list": (_set("bitnet.spec", "[]"), "onnx.metadata"),
    "no rows": (_without("bitnet.rows"), "onnx.names"),
    "a row less": (metadata("bitnet.rows", _drop_row), "onnx.names"),
    "a row that is a number": (metadata("bitnet.rows", lambda r: r | {Q: 5}), "model.tensor_shape"),
    "another shape": (change_row(shape=[1, 2]), "model.tensor_shape"),
    "another kind": (change_row(kind="int5"), "bitnet.unknown_kind"),
    "a kind that is a list": (change_row(kind=["int8"]), "bitnet.unknown_kind"),
    "axes that are none": (change_row(out_axes=[7]), "bitnet.table"),
    "another storage": (change_row(storage="int4"), "onnx.rows"),
    "an unknown storage": (change_row(storage=["int4"]), "onnx.rows"),
    "no storage": (change_row(storage=None), "onnx.rows"),
    "nbits2 without blocks": (change_row(storage="nbits2", block_size="9"), "onnx.rows"),
    "blocks of 0": (change_row(storage="nbits2", block_size=0), "onnx.rows"),
    "a scale per row": (change_row(scale_kind="row"), "bitnet.table"),
    "no initializer": (
        lambda m: [setattr(t, "name", "x") for t in m.graph.initializer if t.name == f"{Q}.codes"],
        "onnx.missing",
    ),
    "a float that is an integer": (
        metadata("bitnet.rows", lambda r: r["norm"].update(storage="int8")), "onnx.rows"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_table_that_does_not_fit_is_refused(fault, tmp_path):
    change, code = FAULTS[fault]
    path = edit(onnx_files.write(model(tokenizer=False), tmp_path / "m.onnx"), change)
    with pytest.raises(BadData) as caught:
        open_checkpoint(path)
    assert caught.value.code == code


def _byte(path, tensor, value):
    """Writes a byte of a tensor's data."""
    proto = next(
        t for t in onnx.load(path, load_external_data=False).graph.initializer if t.name == tensor
    )
    offset = next(int(row.value) for row in proto.external_data if row.key == "offset")
    data = path.with_name(path.name + ".data")
    raw = bytearray(data.read_bytes())
    raw[offset] = value
    data.write_bytes(raw)


@pytest.mark.parametrize("tensor", [f"{Q}.codes", f"{Q}.scale", "norm"])
def test_a_changed_byte_is_found_when_it_is_read(tensor, tmp_path):
    path = onnx_files.write(model(tokenizer=False), tmp_path / "m.onnx")
    _byte(path, tensor, 0x55)
    found = open_checkpoint(path)
    with pytest.raises(BadData) as caught:
        found.read(tensor.removesuffix(".codes").removesuffix(".scale"))
    assert caught.value.code == "onnx.checksum"


@pytest.mark.parametrize(
    "storage, value", [("int8", 2), ("int8", 0x80), ("int2", 0b10), ("nbits2", 0), ("int4", 7)]
)
def test_a_code_that_is_no_trit_is_refused(storage, value, tmp_path):
    path = onnx_files.write(model(tokenizer=False), tmp_path / "m.onnx", storage)
    _byte(path, f"{Q}.codes", value)
    with pytest.raises(BadData) as caught:
        open_checkpoint(path, verify=False).read(Q)
    assert caught.value.code == "onnx.illegal_code"


def test_a_file_without_its_checksums_was_altered(tmp_path):
    path = onnx_files.write(model(tokenizer=False), tmp_path / "m.onnx")
    edit(path, _without("bitnet.checksums"))
    for name in (Q, "norm"):
        with pytest.raises(BadData) as caught:
            open_checkpoint(path).read(name)
        assert caught.value.code == "onnx.checksum"


def test_a_widened_float_that_is_not_what_it_was_is_refused(tmp_path):
    path = onnx_files.write(model(tokenizer=False), tmp_path / "m.onnx", widen=True)
    _byte(path, "norm", 1)
    with pytest.raises(BadData, match="widened"):
        open_checkpoint(path, verify=False).read("norm")


def test_a_graph_of_others_needs_a_config(tmp_path):
    path = edit(
        onnx_files.write(model(tokenizer=False), tmp_path / "m.onnx"),
        lambda m: m.ClearField("metadata_props"),
    )
    with pytest.raises(BadData, match=r"config\.json") as caught:
        open_checkpoint(path)
    assert caught.value.code == "onnx.no_config"


def test_weights_that_nothing_tells_are_listed(tmp_path):
    from tests.formats.checkpoints import config

    path = edit(
        onnx_files.write(model(tokenizer=False), tmp_path / "m.onnx"),
        lambda m: m.ClearField("metadata_props"),
    )
    (tmp_path / "config.json").write_text(json.dumps(config(SPEC)))
    with pytest.raises(BadData, match=r"q_proj") as caught:
        open_checkpoint(path)
    assert caught.value.code == "onnx.missing_weight"
