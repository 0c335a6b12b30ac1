"""Orbax checkpoints as models: the same digests as the same tensors in safetensors."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.model_files import files_of, is_file_name
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.models.names import expected
from tests.formats import checkpoints, orbax_files


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint of each layout, and the digest of the same tensors in safetensors."""
    root = tmp_path_factory.mktemp("orbax")
    data, _, _ = checkpoints.tensors()
    same = checkpoints.write(root / "hf", data, checkpoints.config(quantization=checkpoints.AUTO))
    for layout in orbax_files.LAYOUTS:
        orbax_files.write(root / layout, layout)
    return root, open_checkpoint(same)


@pytest.fixture
def copy(made, tmp_path):
    """Copies of the checkpoints, to be damaged."""

    def of(layout: str) -> Path:
        return shutil.copytree(made[0] / layout, tmp_path / layout) / "ck"

    return of


def refused(path, code) -> BadData:
    with pytest.raises(BadData) as caught:
        checkpoint = open_checkpoint(path)
        for _ in checkpoint.tensors():
            pass
    assert caught.value.code == code, caught.value
    return caught.value


@pytest.mark.parametrize("layout", orbax_files.LAYOUTS)
def test_each_layout_is_the_model_that_safetensors_hold(made, layout):
    root, same = made
    found = open_checkpoint(root / layout / "ck")
    assert (found.source.format, found.source.encoding) == ("orbax", "packed")
    assert found.digest() == same.digest() and found.spec == same.spec
    for name, entry in same.entries.items():
        if not entry.ternary:
            value = found.read(name)
            assert value.dtype == entry.read().dtype
            np.testing.assert_array_equal(value, entry.read())
            if value.ndim == 2:
                parts = list(found.parts(name, 7))
                assert {len(part) for part in parts[:-1]} == {7}
                np.testing.assert_array_equal(np.concatenate(parts), value)


def test_a_float_master_too(tmp_path):
    path = orbax_files.write(tmp_path, form="master")
    data, _, _ = checkpoints.tensors(form="master")
    config = checkpoints.config(quantization=checkpoints.ONLINE)
    same = open_checkpoint(checkpoints.write(tmp_path / "hf", data, config))
    found = open_checkpoint(path)
    assert found.source.encoding == "master" and found.digest() == same.digest()
    name = "layers.0.mlp.up_proj"
    np.testing.assert_array_equal(found.entries[name].latent(), same.entries[name].latent())


