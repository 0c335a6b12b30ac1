"""Orbax to .bitnet to one safetensors file to StableHLO, with receipts that hold to the byte."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import BadData, CannotCreate, UsageError
from bitnet_jax.export import stablehlo, stablehlo_led
from bitnet_jax.export.stablehlo_run import Programs
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.ir.borders import borders
from bitnet_jax.ir.graph import Replacement, replaced
from bitnet_jax.ir.interpreter import bind
from bitnet_jax.workflows import export_stablehlo as workflow
from tests.export.models import small_checkpoint
from tests.formats import orbax_files

pytestmark = pytest.mark.heavy

# What is made of what, in this order.
CHAIN = ("orbax/ck", "m.bitnet", "one/m.safetensors", "m.stablehlo")


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The models, each made of the one before it, and the receipt of each."""
    folder = tmp_path_factory.mktemp("chain")
    orbax_files.write(folder / "orbax", form="master")
    (folder / "one").mkdir()
    records = {}
    for source, output in zip(CHAIN, CHAIN[1:], strict=False):
        records[output] = bj.convert(folder / source, folder / output)
    return folder, records


def test_the_digests_are_equal_from_end_to_end(chain):
    folder, records = chain
    wanted = bj.digest(folder / CHAIN[0]).to_json()
    for record in records.values():
        assert record["digest_before"] == record["digest_after"] == wanted
        assert record["scales_changed"] == [] and all(row["ok"] for row in record["contract"])
    assert records["m.stablehlo"]["parity"]["holds"]
    assert records["one/m.safetensors"]["probe"]["holds"]
    assert records["one/m.safetensors"]["encoding"] in ("bitlinear", "autobitlinear")


