"""docs/quantize.md: its Python runs as it stands, its recipe parses, its commands do."""

import re
import shlex

import pytest

from bitnet_cli import registry
from bitnet_cli.args import Parser
from bitnet_cli.options import GlobalArgs
from bitnet_cli.route import route
from bitnet_jax.train.config import load_rules


@pytest.fixture(scope="module")
def page(repo):
    return (repo / "docs" / "quantize.md").read_text()


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.mark.heavy
def test_its_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, "quantize.md", "exec"), scope)
    assert scope["worst"].startswith("layers.0.")


def test_its_recipe_is_one(page, tmp_path):
    (recipe,) = blocks(page, "yaml")
    (tmp_path / "c.yaml").write_text(recipe)
    assert [rule.to for rule in load_rules(tmp_path / "c.yaml")] == ["keep", "ternary", "ternary"]


def test_its_commands_parse(page):
    lines = re.findall(r"^bitnet .+", page, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        asked = route(shlex.split(line, comments=True)[1:])
        _, args = registry.load(asked.command)
        Parser(GlobalArgs, args).typed(asked.argv)
