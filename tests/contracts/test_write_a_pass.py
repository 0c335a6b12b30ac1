"""docs/write-a-pass.md: its pass runs, is short, and does to the program what is printed there."""

from __future__ import annotations

import json
import re

import pytest


@pytest.fixture(scope="module")
def page(repo):
    return (repo / "docs/write-a-pass.md").read_text()


@pytest.fixture
def names(page, tmp_path, monkeypatch):
    """Every block of Python on the page, run in order in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "write-a-pass.md", "exec"), names)
    return names


def test_a_whole_pass_takes_at_most_sixty_lines(page):
    first = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    assert "derived(NAME" in first and len(first.splitlines()) <= 60
    for word in ("Needs:", "Does:", "Leaves:"):
        assert word in first


def test_what_is_printed_is_what_it_does(page, names):
    texts = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert texts == [str(names["program"]), str(names["after"])]


def test_what_is_dumped_is_what_is_printed(page, names, tmp_path):
    folder = tmp_path / "stages" / "00-program"
    assert (folder / "00-input.txt").read_text() == str(names["program"])
    assert (folder / "01-bfloat16_products.txt").read_text() == str(names["after"])
    index = json.loads((tmp_path / "stages" / "index.json").read_text())
    assert [stage["equations"] for stage in index["programs"][0]["stages"]] == [4, 8]
    written = sorted(path.name for path in (tmp_path / "qat-stages" / "00-net").iterdir())
    assert written == ["00-trace.txt", "01-quantize_linears.txt"]
