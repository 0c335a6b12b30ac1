from __future__ import annotations

import tomllib


def layers(repo):
    contracts = tomllib.loads((repo / "pyproject.toml").read_text())["tool"]["importlinter"]
    return contracts["contracts"]


def test_every_module_of_the_command_line_has_its_layer(repo):
    # The library's contract is exhaustive by itself; the command line's package holds files.
    [contract] = [c for c in layers(repo) if c.get("containers") == ["bitnet_cli"]]
    listed = " ".join(contract["layers"])
    for file in (repo / "cli").glob("*.py"):
        if file.stem != "__init__":
            assert f"({file.stem})" in listed, f"give cli/{file.name} its layer in pyproject.toml"


def test_errors_know_nothing_above_them(repo):
    text = (repo / "bitnet_jax/core/errors.py").read_text()
    assert "from bitnet_jax" not in text
