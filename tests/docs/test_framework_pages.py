"""docs/frameworks: each page is one program, runs as it stands, and prints what it says."""

from __future__ import annotations

import re
import sys
import types

import pytest

from tests.thin import mostly_heavy

PAGES = (
    "README",
    "plain",
    "flax-nnx",
    "flax-linen",
    "equinox",
    "haiku",
    "convnet",
    "mlp-mixer",
    "encoder",
    "mixture-of-experts",
)
# Examples of a page that must be able to fail: what each page is there to show.
SHOWS = ("bj.explain(", "bj.ternarize(", "bj.pack(", 'mode="packed"', "optax.", "assert ")

BLOCKS = re.compile(r"^```(python|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(repo):
    return repo / "docs" / "frameworks"


@pytest.mark.parametrize("name", mostly_heavy(PAGES, ("README", "plain")))
def test_the_page_runs_and_prints_what_it_says(name, folder, tmp_path, monkeypatch, capsys):
    file = folder / f"{name}.md"
    page = file.read_text()
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")  # a name in `sys.modules`: dataclasses look it up
    monkeypatch.setitem(sys.modules, "page", module)
    printed = None
    for block in BLOCKS.finditer(page):
        language, body = block.groups()
        if language == "text":
            assert body == printed, f"{file.name} does not print what it says"
            printed = None
            continue
        assert not printed, f"{file.name} prints, and does not say so:\n{printed}"
        capsys.readouterr()
        # Lines keep their numbers on the page: errors and tables name them.
        code = "\n" * page[: block.start(2)].count("\n") + body
        exec(compile(code, file.name, "exec"), module.__dict__)
        printed = capsys.readouterr().out
    assert not printed


def test_every_page_is_tried_and_listed(folder):
    assert sorted(PAGES) == sorted(file.stem for file in folder.glob("*.md"))
    index = (folder / "README.md").read_text()
    for name in PAGES[1:]:
        assert f"({name}.md)" in index


@pytest.mark.parametrize("name", PAGES[1:])
def test_a_page_shows_the_whole_way(name, folder):
    page = (folder / f"{name}.md").read_text()
    code = "".join(body for language, body in BLOCKS.findall(page) if language == "python")
    for step in SHOWS:
        assert step in code, step
    assert len(page.splitlines()) <= 180
