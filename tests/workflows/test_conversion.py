"""What a conversion proves: digests by other means, one receipt for every machine, any --jobs."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from bitnet_jax.core.errors import CannotCreate
from bitnet_jax.workflows import convert as workflow
from bitnet_jax.workflows.convert import convert
from bitnet_jax.workflows.create import create


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tiny model as `transformers` has it, packed."""
    path = tmp_path_factory.mktemp("source") / "m.hf"
    create(shape="tiny", layers=3, output=path)
    return path


# ------------------------------------------------- digests, by numpy alone from the files


def digests(folder, linear_class="autobitlinear"):
    """Both digests of a packed `transformers` checkpoint: none of our code is used."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    trits, scales = hashlib.sha256(b"bitnet-trits/1\n"), []
    theirs = {
        re.sub(r"^model\.|\.weight$", "", n): n for n, t in tensors.items() if t.dtype == "u1"
    }
    for name in sorted((n for n in theirs if n[0] != "_"), key=str.encode):
        packed = tensors[theirs[name]]
        codes = np.concatenate([packed >> 2 * i & 3 for i in range(4)])  # rows, four to a byte
        four = codes.reshape(-1, 4)
        shape = ",".join(map(str, codes.shape)).encode()
        trits.update(name.encode() + b"\0" + shape + b"\n")
        trits.update((four[:, 0] | four[:, 1] << 2 | four[:, 2] << 4 | four[:, 3] << 6).tobytes())
        stored = tensors[theirs[name] + "_scale"].astype("<f4").reshape(())
        scale = stored if linear_class == "autobitlinear" else np.float32(1) / stored
        scales.append(name.encode() + b"\0tensor\0\n" + scale.tobytes())
    both = hashlib.sha256(b"bitnet-trits-scales/1\n" + trits.digest() + b"".join(scales))
    return {"trits": trits.hexdigest(), "trits_scales": both.hexdigest()}


def test_the_digests_are_those_that_numpy_computes_from_the_files(source, tmp_path):
    record = convert(source, tmp_path / "m.bitnet", probe=False)
    assert record["digest_before"] == record["digest_after"] == digests(source)


def test_and_so_they_are_after_a_way_through_three_formats(source, tmp_path):
    convert(source, tmp_path / "a.bitnet", probe=False)
    convert(tmp_path / "a.bitnet", tmp_path / "b.hf", encoding="master", probe=False)
    record = convert(tmp_path / "b.hf", tmp_path / "c.hf", encoding="autobitlinear", probe=False)
    assert digests(tmp_path / "c.hf") == record["digest_after"] == digests(source)
    assert record["scales_changed"] == record["floats_changed"] == []


# ------------------------------------------------------------------ the same everywhere


@pytest.mark.parametrize("target", ["m.bitnet", "m.hf"])
def test_any_number_of_jobs_writes_the_same_bytes(source, tmp_path, target, monkeypatch):
    from bitnet_jax.formats import survey

    monkeypatch.setattr(survey, "_PIECE", 1 << 12)  # the embedding goes in pieces too
    found = []
    for jobs in (1, 2, 5):
        output = tmp_path / str(jobs) / target
        output.parent.mkdir()
        record = convert(source, output, jobs=jobs, probe=False)
        files = sorted(path for path in (tmp_path / str(jobs)).rglob("*") if path.is_file())
        assert record["receipt"] in map(str, files)
        found.append({str(p.relative_to(tmp_path / str(jobs))): p.read_bytes() for p in files})
    assert found[0] == found[1] == found[2]


def test_a_receipt_says_nothing_of_the_machine(source, tmp_path, monkeypatch):
    """Made in two places, by absolute and by relative names, of the same input: the same bytes."""
    receipts = []
    for place in ("here", "there/deeper"):
        (tmp_path / place).mkdir(parents=True)
        shutil.copytree(source, tmp_path / place / "m.hf")
        monkeypatch.chdir(tmp_path / place)
        for name in ("m.hf", tmp_path / place / "m.hf"):
            convert(name, "out.bitnet", force=True, probe=False)
            receipts.append(Path("out.receipt.json").read_bytes())
            assert str(tmp_path).encode() not in receipts[-1]
            assert b"seconds" not in receipts[-1]
    assert len(set(receipts)) == 1
    assert set(json.loads(receipts[0])["made_by"]) == {"bitnet_jax", "jax", "kernel"}


def test_the_receipt_lists_every_file_of_both_sides(source, tmp_path):
    convert(source, tmp_path / "out.hf", probe=False)
    receipt = json.loads((tmp_path / "out.hf/receipt.json").read_text())
    for side, folder in (("source", source), ("output", tmp_path / "out.hf")):
        for row in receipt[f"{side}_files"]:
            data = (folder / row["name"]).read_bytes()
            assert row["bytes"] == len(data)
            assert row["sha256"] == hashlib.sha256(data).hexdigest()
    names = {row["name"] for row in receipt["output_files"]}
    assert names == {path.name for path in (tmp_path / "out.hf").iterdir()} - {"receipt.json"}
    read = {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"}
    assert read <= {row["name"] for row in receipt["source_files"]}


# ------------------------------------------------------------------------ what changed


@pytest.fixture
def altered(monkeypatch):
    """Has the output read back with some tensors altered, as a lossy format would."""

    def alter(change):
        opened = workflow.open_checkpoint

        def reopen(path, **options):
            checkpoint = opened(path, **options)
            return change(checkpoint) if ".bitnet-" in str(path) else checkpoint

        monkeypatch.setattr(workflow, "open_checkpoint", reopen)

    return alter


def of_tensor(name, change):
    """A checkpoint's change: one tensor is read as `change` makes of it."""
    from dataclasses import replace

    def changed(checkpoint):
        entry = checkpoint.entries[name]
        new = replace(entry, read=lambda: change(entry.read()), parts=None)
        return replace(checkpoint, entries={**checkpoint.entries, name: new})

    return changed


