"""The wheel and the sdist: built, read, installed where there is no compiler, and run.

Everything here is real: the builds are isolated as pip's own are, the wheel is installed with
its dependencies into a new environment, and the commands see a PATH that holds nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from bitnet_jax.ops.native import build as kernels

pytestmark = pytest.mark.heavy

PREBUILT = "bitnet_jax/ops/native/prebuilt/"


def succeed(command: list, **options) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        **{"capture_output": True, "text": True, "timeout": 1500, **options},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def build(repo: Path, source: Path, to: Path, *options: str, **environment: str) -> Path:
    """Builds one archive from `source` into `to`."""
    pins = {"PIP_CONSTRAINT": str(repo / ".ci/constraints.txt")}
    command = [sys.executable, "-m", "build", *options, "--outdir", to, source]
    succeed(command, env={**os.environ, **pins, **environment})
    [made] = [path for path in to.iterdir() if path.suffix in (".whl", ".gz")]
    return made


@pytest.fixture(scope="module")
def tree(repo, tmp_path_factory) -> Path:
    """What git holds of the working tree, and nothing that an earlier build left."""
    copy = tmp_path_factory.mktemp("tree")
    listed = succeed(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=repo)
    for name in listed.splitlines():
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((repo / name).read_bytes())
    return copy


@pytest.fixture(scope="module")
def sdist(repo, tree, tmp_path_factory) -> Path:
    return build(repo, tree, tmp_path_factory.mktemp("sdist"), "--sdist", "--no-isolation")


@pytest.fixture(scope="module")
def wheel(repo, tree, tmp_path_factory) -> Path:
    """The wheel of the tree."""
    return build(repo, tree, tmp_path_factory.mktemp("wheel"), "--wheel", "--no-isolation")


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_packages_the_library_and_nothing_else(tree, wheel):
    held = {name for name in names(wheel) if ".dist-info/" not in name}
    folders = {"bitnet_jax": "bitnet_jax", "cli": "bitnet_cli"}
    source = {
        "/".join([installed, *path.relative_to(tree / folder).parts])
        for folder, installed in folders.items()
        for path in (tree / folder).rglob("*")
        if path.is_file()
    }
    library = kernels.library_name(kernels.find_compiler())
    assert held - source == {PREBUILT + library, PREBUILT + library + ".sha256"}
    assert source - held == set()
    assert "bitnet_jax/py.typed" in held and "bitnet_jax/ops/native/library.cc" in held


def test_the_tag_says_where_it_runs_and_auditwheel_agrees(wheel):
    assert wheel.name.startswith("bitnet_jax-") and "-py3-none-manylinux_2_" in wheel.name
    said = succeed([sys.executable, "-m", "auditwheel", "show", wheel]).replace("\n", " ")
    tag = wheel.stem.split("-py3-none-")[1]
    assert f'is consistent with the following platform tag: "{tag}"' in said


def test_the_metadata_are_what_the_index_accepts(wheel, sdist):
    succeed([sys.executable, "-m", "twine", "check", "--strict", wheel, sdist])


def test_sdist_to_wheel_in_isolation_gives_the_same_bytes(repo, sdist, wheel, tmp_path):
    # As `pip install` of the sdist does it: in an environment with the build's requirements
    # alone, on another path, on another day.
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    [source] = (tmp_path / "source").iterdir()
    for path in source.rglob("*"):
        os.utime(path, (2e9, 2e9))
    again = build(repo, source, tmp_path, "--wheel")
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


def test_the_sdist_is_the_same_bytes_again_and_holds_the_tests(repo, tree, sdist, tmp_path):
    again = build(repo, tree, tmp_path, "--sdist", "--no-isolation")
    assert again.read_bytes() == sdist.read_bytes()
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"wheel_backend.py", "tests/contracts/test_wheel.py", ".ci/constraints.txt"} <= held


@pytest.mark.parametrize("why", ["asked", "no compiler"])
def test_a_pure_wheel(repo, tree, tmp_path, why):
    environment = {"BITNET_WHEEL": "pure"} if why == "asked" else {"PATH": str(tmp_path), "CXX": ""}
    made = build(repo, tree, tmp_path, "--wheel", "--no-isolation", **environment)
    assert made.name.endswith("-py3-none-any.whl")
    assert not [name for name in names(made) if name.startswith(PREBUILT)]


def test_native_insists(tree, tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "-n", "-o", tmp_path, tree]
    environment = {**os.environ, "BITNET_WHEEL": "native", "PATH": str(tmp_path), "CXX": ""}
    done = subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "BITNET_WHEEL=native: error[kernel.no_compiler]" in done.stdout + done.stderr


# ------------------------------------------------------- installed, without a compiler
@pytest.fixture(scope="module")
def installed(repo, wheel, tmp_path_factory):
    """Runs `bitnet` of a new environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv/bin"
    pins = repo / ".ci/constraints.txt"
    install = ["-m", "pip", "install", "--disable-pip-version-check", "-q", "-c", pins, wheel]
    succeed([programs / "python", *install])
    home = folder / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": str(programs), "JAX_PLATFORMS": "cpu", "LC_ALL": "C"}

    def run(*words: str, **more: str) -> dict:
        command = [programs / "bitnet", *words, "--json"]
        return json.loads(succeed(command, cwd=home, env={**environment, **more}))["data"]

    return run


def test_the_prebuilt_kernels_are_used(installed):
    found = installed("dev", "check")
    assert found["compiler"] is None
    assert (found["kernels"]["available"], found["kernels"]["origin"]) == (True, "wheel")
    assert found["ternary_matmul"]["implementation"] == "native"
    assert not [gap for gap in found["missing"] if "kernels" in gap["name"]]


def test_without_them_it_runs_through_xla_and_says_so(installed, tmp_path):
    (tmp_path / "empty").mkdir()
    found = installed("dev", "check", BITNET_KERNELS=str(tmp_path / "empty"))
    assert not found["kernels"]["available"] and "holds no library" in found["kernels"]["reason"]
    assert found["ternary_matmul"]["implementation"] == "xla"


def test_quickstart_runs(installed):
    result = installed("quickstart", "--minutes", "0.05", "--output", "first")
    assert result


def test_create_convert_and_generate(installed):
    create = ("model", "create", "bitnet-2b-4t", "--layers", "1", "--vocab-size", "512")
    installed(*create, "--output", "twin.hf", "--format", "huggingface")
    installed("model", "convert", "-i", "twin.hf", "-o", "twin.bitnet", "--format", "bitnet")
    text = installed("serve", "generate", "twin.bitnet", "def main(", "--max-tokens", "4")
    assert text
