"""Exporting a whole model: the record, the proof, what is refused."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import (
    BadData,
    BitnetError,
    CannotCreate,
    InternalError,
    NoInput,
    UsageError,
)
from bitnet_jax.export import pieces
from bitnet_jax.export.measure_pieces import WrittenDecoder
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.workflows import export as workflow
from bitnet_jax.workflows.export import export_model
from tests.export.models import small_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    path = folder / "model.bitnet"
    save_checkpoint(small_checkpoint(folder, num_layers=1), path)
    return path


def unprobed(source, output, **options):
    return export_model(source, output, probe=False, **options)


def test_the_record_says_what_was_written(tmp_path, model):
    record = unprobed(model, tmp_path / "m.onnx", optimize_for="size")
    assert record["outputs"] == [str(tmp_path / name) for name in ("m.onnx", "m.onnx.data")]
    assert record["digest_before"] == record["digest_after"] == bj.digest(model).to_json()
    assert record["scales_changed"] == [] and record["encoding"] == "size" and record["exact"]
    assert record["max_logit_difference"] is None
    assert [step["name"] for step in record["passes"]] == [
        "pack_weights", "inline_calls", "onnx (size)",
    ]  # fmt: skip
    json.dumps(record)


def test_convert_writes_onnx_too(tmp_path, model):
    output = tmp_path / "m.onnx"
    record = bj.convert(model, output, encoding="inference", probe=False)
    assert record["format"] == "onnx" and record["encoding"] == "inference" and not record["exact"]
    assert any(n.op_type == "MatMulNBits" for n in onnx.load(output).graph.node)


def test_its_receipt_can_be_derived_again_and_a_changed_byte_is_named(tmp_path, model):
    output = tmp_path / "m.onnx"
    receipt = unprobed(model, output)["receipt"]
    found = bj.validate(output, receipt=receipt, source=model)
    assert found["receipt"]["holds"] and len(found["receipt"]["claims"]) > 8
    again = bj.converted(model, output, format="onnx", probe=False)
    assert again["digest_after"] == found["digest"]
    data = bytearray((tmp_path / "m.onnx.data").read_bytes())
    data[70] ^= 1
    (tmp_path / "m.onnx.data").write_bytes(data)
    assert bj.converted(model, output, format="onnx", probe=False) is None
    found = bj.validate(output, receipt=receipt, source=model)
    assert not found["receipt"]["holds"] and "m.onnx.data" in str(found["findings"])


def test_a_checkpoints_tensors_alone_make_no_onnx(tmp_path, model):
    with pytest.raises(UsageError) as caught:
        save_checkpoint(bj.open_checkpoint(model), tmp_path / "m.onnx")
    assert caught.value.code == "format.lowered"


@pytest.mark.parametrize("there", ["m.onnx", "m.onnx.data"])
def test_what_stands_there_is_left_alone(tmp_path, model, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(CannotCreate):
        unprobed(model, tmp_path / "m.onnx")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [(there, "mine")]


def test_the_output_may_not_be_the_input(tmp_path, model):
    with pytest.raises(CannotCreate) as caught:
        unprobed(model, model, force=True)
    assert caught.value.code == "io.output_is_input"


def test_no_such_model_no_such_profile(tmp_path, model):
    with pytest.raises(NoInput):
        unprobed(tmp_path / "nothing", tmp_path / "m.onnx")
    with pytest.raises(UsageError) as caught:
        unprobed(model, tmp_path / "m.onnx", optimize_for="speed")
    assert caught.value.code == "export.profile"
    assert list(tmp_path.iterdir()) == []


def test_the_doctors_errors_stop_it_unless_they_are_allowed(tmp_path):
    checkpoint = small_checkpoint(tmp_path, num_layers=1)
    tensor = checkpoint.read("layers.0.mlp.up_proj")
    empty = dataclasses.replace(tensor, codes=np.full_like(tensor.codes, 0x55))
    entry = dataclasses.replace(checkpoint.entries["layers.0.mlp.up_proj"], read=lambda: empty)
    entries = {**checkpoint.entries, entry.name: entry}
    save_checkpoint(dataclasses.replace(checkpoint, entries=entries), tmp_path / "bad.bitnet")
    with pytest.raises(BadData) as caught:
        unprobed(tmp_path / "bad.bitnet", tmp_path / "m.onnx")
    assert caught.value.code == "weights.all_zero"
    allow = ("weights.all_zero", "weights.histogram")
    record = unprobed(tmp_path / "bad.bitnet", tmp_path / "m.onnx", allow=allow)
    assert "weights.all_zero" in record["allowed"]


def test_a_file_that_does_not_hold_the_model_is_not_written(tmp_path, model, monkeypatch):
    from bitnet_jax.export import weights

    def wrong(matrix, block):
        dtype, shape, data = weights._int8(matrix, block)
        data = data.copy()
        data[0, 0] = 1 - abs(data[0, 0])
        return dtype, shape, data

    monkeypatch.setitem(weights._STORAGES, "int8", wrong)
    with pytest.raises(InternalError) as caught:
        unprobed(model, tmp_path / "m.onnx")
    assert caught.value.code == "export.digest_changed" and list(tmp_path.iterdir()) == []


def test_the_receipt_is_there_before_its_files_and_goes_with_a_failure(
    tmp_path, model, monkeypatch
):
    replace, seen = os.replace, []

    def fails(source, target):
        if Path(target).name != "m.onnx":
            return replace(source, target)
        seen.append((tmp_path / "m.onnx-receipt.json").exists())
        raise OSError(5, "no more")

    monkeypatch.setattr("bitnet_jax.core.paths.os.replace", fails)
    with pytest.raises(BitnetError):
        unprobed(model, tmp_path / "m.onnx")
    assert seen == [True] and not (tmp_path / "m.onnx-receipt.json").exists()


def test_what_stood_there_keeps_no_receipt_of_another(tmp_path, model, monkeypatch):
    unprobed(model, tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    replace = os.replace

    def fails(source, target):
        if Path(target).name == "m.onnx":
            raise OSError(5, "no more")
        return replace(source, target)

    monkeypatch.setattr("bitnet_jax.core.paths.os.replace", fails)
    with pytest.raises(BitnetError):
        unprobed(model, tmp_path / "m.onnx", optimize_for="size", force=True)
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert not (tmp_path / "m.onnx-receipt.json").exists()


def test_a_graph_that_is_no_onnx_is_not_written(tmp_path, model, monkeypatch):
    from bitnet_jax.export.table import TABLE

    def unknown(low, eqn, values):
        return [low.builder.op("NoSuchOp", values[0])]

    monkeypatch.setitem(TABLE, "rms_norm", unknown)
    with pytest.raises(InternalError) as caught:
        unprobed(model, tmp_path / "m.onnx")
    assert caught.value.code == "export.invalid" and list(tmp_path.iterdir()) == []


@pytest.mark.heavy
@pytest.mark.parametrize("profile", ["portable", "inference"])
def test_each_step_is_measured(tmp_path, model, profile):
    record = export_model(model, tmp_path / "m.onnx", optimize_for=profile)
    *passes, last = record["passes"]
    assert all(step["max_logit_difference"] < 2e-6 for step in passes)
    assert last["max_logit_difference"] == record["max_logit_difference"]
    assert record["runtime"].startswith("onnxruntime ") and record["warnings"] == []
    if profile == "portable":
        assert record["parity"]["holds"] and record["max_logit_difference"] < 2e-5
    else:
        assert 1e-4 < record["max_logit_difference"] < 0.3
        assert record["parity"]["max_logit_difference"] == record["max_logit_difference"]


@pytest.mark.heavy
def test_without_onnx_runtime_it_is_said_that_nothing_was_measured(tmp_path, model, monkeypatch):
    monkeypatch.setattr(workflow, "runtime_name", lambda: None)
    record = export_model(model, tmp_path / "m.onnx", optimize_for="inference")
    assert record["max_logit_difference"] is None and record["runtime"] is None
    (warning,) = record["warnings"]
    assert "not installed" in warning and "not exact" in warning
    assert record["passes"][-1] == {"name": "onnx (inference)", "max_logit_difference": None}


@pytest.mark.heavy
def test_a_large_model_is_run_piece_by_piece(tmp_path, monkeypatch):
    save_checkpoint(small_checkpoint(tmp_path, num_layers=3), tmp_path / "m.bitnet")
    whole = export_model(tmp_path / "m.bitnet", tmp_path / "whole.onnx")
    monkeypatch.setattr(pieces, "PIECE_BYTES", 40_000)
    record = export_model(tmp_path / "m.bitnet", tmp_path / "m.onnx")
    assert whole["by_piece"] is None and whole["parity"] == record["parity"]
    found = record["by_piece"]
    assert found["holds"] and found["pieces"] > found["borders"] > 1
    assert found["worst_median"] < 2e-6 and found["top1_clear_agreement"] == 1
    # Of a profile that is not exact the error of the whole is what is told.
    record = export_model(tmp_path / "m.bitnet", tmp_path / "i.onnx", optimize_for="inference")
    assert record["by_piece"] is None and 1e-4 < record["max_logit_difference"] < 0.3


@pytest.mark.heavy
def test_a_piece_that_computes_otherwise_is_told(tmp_path, monkeypatch):
    """The activation of every layer, as a file that was written wrongly would have it."""
    from bitnet_jax.export.table import TABLE

    save_checkpoint(small_checkpoint(tmp_path, num_layers=3), tmp_path / "m.bitnet")
    monkeypatch.setattr(pieces, "PIECE_BYTES", 40_000)
    right, made = TABLE["gated_activation"], []

    def wrong(low, eqn, values):
        made.append(eqn)
        if len(made) != 2:
            return right(low, eqn, values)
        return right(low, eqn, [low.builder.op("Abs", values[0]), *values[1:]])

    monkeypatch.setitem(TABLE, "gated_activation", wrong)
    with pytest.raises(BadData) as caught:
        export_model(tmp_path / "m.bitnet", tmp_path / "m.onnx")
    assert caught.value.code == "contract.logits"
    assert "before layers.2." in caught.value.message and len(made) >= 3
    assert [path.name for path in tmp_path.iterdir()] == ["m.bitnet"]


@pytest.mark.heavy
@pytest.mark.parametrize("most", [pieces.PIECE_BYTES, 40_000])
def test_pieces_that_are_wired_otherwise_are_told(tmp_path, monkeypatch, most):
    """Layer 2 reads what layer 1 reads: each piece by itself computes what it should."""
    save_checkpoint(small_checkpoint(tmp_path, num_layers=3), tmp_path / "m.bitnet")
    right, changed = WrittenDecoder.open, []

    def rewired(path, spec, **options):
        model = onnx.load(path, load_external_data=False)
        if not changed:
            borders = right(path, spec, layers=True).borders
            of = {parameter: value for value, parameter in borders.items()}
            for node in model.graph.node:
                for at, name in enumerate(node.input):
                    if name == of["layers.2.input_layernorm"]:
                        node.input[at] = of["layers.1.input_layernorm"]
                        changed.append(node.name)
            path.write_bytes(model.SerializeToString())
        monkeypatch.setattr(pieces, "PIECE_BYTES", most)
        return right(path, spec, **options)

    monkeypatch.setattr(WrittenDecoder, "open", rewired)
    with pytest.raises(BadData) as caught:
        export_model(tmp_path / "m.bitnet", tmp_path / "m.onnx")
    assert caught.value.code == "contract.logits" and changed
    assert "each piece given our values" in caught.value.message