def one_ulp(tensor):
    from dataclasses import replace

    return replace(tensor, scale=np.nextafter(tensor.scale, np.float32(9), dtype=np.float32))


def test_a_scale_that_moved_is_listed_in_ulps_and_strict_refuses(source, tmp_path, altered):
    altered(of_tensor("layers.1.mlp.up_proj", one_ulp))
    record = convert(source, tmp_path / "m.bitnet")
    [row] = record["scales_changed"]
    assert (row["name"], row["ulps"]) == ("layers.1.mlp.up_proj", 1)
    assert record["digest_before"]["trits"] == record["digest_after"]["trits"]
    assert record["probe"]["worst_product"]["weights"][-1] == "layers.1.mlp.up_proj"
    with pytest.raises(CannotCreate, match="up_proj") as caught:
        convert(source, tmp_path / "n.bitnet", strict=True)
    assert caught.value.code == "convert.strict"
    assert not (tmp_path / "n.bitnet").exists() and not (tmp_path / "n.receipt.json").exists()


def test_a_float_that_was_rounded_is_listed_and_its_price_is_told(source, tmp_path, altered):
    altered(of_tensor("embed_tokens", lambda x: x.astype(ml_dtypes.float8_e5m2).astype(x.dtype)))
    record = convert(source, tmp_path / "m.bitnet")
    [row] = record["floats_changed"]
    assert row["name"] == "embed_tokens" and 0 < row["difference"] < 0.2
    assert record["max_logit_difference"] > 0 and not record["probe"]["holds"]
    with pytest.raises(CannotCreate):
        convert(source, tmp_path / "n.bitnet", strict=True)


def test_another_dtype_with_the_same_values_is_no_change(source, tmp_path, altered):
    altered(of_tensor("embed_tokens", lambda x: x.astype(np.float32)))
    record = convert(source, tmp_path / "m.bitnet", strict=True)
    assert record["floats_changed"] == [] and record["max_logit_difference"] == 0


def test_the_time_of_the_probe_stands_apart_and_it_can_be_left_out(source, tmp_path):
    record = convert(source, tmp_path / "m.bitnet")
    assert set(record["seconds"]) == {"convert", "verify", "probe"}
    assert record["max_logit_difference"] == 0 and record["probe"]["products"] == 15
    record = convert(source, tmp_path / "n.bitnet", probe=False)
    assert set(record["seconds"]) == {"convert", "verify"}
    assert record["max_logit_difference"] is None and record["probe"] is None
