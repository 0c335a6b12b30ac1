from __future__ import annotations

import re
import tomllib

import pytest

from tests.contracts import packages


@pytest.fixture(scope="module")
def pyproject(repo):
    return tomllib.loads((repo / "pyproject.toml").read_text())


def test_every_package_of_the_tree_is_in_the_wheel(pyproject):
    listed = pyproject["tool"]["setuptools"]["packages"]
    assert listed == packages.found(), "run `make format`"


def test_every_folder_with_python_files_is_a_package(repo):
    for root in ("bitnet_jax", "cli"):
        for file in (repo / root).rglob("*.py"):
            if "templates" not in file.parts:
                assert (file.parent / "__init__.py").exists(), f"{file.parent} has no __init__.py"


def test_every_pinned_version_satisfies_what_the_project_asks(repo, pyproject):
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = {}
    for line in (repo / ".ci/constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    extras = pyproject["project"]["optional-dependencies"]
    wanted = [*pyproject["project"]["dependencies"]]
    for name in ("dev", "hf", "gguf", "hub", "gcs", "s3"):
        wanted += extras[name]
    for text in wanted:
        need = Requirement(text)
        assert need.specifier.contains(pins[canonicalize_name(need.name)]), text


def test_the_native_sources_are_package_data(repo, pyproject):
    globs = pyproject["tool"]["setuptools"]["package-data"]
    top = repo / "bitnet_jax"
    for source in [*top.rglob("*.cc"), *top.rglob("*.h")]:
        package = next(p for p in source.parents if (p / "__init__.py").exists())
        name = ".".join(["bitnet_jax", *package.relative_to(top).parts])
        listed = {file for glob in globs.get(name, []) for file in package.glob(glob)}
        assert source in listed, f"{source} is in no wheel: mend package-data in pyproject.toml"


def test_nothing_committed_names_a_machine(repo):
    # Spelled apart, so that this file does not find itself.
    words = (
        "/wo" + "rk/",
        r"\.\./sha" + "red",
        r"\.libr" + "ary/",
        "py" + r"pi\.org",
        "/ro" + "ot/",
    )
    forbidden = re.compile("|".join(words))
    kinds = (".py", ".md", ".toml", ".txt", ".cc", ".h", ".yaml", ".json", "")
    folders = ("bitnet_jax", "cli", "tests", "docs", "configs", "benchmarks", ".ci")
    files = [file for folder in folders for file in (repo / folder).rglob("*")]
    top = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml")
    for file in [*files, *(repo / name for name in top)]:
        if file.is_file() and file.suffix in kinds:
            found = forbidden.search(file.read_text(errors="replace"))
            assert not found, f"{file} names {found.group()}"
