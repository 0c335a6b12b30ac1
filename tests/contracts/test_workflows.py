"""The workflows of .github: their schema, and what they share with the Makefile."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
from ruamel.yaml import YAML


@pytest.fixture(scope="module")
def files(repo):
    found = sorted((repo / ".github/workflows").glob("*.y*ml"))
    assert found
    return found


@pytest.fixture(scope="module")
def ci(repo):
    return YAML(typ="safe").load(repo / ".github/workflows/ci.yml")


def steps(job) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


def test_every_workflow_fits_the_schema(files):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    done = subprocess.run(
        [*command, "vendor.github-workflows", *map(str, files)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_three_systems_and_every_python_are_in_the_matrix(repo, ci):
    matrix = ci["jobs"]["test"]["strategy"]["matrix"]
    assert {re.split(r"-\d", name)[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    oldest = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["requires-python"]
    assert matrix["python"][0] == oldest.removeprefix(">=")
    assert {"3.11", "3.13", "3.14"} <= set(matrix["python"])


def test_lint_is_what_make_runs(repo, ci):
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (repo / "Makefile").read_text(), re.M)
    asked = re.findall(r"\$\(BIN\)/(ruff [a-z]+(?: --check)? \.|mypy|lint-imports)", recipe[1])
    assert len(asked) == 4
    for command in asked:
        assert command in steps(ci["jobs"]["test"]).splitlines()


def test_actions_are_named_by_their_major_version(files):
    for file in files:
        for use in re.findall(r"uses: (\S+)", file.read_text()):
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", use), use


def test_nothing_from_outside_is_pasted_into_a_script(ci):
    # `${{ ... }}` inside `run` is where a branch's name becomes a command.
    for job in ci["jobs"].values():
        assert "${{" not in steps(job)
    assert ci["permissions"] == {"contents": "read"}
