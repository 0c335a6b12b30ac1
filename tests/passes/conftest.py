"""Goldens: text that must not change unnoticed. `REGOLD=1 pytest` writes them anew."""

import os
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture
def golden():
    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if os.environ.get("REGOLD"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"no golden {path.name}; REGOLD=1 pytest writes it"
        assert text == path.read_text(), f"{path.name} differs; look, then REGOLD=1 pytest"

    return check
