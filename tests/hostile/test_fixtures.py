"""The files of `fixtures/`, as they lie there: each comes to the error that its README names."""

from __future__ import annotations

import shutil

import pytest

from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.checkpoint import TokenizerFiles
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.runtime.chat import ChatTemplate
from bitnet_jax.runtime.tokenizer import Tokenizer
from tests.formats.checkpoints import AUTO, config, tensors, write
from tests.hostile.fixtures import FOLDER, fixtures, page

FIXTURES = {fixture.path: fixture for fixture in fixtures()}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A good folder, whole and in shards."""
    folder = tmp_path_factory.mktemp("good")
    for name, shards in (("config", 1), ("index", 3)):
        write(folder / name, tensors()[0], config(quantization=AUTO), shards)
    return folder


def _model(path):
    checkpoint = open_checkpoint(path)
    for _ in checkpoint.tensors():
        pass
    return checkpoint


def _file(path, good, tmp_path):
    return _model(path)


def _piece_of_a_folder(kind, name):
    def use(path, good, tmp_path):
        shutil.copytree(good / kind, tmp_path / "m")
        shutil.copy(path, tmp_path / "m" / name)
        return _model(tmp_path / "m")

    return use


def _tokenizer(path, good, tmp_path):
    tokenizer = Tokenizer.from_files(TokenizerFiles(path.read_bytes()))
    tokenizer.check_fits(1000)
    tokenizer.encode("a" * 100 + "!")


def _template(path, good, tmp_path):
    ChatTemplate(path.read_text(), {}).render([{"role": "user", "content": "hi"}])


USES = {
    "file": _file,
    "bitnet": _file,
    "gguf": _file,
    "config": _piece_of_a_folder("config", "config.json"),
    "index": _piece_of_a_folder("index", "model.safetensors.index.json"),
    "tokenizer": _tokenizer,
    "template": _template,
}


@pytest.mark.parametrize("name", FIXTURES)
def test_it_comes_to_what_its_line_says(name, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fixture = FIXTURES[name]
    use = USES[name.partition("/")[0]]
    if not fixture.code:
        assert "never imported" in use(FOLDER / name, good, tmp_path).warnings[0]
        return
    with pytest.raises(BadData) as caught:
        use(FOLDER / name, good, tmp_path)
    code = caught.value.code
    assert code == fixture.code or (fixture.code.endswith(".") and code.startswith(fixture.code))
    assert not (tmp_path / "canary").exists()


def test_the_folder_holds_what_the_tables_say_and_a_line_for_each():
    kept = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    assert kept == {*FIXTURES, "README.md"}
    for name, fixture in FIXTURES.items():
        assert (FOLDER / name).read_bytes() == fixture.data, f"{name}: write the folder again"
    assert (FOLDER / "README.md").read_text() == page()
