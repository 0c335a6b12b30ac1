"""A conversion that was made before: does it still hold?"""

import functools
import json
import shutil
from pathlib import Path

import pytest

from bitnet_jax.core.errors import BitnetError, CannotCreate, NoInput, UsageError
from bitnet_jax.formats.checkpoint import Source
from bitnet_jax.formats.receipts import receipt_path
from bitnet_jax.workflows.conversion_receipt import named, sealed, unsealed
from bitnet_jax.workflows.convert import convert, converted
from bitnet_jax.workflows.create import create


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A tiny model `m.hf` and what was made of it, `m.bitnet`."""
    monkeypatch.chdir(tmp_path)
    create(shape="tiny", layers=1, output="m.hf")
    return convert("m.hf", "m.bitnet", probe=False)


holds = functools.partial(converted, probe=False)


def test_it_holds_and_its_record_is_the_one_of_then(made):
    again = holds("m.hf", "m.bitnet")
    assert again["digest_after"] == made["digest_after"]
    assert again["receipt"] == made["receipt"] and again["outputs"] == made["outputs"]


def spoil_output():
    data = bytearray(Path("m.bitnet").read_bytes())
    data[-70] ^= 1
    Path("m.bitnet").write_bytes(data)


def replace_source():
    create(shape="tiny", layers=1, output="m.hf", seed=5, force=True)


def lie_in_receipt():
    receipt = json.loads(Path("m.receipt.json").read_text())
    receipt["digest_after"]["trits"] = "00" * 32
    Path("m.receipt.json").write_text(json.dumps(receipt))


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_output,
        replace_source,
        lie_in_receipt,
        lambda: Path("m.bitnet").unlink(),
        lambda: Path("m.bitnet").write_bytes(b""),
        lambda: Path("m.receipt.json").unlink(),
        lambda: Path("m.receipt.json").write_text("[]"),
        lambda: Path("m.receipt.json").write_text("[" * 5000),
        lambda: Path("m.receipt.json").write_text('{"digest_before": 1}'),
    ],
)
def test_it_does_not_once_something_changed(made, spoil):
    spoil()
    assert holds("m.hf", "m.bitnet") is None


def test_another_format_encoding_or_source_is_another_conversion(made):
    assert holds("m.hf", "m.bitnet", encoding="packed") is not None
    assert holds("m.hf", "m.bitnet", encoding="master") is None
    shutil.copytree("m.hf", "n.hf")
    assert holds("n.hf", "m.bitnet") is None


def test_what_said_less_than_is_asked_for_now_is_made_again(made, tmp_path):
    assert converted("m.hf", "m.bitnet") is None  # it was not probed
    convert("m.hf", "m.bitnet", force=True)
    assert converted("m.hf", "m.bitnet") is not None
    create(shape="tiny", layers=1, output="zero.hf", defects=("zero_mlp",))
    allowed = ("weights.all_zero",)
    convert("zero.hf", "zero.bitnet", probe=False, allow=allowed)
    assert holds("zero.hf", "zero.bitnet", allow=allowed) is not None
    assert holds("zero.hf", "zero.bitnet") is None
    receipt = Path("m.receipt.json")
    record = unsealed(receipt.read_bytes())
    receipt.write_bytes(sealed({**record, "floats_changed": [{"name": "norm"}]}))
    assert holds("m.hf", "m.bitnet") is not None and holds("m.hf", "m.bitnet", strict=True) is None


def test_a_receipt_names_no_path_and_spoils_no_word(tmp_path):
    """`t/` is the folder of the output, and the end of a word of a message."""
    source = Source(path=Path("input/m.hf"), format="huggingface", encoding="packed", detail={})
    words = "`t/m.gguf`: microsoft/BitNet, input/m.hf/config.json, t/m.gguf.bak"
    record = {"warnings": [words], "outputs": ["t/m.gguf"]}
    kept = named(record, source, Path("t/m.gguf"))
    assert kept["warnings"] == ["`m.gguf`: microsoft/BitNet, m.hf/config.json, t/m.gguf.bak"]
    assert kept["outputs"] == ["m.gguf"]


def test_a_source_that_is_gone_is_told(made):
    Path("m.hf").rename("elsewhere")
    with pytest.raises(NoInput):
        holds("m.hf", "m.bitnet")


def test_no_two_outputs_share_a_receipt(made):
    outputs = ["m", "m.v1", "m.v2", "m.bitnet", "m.bitnet.v1", "m.BITNET", ".bitnet"]
    receipts = [receipt_path(Path("d") / name, "bitnet") for name in outputs]
    assert len({str(path).casefold() for path in receipts}) == len(outputs)
    assert receipts[outputs.index("m.bitnet")] == Path("d/m.receipt.json")
    for name in ("m.v1", "m.v2"):
        record = convert("m.hf", name, format="bitnet", probe=False)
        assert record["receipt"] == f"{name}-receipt.json"
    for name in ("m.v1", "m.v2"):
        assert json.loads(Path(f"{name}-receipt.json").read_text())["outputs"] == [name]


@pytest.mark.parametrize("name", ["n.receipt.json", "n.v1-RECEIPT.json"])
def test_no_model_has_the_name_of_a_receipt(made, name):
    for write in (lambda: convert("m.hf", name, format="bitnet"), lambda: make(name)):
        with pytest.raises(UsageError) as caught:
            write()
        assert caught.value.code == "receipt.name" and not Path(name).exists()


def make(name):
    create(shape="tiny", layers=1, output=name, format="bitnet")


def test_a_receipt_whose_file_never_came_is_written_again(made):
    Path("m.bitnet").unlink()  # as after a kill between the two
    again = convert("m.hf", "m.bitnet", probe=False)
    assert again["digest_after"] == made["digest_after"]
    assert holds("m.hf", "m.bitnet") is not None
    Path("m.bitnet").unlink()
    create(shape="tiny", layers=1, output="m.bitnet")  # nor does it stand in another's way
    assert not Path("m.receipt.json").exists()
    Path("m.bitnet").unlink()
    Path("m.receipt.json").write_text("{}")  # not one of ours: somebody may want it
    with pytest.raises(CannotCreate, match=r"m.receipt.json` exists"):
        convert("m.hf", "m.bitnet", probe=False)
    assert Path("m.receipt.json").read_text() == "{}" and not Path("m.bitnet").exists()


def test_the_receipt_is_there_before_its_file_and_goes_with_a_failure(made, monkeypatch):
    import os

    replace, seen = os.replace, []

    def fails(source, target):
        if Path(target).name != "n.bitnet":
            return replace(source, target)
        seen.append(Path("n.receipt.json").exists())
        raise OSError(5, "no more")

    monkeypatch.setattr("bitnet_jax.core.paths.os.replace", fails)
    with pytest.raises(BitnetError):
        convert("m.hf", "n.bitnet", probe=False)
    assert seen == [True]
    assert not Path("n.bitnet").exists() and not Path("n.receipt.json").exists()