# How people hold parameters -> a word of the warning.
TREES = {
    "flat": (dict, None),
    "under params": (lambda data: {"params": orbax_files.nested(data)}, None),
    "beside an optimizer": (
        lambda data: {
            "params": orbax_files.nested(data),
            "opt_state": [{"mu": orbax_files.nested(data)}, {}],
            "step": 7,
        },
        "`opt_state`, `step`",
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_where_the_parameters_stand_in_the_tree(made, tmp_path, name):
    wrap, word = TREES[name]
    found = open_checkpoint(orbax_files.write(tmp_path, wrap=wrap))
    assert found.digest() == made[1].digest()
    told = [text for text in found.warnings if "beside the parameters" in text]
    assert (word in told[0]) if word else not told


@pytest.mark.heavy
def test_our_own_names_too(made, tmp_path):
    item_of = expected(checkpoints.TINY)
    theirs = {item.huggingface: name for name, item in item_of.items()}

    def wrap(data):
        return orbax_files.nested({theirs[n]: v for n, v in data.items() if n in theirs})

    path = orbax_files.write(tmp_path, form="master", wrap=wrap)
    data, _, _ = checkpoints.tensors(form="master")
    config = checkpoints.config(quantization=checkpoints.ONLINE)
    same = open_checkpoint(checkpoints.write(tmp_path / "hf", data, config))
    assert open_checkpoint(path).digest() == same.digest()


def test_the_last_of_several_steps_is_read_and_that_is_said(made, tmp_path):
    for step in (9, 10):
        shutil.copytree(made[0] / "ocdbt" / "ck", tmp_path / "run" / str(step))
    shutil.copy(made[0] / "ocdbt" / "config.json", tmp_path / "run")
    found = open_checkpoint(tmp_path / "run")
    assert "the last, 10, was read" in found.warnings[0]
    assert found.digest() == made[1].digest()
    names = files_of(found.source.path, found.source.detail)
    assert "config.json" in names and "10/_METADATA" in names and "9/_METADATA" not in names
    assert all(path.is_file() for path in names.values())


def test_the_files_beside_a_checkpoint_have_names_too(made):
    names = files_of(
        made[0] / "plain" / "ck", open_checkpoint(made[0] / "plain" / "ck").source.detail
    )
    assert "../config.json" in names and all(map(is_file_name, names))
    assert names["../config.json"] == made[0] / "plain" / "config.json"
    odd = ("/etc/passwd", "../../../x", "a/../b", "a//b", "..", "", ".", "a\\b", "a\0", 3, None)
    assert not any(map(is_file_name, odd))


@pytest.mark.skipif(sys.platform == "win32", reason="names and links of POSIX")
class TestHostile:
    """What a stranger may hand us: refused, by name, before anything else is read."""

    def test_links_are_refused(self, copy, tmp_path):
        path = copy("plain")
        weight = path / "model.norm.weight" / "0"
        (tmp_path / "secret").write_bytes(weight.read_bytes())
        weight.unlink()
        weight.symlink_to(tmp_path / "secret")
        assert "symbolic link" in refused(path, "orbax.link").message
        weight.unlink()
        os.mkfifo(weight)
        refused(path, "orbax.link")

    @pytest.mark.parametrize("key", ["/etc", "../../x", "a/b", "..", "a\\b", "x\0y", None, ["a"]])
    def test_keys_that_lead_elsewhere_are_refused(self, copy, key):
        path = copy("plain")
        tree = json.loads((path / "_METADATA").read_text())
        next(iter(tree["tree_metadata"].values()))["key_metadata"][0]["key"] = key
        (path / "_METADATA").write_text(json.dumps(tree))
        refused(path, "orbax.metadata")

    def test_pickles_are_never_opened(self, tmp_path):
        folder = tmp_path / "ck"
        folder.mkdir()
        (folder / "checkpoint.pkl").write_bytes(b"\x80\x04.")
        (folder / "_CHECKPOINT_METADATA").write_text("{}")
        refused(folder, "orbax.which_tree")

    def test_an_absurd_chunk_is_refused_before_memory_is_taken(self, copy):
        path = copy("plain")
        file = path / "model.norm.weight" / ".zarray"
        row = json.loads(file.read_text())
        file.write_text(json.dumps({**row, "chunks": [1 << 40]}))
        refused(path, "orbax.array")


def test_what_is_missing_is_named(copy):
    for gone in ("0.0", ".zarray"):
        path = copy("plain")
        (path / "model.layers.0.mlp.up_proj.weight" / gone).unlink()
        assert "up_proj" in refused(path, "orbax.array").message
        shutil.rmtree(path.parent)
    path = copy("plain")
    shutil.rmtree(path / "model.norm.weight")
    assert "`model.norm.weight`" in refused(path, "orbax.missing_array").message


def test_a_missing_or_cut_database_is_named(copy):
    path = copy("ocdbt")
    data = max(path.rglob("d/*"), key=lambda file: file.stat().st_size)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    refused(path, "orbax.array")
    data.unlink()
    refused(path, "orbax.array")
    (path / "manifest.ocdbt").unlink()
    refused(path, "orbax.missing_file")
    (path / "_METADATA").unlink()
    refused(path, "orbax.which_tree")


def test_without_a_config_nothing_tells_the_architecture(copy):
    path = copy("ocdbt")
    (path.parent / "config.json").unlink()
    assert "config.json" in refused(path, "orbax.no_config").hint


def test_what_orbax_has_not_finished_is_refused(copy):
    path = copy("ocdbt")
    half = path.with_name("4.orbax-checkpoint-tmp-17")
    path.rename(half)
    refused(half, "orbax.unfinished")


@pytest.mark.heavy
def test_names_shapes_and_dtypes_are_those_of_the_config(tmp_path):
    def bent(change):
        return lambda data: orbax_files.nested(change(dict(data)))

    up, norm = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
    cases = {
        "model.unknown_tensor": lambda d: d | {"model.layers.0.extra": d[up]},
        "model.missing_tensor": lambda d: {n: v for n, v in d.items() if n != norm},
        "model.tensor_shape": lambda d: d | {up: d[up][:-1]},
        "model.tensor_dtype": lambda d: d | {norm: d[norm].astype("i4")},
        "orbax.names": lambda d: {f"block_{n}": v for n, v in enumerate(d.values())},
    }  # fmt: skip
    for code, change in cases.items():
        refused(orbax_files.write(tmp_path / code, "plain", wrap=bent(change)), code)


@pytest.mark.heavy
def test_two_trees_that_could_be_the_model_are_not_chosen_from(tmp_path):
    def wrap(data):
        return {"ema": orbax_files.nested(data), "raw": orbax_files.nested(data)}

    assert "`ema.`" in refused(orbax_files.write(tmp_path, wrap=wrap), "orbax.which_tree").message


def test_a_missing_chunk_that_its_writer_left_out_is_zeros_and_is_said(copy):
    path = copy("plain")
    tree = json.loads((path / "_METADATA").read_text())
    del tree["store_array_data_equal_to_fill_value"]
    (path / "_METADATA").write_text(json.dumps(tree))
    (path / "model.norm.weight" / "0").unlink()
    found = open_checkpoint(path)
    assert "leaves out what is zero" in found.warnings[0] and not found.read("norm").any()


def test_a_model_file_in_a_folder_of_steps_wins(made, tmp_path):
    shutil.copytree(made[0] / "ocdbt" / "ck", tmp_path / "checkpoints" / "3")
    shutil.copy(made[0] / "ocdbt" / "config.json", tmp_path / "checkpoints")
    assert open_checkpoint(tmp_path).source.format == "orbax"
    from bitnet_jax.formats.save import save_checkpoint

    save_checkpoint(made[1], tmp_path / "m.bitnet")
    assert open_checkpoint(tmp_path).source.format == "bitnet"


@pytest.mark.heavy
def test_jax_arrays_are_read_as_numpy_ones_are(made, tmp_path):
    def wrap(data):
        return jax.tree.map(jax.numpy.asarray, orbax_files.nested(data))

    found = open_checkpoint(orbax_files.write(tmp_path, wrap=wrap))
    assert found.digest() == made[1].digest()
