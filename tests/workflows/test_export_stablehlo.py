"""Orbax to .bitnet to one safetensors file to StableHLO, with receipts that hold to the byte."""

from __future__ import annotations

import json

import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import BadData, CannotCreate, UsageError
from bitnet_jax.formats.save import save_checkpoint
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
    class Other:
        def logits(self, tokens, prefill, capacity):
            return 1.5 * bj.load(model).logits(tokens)[..., ::-1]

    monkeypatch.setattr(workflow, "open_stablehlo", lambda folder: Other())
    with pytest.raises(BadData) as caught:
        bj.convert(model, tmp_path / "m.stablehlo")
    assert caught.value.code == "contract.logits"
    assert {file.name for file in tmp_path.iterdir()} == {"model.bitnet"}


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
