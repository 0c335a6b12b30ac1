"""Where the output may not go, nothing goes: what stands there keeps every byte."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.e2e.bad_models import bitnet_bytes
from tests.e2e.terminal import Folder, here, spawn


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A `transformers` folder and the same as a `.bitnet` file, made once."""
    folder = tmp_path_factory.mktemp("made")
    assert here("model", "create", "tiny", "-l", "1", "-o", folder / "m").rc == 0
    (folder / "m.bitnet").write_bytes(bitnet_bytes())
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A folder of its own with both in it."""
    path = tmp_path / "here"
    shutil.copytree(made, path)
    monkeypatch.chdir(path)
    return path


# What is asked -> (words after `bitnet`, what stands in the way, exit code, code)
REFUSED = {
    "the file exists": (
        "model convert m -o there.bitnet", "there.bitnet", 73, "io.exists"),
    "the folder exists": ("model convert m.bitnet -o there", "there/", 73, "io.exists"),
    "create, the file exists": (
        "model create tiny -o there.bitnet", "there.bitnet", 73, "io.exists"),
    "create, the folder exists": ("model create tiny -o there", "there/", 73, "io.exists"),
    "the receipt exists": (
        "model convert m -o there.bitnet", "there.receipt.json", 73, "io.exists"),
    "--export-json exists": (
        "model inspect m --export-json there.json", "there.json", 73, "io.exists"),
    "create, a folder that holds more than a model": (
        "model create tiny -o there --force", "there/thesis.txt", 73, "io.not_a_model"),
    "a folder that holds more than a model": (
        "model convert m.bitnet -o there --force", "there/thesis.txt", 73, "io.not_a_model"),
    "a folder with folders": (
        "model convert m.bitnet -o there --force", "there/config.json/", 73, "io.not_a_model"),
    "a folder for a file": (
        "model convert m -o there.bitnet --force", "there.bitnet/", 73, "io.not_file"),
    "a file for a folder": (
        "model convert m.bitnet -o there --force", "there", 73, "io.not_directory"),
    "create, a folder for a file": (
        "model create tiny -o there.bitnet --force", "there.bitnet/", 73, "io.not_file"),
    "create, a file for a folder": (
        "model create tiny -o there --force", "there", 73, "io.not_directory"),
    "a FIFO": ("model convert m -o fifo.bitnet --force", "fifo.bitnet|", 73, "io.not_file"),
    "the input, a file": (
        "model convert m.bitnet -o m.bitnet --force", "", 73, "io.output_is_input"),
    "the input, a folder": ("model convert m -o m --force", "", 73, "io.output_is_input"),
    "the input by another way": (
        "model convert m -o ../here/m --force", "", 73, "io.output_is_input"),
    "the input by a link": ("model convert m -o link --force", "link@m", 73, "io.output_is_input"),
    "a file of the input": (
        "model convert m -o m/model.safetensors -f bitnet --force", "", 73, "io.output_is_input"),
    "the folder of the input": (
        "model convert m/model.safetensors -o m -f huggingface --force", "", 73,
        "io.output_is_input"),
    "a folder above the input": (
        "model convert m -o . -f huggingface --force", "", 73, "io.output_is_input"),
    "no parent": ("model convert m -o no/where.bitnet", "", 66, "io.no_parent"),
    "create, no parent": ("model create tiny -o no/where", "", 66, "io.no_parent"),
    "the parent is a file": (
        "model convert m -o m.bitnet/out.bitnet", "", 73, "io.parent_not_directory"),
    "a loop of links": (
        "model convert m -o loop.bitnet --force", "loop.bitnet@loop.bitnet", 74, "io.failed"),
    "a name of 300 letters": (
        f"model convert m -o {'a' * 300}.bitnet", "", 74, "io.failed"),
    "an unknown suffix": ("model convert m -o there.xyz", "", 2, "format.unknown"),
    "an encoding of another format": (
        "model convert m -o there.bitnet --encoding master", "", 2, "format.encoding"),
    "an unknown encoding": ("model convert m -o there -E tq9", "", 2, "format.encoding"),
    "weights that the source has not": (
        "model convert m.bitnet -o there -E latent", "", 73, "huggingface.no_latent"),
    "a finding that cannot be passed": (
        "model convert m -o there.bitnet --allow scale.invalid", "", 2, "convert.allow"),
    "an unknown shape": ("model create tinny -o there", "", 2, "create.unknown_shape"),
    "an unknown defect": ("model create tiny -o there -D x", "", 2, "create.unknown_defect"),
}  # fmt: skip


def put_in_the_way(name: str) -> None:
    """Makes `x/`, `x/y`, `x|` (a FIFO), `x@target` (a link), or a file of a word."""
    if name.endswith("/"):
        os.makedirs(name)
        return
    if "@" in name:
        link, _, target = name.partition("@")
        os.symlink(target, link)
    elif name.endswith("|"):
        os.mkfifo(name.removesuffix("|"))
    elif name:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "w") as stream:
            stream.write("mine")


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_nothing_is_touched(name, place):
    line, way, rc, code = REFUSED[name]
    put_in_the_way(way)
    folder = Folder(place)
    ended = here(*line.split()).refused(rc, code)
    assert ended.out == ""
    assert ended.hint or code == "io.failed"
    here(*line.split(), "--json").refused(rc, code)
    folder.check_untouched()


def test_an_existing_file_is_named_before_the_model_is_read(place, monkeypatch):
    from bitnet_jax.workflows import convert

    monkeypatch.setattr(convert, "examine", None)  # it would raise, were it called
    put_in_the_way("there.bitnet")
    here("model", "convert", "m", "-o", "there.bitnet").refused(73, "io.exists")


def test_force_replaces_a_model_and_keeps_a_link_and_its_target(place):
    put_in_the_way("there.bitnet")
    os.symlink("there.bitnet", "link.bitnet")
    assert here("model", "convert", "m", "-o", "link.bitnet", "--force").rc == 0
    assert os.path.islink("link.bitnet")
    assert here("model", "inspect", "there.bitnet").rc == 0
    assert here("model", "convert", "m.bitnet", "-o", "again").rc == 0
    assert here("model", "convert", "m.bitnet", "-o", "again", "--force").rc == 0
    assert not [name for name in os.listdir() if name.endswith((".tmp", ".old"))]


def test_an_output_beside_the_weights_of_the_input(place):
    wanted = here("model", "inspect", "m", "--json").data["digest"]
    for output in ("m/out.bitnet", "m/out.hf"):
        data = here("model", "convert", "m", "-o", output, "--json").data
        assert data["digest_after"] == wanted
    assert here("model", "inspect", "m", "--json").data["digest"] == wanted


def test_a_name_as_long_as_the_system_allows(place):
    name = "a" * (255 - len(".receipt.json")) + ".bitnet"
    assert here("model", "convert", "m", "-o", name).rc == 0
    assert here("model", "inspect", name).rc == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where no one may")
def test_a_folder_that_may_not_be_written(place):
    place.chmod(0o500)
    try:
        here("model", "convert", "m", "-o", "x.bitnet").refused(77, "io.permission")
    finally:
        place.chmod(0o700)


def test_the_record_and_the_receipt_say_the_same(place):
    data = here("model", "convert", "m", "-o", "x.bitnet", "--json").data
    receipt = json.loads((place / data.pop("receipt")).read_text())
    warnings = receipt.pop("warnings")  # in the envelope, of which this is the data
    assert receipt.pop("schema") == "bitnet/1" and len(receipt.pop("seal")) == 64
    assert data.pop("seconds").keys() == {"convert", "verify", "probe"}  # another time, others
    assert receipt == data and "auto_map" in warnings[0]


def test_stdout_that_is_full(place):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bitnet_cli", "model", "inspect", "m"],
            stdout=full, stderr=subprocess.PIPE, cwd=place, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 74 and "error[io.disk_full]" in done.stderr
    assert "Traceback" not in done.stderr


def test_as_a_real_process(place):
    put_in_the_way("there.bitnet")
    folder = Folder(place)
    ended = spawn("model", "convert", "m", "-o", "there.bitnet", cwd=place)
    ended.refused(73, "io.exists")
    folder.check_untouched()
