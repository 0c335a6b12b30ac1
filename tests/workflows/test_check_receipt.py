"""`model validate --receipt`: every claim again, and one changed byte on any side is named."""

import json
import shutil
from pathlib import Path

import pytest

from bitnet_jax.core.errors import NoInput, UsageError
from bitnet_jax.workflows.check_receipt import REQUIRED, check_receipt
from bitnet_jax.workflows.conversion_receipt import sealed, unsealed
from bitnet_jax.workflows.convert import convert
from bitnet_jax.workflows.create import create
from bitnet_jax.workflows.validate import validate


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """`m.hf`, and `m.bitnet` and `n.hf` that were made of it, with a probe."""
    folder = tmp_path_factory.mktemp("converted")
    create(shape="tiny", layers=1, output=folder / "m.hf")
    for output in ("m.bitnet", "n.hf"):
        convert(folder / "m.hf", folder / output)
    return folder


@pytest.fixture
def place(converted, tmp_path, monkeypatch):
    shutil.copytree(converted, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


RECEIPTS = {"m.bitnet": "m.receipt.json", "n.hf": "n.hf/receipt.json"}


def checked(model="m.bitnet", **options):
    return check_receipt(model, RECEIPTS[model], "m.hf", **options)


@pytest.mark.parametrize("model", RECEIPTS)
def test_what_was_not_touched_holds_with_every_claim(place, model):
    record = checked(model)
    assert record["holds"] and record["findings"] == []
    claims = {row["claim"] for row in record["claims"]}
    receipt = json.loads(Path(RECEIPTS[model]).read_text())
    sealed_only = {*record["not_derived"], "schema", "seal"}
    assert claims | sealed_only == {name for name, value in receipt.items() if value is not None}
    assert validate(model, receipt=RECEIPTS[model], source="m.hf", probe=False)["findings"] == []


def flip(path, at):
    data = bytearray(Path(path).read_bytes())
    data[at] ^= 1
    Path(path).write_bytes(data)


def edit(path, old, new):
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new, 1))


def of_digest():
    return Path("m.receipt.json").read_bytes().index(b'trits": "') + 11


WEIGHTS = -3000  # in the scales or codes at the end of a file
# What is done to a file -> what must be named.
CHANGES = {
    "weights of the output": (lambda: flip("n.hf/model.safetensors", WEIGHTS), "n.hf",
                              ["receipt.output_files", "model.safetensors"]),
    "weights of the source": (lambda: flip("m.hf/model.safetensors", WEIGHTS), "n.hf",
                              ["receipt.source_files", "model.safetensors"]),
    "codes in a .bitnet file": (lambda: flip("m.bitnet", 20_000), "m.bitnet",
                                ["receipt.output_files", "m.bitnet"]),
    "header of a .bitnet file": (lambda: flip("m.bitnet", 100), "m.bitnet",
                                 ["receipt.output_files", "cannot be opened"]),
    "config of the output": (lambda: edit("n.hf/config.json", "1e-05", "2e-05"), "n.hf",
                             ["receipt.output_files", "config.json", "contract.rms_norm_eps"]),
    "config of the source": (lambda: edit("m.hf/config.json", "500000", "500001"), "m.bitnet",
                             ["receipt.source_files", "config.json", "contract.rotary"]),
    "tokenizer of the output": (lambda: edit("n.hf/tokenizer.json", '"a"', '"é"'), "n.hf",
                                ["receipt.output_files", "tokenizer.json"]),
    "tokenizer of the source": (lambda: flip("m.hf/tokenizer_config.json", -20), "n.hf",
                                ["receipt.source_files", "tokenizer_config.json"]),
    "a file that is gone": (lambda: Path("n.hf/generation_config.json").unlink(), "n.hf",
                            ["receipt.output_files", "generation_config.json", "missing"]),
    "a file more in the source": (
        lambda: Path("m.hf/chat_template.jinja").write_text("{{ messages }}"), "n.hf",
        ["receipt.source_files", "chat_template.jinja", "contract.chat_template"]),
    "a digest in the receipt": (lambda: flip("m.receipt.json", of_digest()), "m.bitnet",
                                ["receipt.altered", "receipt.digest"]),
    "a claim in the receipt": (lambda: edit("m.receipt.json", "relu2", "silu"), "m.bitnet",
                               ["receipt.altered", "contract.activation"]),
    "a size in the receipt": (lambda: edit("n.hf/receipt.json", '"bytes": 1', '"bytes": 2'), "n.hf",
                              ["receipt.altered", "bytes"]),
    "a space in the receipt": (lambda: edit("m.receipt.json", "{", "{ "), "m.bitnet",
                               ["receipt.altered"]),
    "a brace in the receipt": (lambda: edit("m.receipt.json", "{", "("), "m.bitnet",
                               ["receipt.invalid"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_one_change_is_named(place, name):
    change, model, words = CHANGES[name]
    change()
    record = validate(model, check_weights=False, check_quantization=False,
                      receipt=RECEIPTS[model], source="m.hf", probe=False)  # fmt: skip
    assert not record["receipt"]["holds"]
    said = "\n".join(f"{f['code']} {f['message']}" for f in record["findings"])
    assert all(word in said for word in words), said
    assert all(finding["fix"] and finding["severity"] == "error" for finding in record["findings"])


def test_every_byte_of_a_receipt_counts(place):
    data = Path("m.receipt.json").read_bytes()
    from bitnet_jax.core.errors import BadData
    from bitnet_jax.workflows.conversion_receipt import parsed, unsealed

    for at in range(0, len(data), 7):
        for bit in (1, 32):
            altered = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
            with pytest.raises(BadData):
                unsealed(altered)
            assert isinstance(parsed(altered), dict)


def test_a_receipt_that_leaves_a_claim_out_proves_nothing(place):
    record = unsealed(Path("m.receipt.json").read_bytes())
    for name in (*sorted(REQUIRED), None):
        less = {key: value for key, value in record.items() if name not in (key, None)}
        Path("m.receipt.json").write_bytes(sealed(less))
        found = checked()
        missing = [row["message"] for row in found["findings"]]
        assert not found["holds"] and any(f"no `{name or 'contract'}`" in row for row in missing)


def test_a_receipt_of_another_conversion(place):
    create(shape="tiny", layers=1, seed=9, output="o.hf")
    record = check_receipt("m.bitnet", "m.receipt.json", "o.hf", probe=False)
    wrong = {row["claim"] for row in record["claims"] if not row["ok"]}
    assert {"source_files", "digest_before", "scales_changed"} <= wrong


def test_models_that_have_another_name_by_now_are_the_same(place):
    Path("m.bitnet").rename("renamed.bitnet")
    Path("m.hf").rename("renamed.hf")
    assert check_receipt("renamed.bitnet", "m.receipt.json", "renamed.hf", probe=False)["holds"]


def test_what_is_not_there(place):
    for arguments in (("m.bitnet", "none.json", "m.hf"), ("m.bitnet", "m.receipt.json", "none"),
                      ("none.bitnet", "m.receipt.json", "m.hf")):  # fmt: skip
        with pytest.raises(NoInput, match="none"):
            check_receipt(*arguments, probe=False)
    for given in ({"receipt": "m.receipt.json"}, {"source": "m.hf"}):
        with pytest.raises(UsageError, match="without") as caught:
            validate("m.bitnet", **given)
        assert caught.value.code == "validate.receipt"


def test_a_probe_that_is_left_out_is_told(place):
    assert "probe" in checked(probe=False)["not_derived"]
    assert not {"probe", "max_logit_difference"} & {
        row["claim"] for row in checked(probe=False)["claims"]
    }
