"""A user's own model through every command that runs now: a file named, a package installed.

`tests/plugins/mixing_decoder` is a Flax Linen decoder with nothing of ours in it. Every command
is a real process, which knows of it only what it is told.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from bitnet_jax.models import families
from tests.e2e.terminal import here, spawn
from tests.suites.families import MIXING, PAGE, page_plugin
from tests.thin import mostly_heavy

RECIPE = """
steps: 6
batch: 2
length: 24
eval_windows: 4
warmup_steps: 1
data: {paths: [text.txt, more.md]}
model:
  family: mixing
  vocab_size: 272
  hidden_size: 32
  intermediate_size: 48
  num_layers: 2
  num_heads: 2
  num_kv_heads: 2
  head_dim: 8
  max_positions: 96
  extra: {qkv_bias: false}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugins")
    (path / "recipe.yaml").write_text(RECIPE)
    for name in ("text.txt", "more.md"):
        words = " ".join(f"{name} {n} the quick brown fox jumps over {n * n}." for n in range(600))
        (path / name).write_text(words)
    return path


@pytest.fixture(scope="module")
def bitnet(folder):
    """A command that must go well, with the plugin's file named; gives its record."""

    def run(*argv):
        return spawn(*argv, "--plugin", MIXING, "--json", cwd=folder).data

    return run


@pytest.fixture(scope="module")
def trained(bitnet):
    return bitnet("train", "start", "--config", "recipe.yaml", "--output-dir", "run")


@pytest.mark.heavy
def test_it_trains(trained, folder):
    assert trained["step"] == 6 and trained["model"] == "run/model.bitnet"
    assert json.loads((folder / "run/receipt.json").read_text())["digest"] == trained["digest"]
    losses = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert all(row["loss"] > 0 for row in losses if "loss" in row)


@pytest.mark.heavy
def test_it_goes_on_from_its_checkpoint(trained, bitnet, folder):
    recipe = (folder / "recipe.yaml").read_text().replace("steps: 6", "steps: 8")
    (folder / "longer.yaml").write_text(recipe)
    record = bitnet("train", "start", "-c", "longer.yaml", "-r", "run", "-o", "longer")
    assert record["step"] == 8 and trained["step"] == 6


def test_it_is_looked_into_and_found_whole(trained, bitnet):
    record = bitnet("model", "inspect", "run/model.bitnet")
    architecture = record["architecture"]
    assert architecture["family"] == "mixing" and architecture["activation"] == "gelu"
    assert architecture["extra"] == {"norm_epsilon": 1e-5, "qkv_bias": False}
    assert record["digest"] == trained["digest"]
    ternary = [row["name"] for row in record["layers"] if row.get("trits")]
    assert ternary[:3] == ["layers_0.qkv.kernel", "layers_0.up.kernel", "layers_0.mix.kernel"]
    how = {row["engine"]: row["how"] for row in record["runs_in"]}
    assert how["bitnet-jax"] == "exactly" and how["transformers"] == "refused"
    found = bitnet("model", "validate", "run/model.bitnet")
    assert found["digest"] == trained["digest"]
    assert not [finding for finding in found["findings"] if finding["severity"] == "error"]


@pytest.mark.heavy
@pytest.mark.parametrize("encoding", mostly_heavy(["packed", "master"], ["master"]))
def test_it_goes_to_hugging_face_and_back(trained, bitnet, folder, encoding):
    name = f"{encoding}.hf"
    there = bitnet("model", "convert", "run/model.bitnet", "-o", name, "--encoding", encoding)
    back = bitnet("model", "convert", name, "-o", f"{encoding}.bitnet")
    for record in (there, back):
        assert record["digest_before"] == record["digest_after"] == trained["digest"]
        assert record["max_logit_difference"] == 0.0 and record["scales_changed"] == []
    config = json.loads((folder / name / "config.json").read_text())
    assert config["architectures"] == ["MixingForCausalLM"] and config["model_type"] == "mixing"
    assert config["n_embd"] == 32 and config["qkv_bias"] is False
    assert config["activation_function"] == "gelu" and "hidden_size" not in config


@pytest.mark.heavy
def test_it_generates_the_same_from_either_format(trained, bitnet):
    texts = []
    bitnet("model", "convert", "run/model.bitnet", "-o", "said.hf")
    for model in ("run/model.bitnet", "said.hf"):
        record = bitnet("generate", model, "the quick", "--max-tokens", 12)
        assert len(record["tokens"]) == 12 and record["kernel"] != "none"
        texts.append(record["text"])
    assert texts[0] == texts[1]


@pytest.mark.heavy
def test_its_named_shape_is_made_and_trained_on(bitnet, folder):
    record = bitnet("model", "create", "mixing-tiny", "-o", "made.hf", "--encoding", "master")
    assert record["shape"] == "mixing-tiny"
    recipe = "steps: 2\nbatch: 1\nlength: 16\neval_windows: 2\ndata: {paths: [text.txt, more.md]}\n"
    (folder / "qat.yaml").write_text(recipe)
    trained = bitnet("train", "qat", "made.hf", "-c", "qat.yaml", "-o", "qat")
    assert trained["step"] == 2
    assert bitnet("model", "inspect", "qat/model.bitnet")["digest"] == trained["digest"]


