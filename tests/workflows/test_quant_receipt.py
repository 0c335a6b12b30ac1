"""The receipt of a quantization: every claim again, one changed byte named, a missing text said."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import NoInput
from bitnet_jax.formats.model_files import stamp
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.workflows import proof, quantized
from bitnet_jax.workflows.conversion_receipt import sealed, unsealed
from tests.workflows.test_quant_refused import float_model

pytestmark = pytest.mark.heavy
RECIPE = "rules: [{path: '**.down_proj', to: keep}, {path: '**.*_proj', scale: row}]"
# What is made -> how. Named texts lie beside the receipt.
MADE = {
    "absmean": {},
    "rules": {"recipe": "c.yaml"},
    "int4": {"precision": "4"},
    "gptq": {"method": "gptq", "calibration": "other.txt"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`m.hf`, and what each of `MADE` makes of it."""
    folder = tmp_path_factory.mktemp("quantized")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        float_model("m.hf")
        Path("c.yaml").write_text(RECIPE)
        Path("text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 60)
        Path("other.txt").write_text("Sphinx of black quartz, judge my vow. " * 60)
        for name, how in MADE.items():
            bj.quant_convert("m.hf", f"{name}.bitnet", text="text.txt", tokens=256, **how)
        Path("c.yaml").unlink()  # a receipt holds the rules themselves
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def checked(name, **options):
    record = bj.validate(
        f"{name}.bitnet", check_weights=False, check_quantization=False,
        receipt=f"{name}.receipt.json", source="m.hf", **options,
    )  # fmt: skip
    said = "\n".join(f"{f['severity']} {f['code']} {f['message']}" for f in record["findings"])
    return record["receipt"], said


def resealed(name, change):
    """Alters a receipt as one who knows how it is sealed does."""
    path = Path(f"{name}.receipt.json")
    record = unsealed(path.read_bytes())
    change(record)
    path.write_bytes(sealed(record))


@pytest.mark.parametrize("name", MADE)
def test_what_was_not_touched_holds_with_every_claim(place, name):
    record, said = checked(name)
    assert record["holds"] and said == ""
    claims = {row["claim"] for row in record["claims"]}
    receipt = json.loads(Path(f"{name}.receipt.json").read_text())
    assert claims | {*record["not_derived"], "schema", "seal", "encoding"} == set(receipt)
    assert {"quantized", "losses", "text", "codes_changed", "probe"} <= claims
    assert str(Path.cwd().parent) not in json.dumps(receipt)


@pytest.mark.parametrize("name", MADE)
def test_one_code_that_changed_is_named_though_files_and_seal_were_made_to_agree(place, name):
    checkpoint = bj.open_checkpoint(f"{name}.bitnet")
    target = "layers.0.mlp.up_proj"
    tensor = checkpoint.read(target)
    codes = np.array(tensor.codes)
    codes.reshape(-1).view(np.uint8)[7] ^= 1
    entries = dict(checkpoint.entries)
    changed = replace(tensor, codes=codes)
    entries[target] = replace(entries[target], read=lambda: changed)
    save_checkpoint(replace(checkpoint, entries=entries), "new.bitnet")
    Path("new.bitnet").replace(f"{name}.bitnet")
    digest = bj.open_checkpoint(f"{name}.bitnet").digest().to_json()

    def agree(record):
        record["output_files"] = [stamp(Path(f"{name}.bitnet"))]
        record["digest_before"] = record["digest_after"] = digest

    resealed(name, agree)
    record, said = checked(name, probe=False)
    assert not record["holds"] and target in said and "codes_changed" in said


@pytest.mark.parametrize("name", ["absmean", "gptq"])
def test_one_byte_of_the_source_is_named_by_file_and_by_tensor(place, name):
    path = Path("m.hf/model.safetensors")
    data = bytearray(path.read_bytes())
    data[-2000] ^= 0x40  # an exponent of a weight
    path.write_bytes(data)
    record, said = checked(name, probe=False)
    assert not record["holds"]
    assert "receipt.source_files" in said and "model.safetensors" in said


CHANGES = {
    "method": (lambda q: q.update(method="gptq"), "receipt.quantized"),
    "precision": (lambda q: q.update(precision="4"), "receipt.quantized"),
    "rule": (lambda q: q["rules"][0].update(scale="row"), "codes_changed"),
    "rule that is none": (lambda q: q["rules"][0].update(to="int3"), "receipt.quantized"),
    "rule that takes nothing": (lambda q: q["rules"].append({"path": "x"}), "receipt.quantized"),
    "rules that are none": (lambda q: q.update(rules=7), "receipt.quantized"),
    "linears": (lambda q: q.update(linears=6), "quantized.linears"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_setting_that_was_altered_and_sealed_again_is_seen(place, what):
    change, word = CHANGES[what]
    resealed("absmean", lambda record: change(record["quantized"]))
    record, said = checked("absmean", probe=False)
    assert not record["holds"] and word in said, said


def test_losses_that_were_made_better_are_seen(place):
    def better(record):
        record["losses"]["loss_after"]["value"] *= 0.99

    resealed("absmean", better)
    record, said = checked("absmean")
    assert not record["holds"] and "losses.loss_after.value" in said


def test_texts_that_are_gone_or_others_are_asked_for(place):
    Path("text.txt").rename("moved.txt")
    record, said = checked("absmean")
    assert record["holds"] and "warning receipt.text" in said and "text.txt" in said
    assert {"losses", "text"} <= set(record["not_derived"])
    assert checked("absmean", text="moved.txt")[1] == ""
    assert checked("absmean", probe=False)[1] == ""

    Path("other.txt").rename("gone.txt")
    with pytest.raises(NoInput, match=r"calibration text, `other.txt`.* not here") as caught:
        checked("gptq", probe=False)
    assert caught.value.code == "receipt.text" and "--calibration" in caught.value.hint
    assert checked("gptq", calibration="gone.txt", probe=False)[1] == ""
    Path("other.txt").write_text(Path("gone.txt").read_text().replace("quartz", "marble"))
    with pytest.raises(NoInput, match="gives other tokens"):
        checked("gptq", probe=False)


@pytest.mark.parametrize(("share", "may"), [(0.002, True), (0.02, False)])
def test_another_kernel_may_flip_a_few_fed_codes(place, monkeypatch, share, may):
    plain = quantized.feed_errors

    def elsewhere(weight, hessian, *args):
        """As where sums have other last bits: some codes are others."""
        fed = plain(weight, hessian, *args)
        codes = fed.codes.copy()
        first = codes.reshape(-1)[: int(share * codes.size)]
        first[:] = np.where(first == 0, 1, 0)
        return replace(fed, codes=codes)

    monkeypatch.setattr(quantized, "feed_errors", elsewhere)
    record, said = checked("gptq", probe=False)
    assert not record["holds"] and "codes_changed" in said  # the same kernel: the same bits
    other = proof.made_by() | {"kernel": "another"}
    monkeypatch.setattr(proof, "made_by", lambda: other)
    record, said = checked("gptq", probe=False)
    assert record["holds"] is may and ("codes_changed" not in said) is may
    assert ("warning receipt.codes_apart 8 codes of" in said) is may
    assert checked("absmean", probe=False)[1] == ""
