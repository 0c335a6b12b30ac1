"""Pages of docs/ whose Python is one program: it runs, and prints what the page says."""

from __future__ import annotations

import re
import sys
import types

import pytest

PAGES = ("write-a-kernel.md", "recipes.md")


@pytest.mark.parametrize("name", PAGES)
def test_the_page_runs_and_prints_what_it_says(name, repo, tmp_path, monkeypatch, capsys):
    from bitnet_jax.ops import select
    from bitnet_jax.ops.ternary_matmul import primitive

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(select.TABLE, "ternary_matmul", dict(select.TABLE["ternary_matmul"]))
    monkeypatch.setattr(select, "PROBES", dict(select.PROBES))
    page = (repo / "docs" / name).read_text()
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    texts = iter(re.findall(r"```text\n(.*?)```", page, re.DOTALL))
    try:
        # Lines keep their numbers on the page: errors and tables name them.
        for block in re.finditer(r"```python\n(.*?)```", page, re.DOTALL):
            capsys.readouterr()
            code = "\n" * page[: block.start(1)].count("\n") + block[1]
            exec(compile(code, name, "exec"), module.__dict__)
            printed = capsys.readouterr().out
            if printed:
                assert printed == next(texts)
    finally:
        primitive.MODULES.pop("by_sign", None)
    assert next(texts, None) is None