@pytest.mark.parametrize(("source", "output"), list(zip(CHAIN, CHAIN[1:], strict=False)))
def test_every_receipt_is_derived_again_and_one_changed_byte_is_named(chain, source, output):
    folder, records = chain
    receipt = records[output]["receipt"]

    def found():
        return bj.validate(
            folder / output, receipt=receipt, source=folder / source, probe=False, jobs=1
        )

    assert found()["receipt"]["holds"], found()["findings"]
    stated = json.loads((folder / receipt).read_text())
    for side, path in (("source", folder / source), ("output", folder / output)):
        base = path if path.is_dir() else path.parent
        for row in stated[f"{side}_files"]:
            file = base / row["name"]
            before = file.read_bytes()
            if not before:
                continue
            changed = bytearray(before)
            changed[len(before) // 2] ^= 1
            file.write_bytes(changed)
            try:
                record = found()
            finally:
                file.write_bytes(before)
            assert not record["receipt"]["holds"]
            assert row["name"] in str(record["findings"])
    assert found()["receipt"]["holds"]


def test_a_conversion_made_before_is_known(chain):
    folder, _ = chain
    for source, output in zip(CHAIN, CHAIN[1:], strict=False):
        assert bj.converted(folder / source, folder / output) is not None
        assert bj.converted(folder / source, folder / output, encoding="packed-1.6") is None


def test_it_is_no_source(chain, tmp_path):
    with pytest.raises(BadData) as caught:
        bj.convert(chain[0] / "m.stablehlo", tmp_path / "m.bitnet")
    assert caught.value.code == "stablehlo.not_a_source"


@pytest.fixture
def model(tmp_path):
    save_checkpoint(small_checkpoint(tmp_path, num_layers=1), tmp_path / "model.bitnet")
    return tmp_path / "model.bitnet"


def test_a_wrong_encoding_is_told_with_those_that_fit(model, tmp_path):
    for encoding in ("master", "portable"):
        with pytest.raises(UsageError) as caught:
            bj.convert(model, tmp_path / "m.stablehlo", encoding=encoding)
        assert caught.value.code == "format.encoding" and "packed-1.6" in caught.value.hint
    assert not (tmp_path / "m.stablehlo").exists()


def test_logits_that_differ_are_no_export(model, tmp_path, monkeypatch):
    def other(self, tokens, prefill, capacity):
        return 1.5 * bj.load(model).logits(tokens)[..., ::-1]

    monkeypatch.setattr(Programs, "logits", other)
    with pytest.raises(BadData) as caught:
        bj.convert(model, tmp_path / "m.stablehlo")
    assert caught.value.code == "contract.logits"
    assert {file.name for file in tmp_path.iterdir()} == {"model.bitnet"}


@pytest.fixture
def deep(tmp_path):
    save_checkpoint(small_checkpoint(tmp_path, num_layers=3), tmp_path / "deep.bitnet")
    return tmp_path / "deep.bitnet"


def test_a_model_that_does_not_hold_as_a_whole_is_asked_piece_by_piece(deep, tmp_path, monkeypatch):
    right, asked = workflow.compare_logits, []

    def spoiled(ours, theirs):
        """As of a large model: half of the tokens met a code that rounds the other way."""
        asked.append(right(ours, theirs))
        return replace(asked[-1], median_logit_difference=0.05) if len(asked) == 1 else asked[-1]

    whole = bj.convert(deep, tmp_path / "whole.stablehlo")
    assert whole["parity"]["holds"] and whole["by_piece"] is None
    monkeypatch.setattr(workflow, "compare_logits", spoiled)
    record = bj.convert(deep, tmp_path / "m.stablehlo")
    found = record["by_piece"]
    assert not record["parity"]["holds"] and found["holds"] and found["same_bits"]
    # Before attention, before the MLP, before the last norm and before the head.
    assert found["borders"] == 8 and found["pieces"] == 9
    assert found["worst_median"] < 2e-6 and found["top1_clear_agreement"] == 1
    receipt = json.loads((tmp_path / record["receipt"]).read_text())
    assert receipt["by_piece"] == found


def other_activation(program):
    """The second layer's, of the absolute value."""
    eqns = program.jaxpr.jaxpr.eqns
    at = [index for index, eqn in enumerate(eqns) if eqn.primitive.name == "gated_activation"][1]

    def run(gate, *others):
        return bind(eqns[at], [abs(gate), *others])

    return at, Replacement(tuple(eqns[at].invars), tuple(eqns[at].outvars), run)


def earlier_input(program):
    """The second layer's norm reads what the first layer's second norm did."""
    eqns, name = program.jaxpr.jaxpr.eqns, "layers.1.input_layernorm"
    weight = program.jaxpr.jaxpr.invars[program.param_names.index(name)]
    (at,) = [index for index, eqn in enumerate(eqns) if weight in eqn.invars]
    size = math.prod(program.input_avals[0].shape)
    before = borders(program, size)["layers.0.post_attention_layernorm"]
    inputs = (before, *eqns[at].invars[1:])
    return at, Replacement(inputs, tuple(eqns[at].outvars), lambda *values: bind(eqns[at], values))


@pytest.mark.parametrize("fault", [other_activation, earlier_input])
@pytest.mark.parametrize("only_lowered", [False, True])
def test_a_fault_is_no_piece_of_a_large_model(deep, tmp_path, monkeypatch, fault, only_lowered):
    """In the function, which the programs then are; or in them alone."""
    right = stablehlo.program_of

    def wrong(*given):
        program = right(*given)
        return program.derived("fault", replaced(program.jaxpr, dict([fault(program)])))

    for module in (stablehlo,) if only_lowered else (stablehlo, stablehlo_led):
        monkeypatch.setattr(module, "program_of", wrong)
    with pytest.raises(BadData) as caught:
        bj.convert(deep, tmp_path / "m.stablehlo")
    error = caught.value
    assert error.code == "contract.logits"
    assert "2e-06 is allowed" in str(error) and "each piece given our values" in str(error)
    assert ("do not give the bits of their function" in str(error)) == only_lowered
    if not only_lowered:  # the layer is named
        assert "before layers.1." in str(error) or "before layers.2.input" in str(error)
    assert not (tmp_path / "m.stablehlo").exists()


def test_a_folder_is_replaced_with_force_alone(model, tmp_path):
    made = bj.convert(model, tmp_path / "m.stablehlo", probe=False)
    assert made["parity"] is None and made["max_logit_difference"] is None
    with pytest.raises(CannotCreate):
        bj.convert(model, tmp_path / "m.stablehlo", probe=False)
    again = bj.convert(model, tmp_path / "m.stablehlo", probe=False, force=True)
    assert again["output_files"] == made["output_files"]
    (tmp_path / "m.stablehlo" / "notes.txt").write_text("mine")
    with pytest.raises(CannotCreate) as caught:
        bj.convert(model, tmp_path / "m.stablehlo", probe=False, force=True)
    assert caught.value.code == "io.not_a_model"