# ------------------------------------------------------------------- without being told
@pytest.fixture(scope="module")
def exported(trained, bitnet):
    bitnet("model", "convert", "run/model.bitnet", "-o", "exported.hf")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("model inspect run/model.bitnet", "model.unknown_family"),
        ("generate run/model.bitnet x", "model.unknown_family"),
        ("train start -c recipe.yaml -o not", "model.unknown_family"),
        ("model inspect run/../exported.hf", "model.unknown_architecture"),
    ],
)
def test_nobody_else_knows_it(trained, exported, folder, line, code):
    line = line.replace("run/", f"{folder}/run/").replace("recipe", f"{folder}/recipe")
    ended = here(*line.split())
    assert ended.refused(65, code)
    assert "pass --plugin FILE.py" in ended.hint
    assert not (folder / "not").exists()


def test_the_environment_names_it_too(trained, folder, monkeypatch):
    monkeypatch.setenv("BITNET_PLUGIN", str(MIXING))
    assert spawn("model", "inspect", "run/model.bitnet", "--json", cwd=folder).rc == 0


# ---------------------------------------------------------------------------- a package
@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what pip installs: the package built from its own pyproject."""
    site = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    for file in ("pyproject.toml", MIXING.name):  # pip builds in place, and leaves its build
        (source / file).write_bytes((MIXING.parent / file).read_bytes())
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", site)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, source], check=True, timeout=300
    )
    return site


@pytest.fixture
def packaged(installed, folder, monkeypatch):
    """A command in a process where the package is installed."""
    paths = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    def run(*argv):
        return spawn(*argv, "--json", cwd=folder)

    return run


@pytest.mark.heavy
def test_an_installed_package_needs_no_option(packaged, trained, folder):
    record = packaged("train", "start", "-c", "recipe.yaml", "-o", "packaged").data
    assert record["digest"] == trained["digest"]  # the same recipe, the same bits
    there = packaged("model", "convert", "packaged/model.bitnet", "-o", "packaged.hf").data
    back = packaged("model", "convert", "packaged.hf", "-o", "packaged.bitnet").data
    assert there["digest_before"] == back["digest_after"] == trained["digest"]
    assert packaged("generate", "packaged.bitnet", "the", "-n", "3").data["tokens"]


def test_an_installed_package_is_listed_with_where_it_comes_from(packaged):
    record = packaged("model", "list-architectures").data
    row = next(row for row in record["families"] if row["family"] == "mixing")
    assert row["source"] == "package mixing-decoder 1.0"
    assert row["architecture"] == "MixingForCausalLM"
    assert "mixing-tiny" in [shape["shape"] for shape in record["shapes"]]
    assert packaged("dev", "check").data["families"]["mixing"] == "package mixing-decoder 1.0"


def test_a_file_of_the_same_name_is_refused(packaged):
    ended = packaged("model", "list-architectures", "--plugin", MIXING)
    assert ended.refused(2, "plugin.name_clash")


def test_a_broken_package_is_said_and_breaks_nothing_else(packaged, installed, trained, folder):
    module = installed / MIXING.name
    text = module.read_text()
    module.write_text(text.replace("import jax\n", "import nowhere_at_all\n", 1))
    try:
        packaged("model", "create", "tiny", "-o", "fine.bitnet")
        assert packaged("model", "inspect", "fine.bitnet").rc == 0
        for line in ("model list-architectures", "dev check"):
            ended = packaged(*line.split())
            assert ended.rc == 0
            (warning,) = ended.envelope["warnings"]
            assert "mixing-decoder 1.0" in warning and "nowhere_at_all" in warning
        ended = packaged("model", "inspect", "run/model.bitnet")
        assert ended.refused(69, "plugin.import") and "mixing-decoder 1.0" in ended.err
    finally:
        module.write_text(text)


# ------------------------------------------------------------------------------ the page
@pytest.mark.heavy
def test_the_page_is_under_a_hundred_lines_and_all_its_commands_run(tmp_path, monkeypatch):
    text = PAGE.read_text()
    page_plugin(tmp_path)
    assert len((tmp_path / "my_family.py").read_text().splitlines()) < 100
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    (tmp_path / "recipe.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(families, "_files", {})
    lines = re.findall(r"^bitnet .+", text, re.M)
    assert len(lines) == 6
    digests = []
    for line in lines:
        data = here(*shlex.split(line)[1:], "--json").data
        digests += [data.get("digest_after") or data.get("digest")]
    assert digests[0] and all(digest == digests[0] for digest in digests if digest)
    assert 1 <= len(data["tokens"]) <= 16
