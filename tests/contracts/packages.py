"""Writes the list of packages in pyproject.toml from the tree.

setuptools finds packages by itself only where folder and package have one name, and `cli/` is
`bitnet_cli`; so the list stands in the file, and `make format` keeps it.

    python -m tests.contracts.packages
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDERS = {"bitnet_jax": "bitnet_jax", "cli": "bitnet_cli"}


def found() -> list[str]:
    """Every package of the tree, by the name it is installed under."""
    return sorted(
        ".".join([name, *init.parent.relative_to(ROOT / folder).parts])
        for folder, name in FOLDERS.items()
        for init in (ROOT / folder).rglob("__init__.py")
    )


def main() -> None:
    """Rewrites the list."""
    file = ROOT / "pyproject.toml"
    lines = "".join(f'    "{name}",\n' for name in found())
    text = file.read_text()
    new = re.sub(r"^packages = \[\n.*?^\]", f"packages = [\n{lines}]", text, flags=re.M | re.S)
    if new != text:  # else its date would have every environment installed again
        file.write_text(new)


if __name__ == "__main__":
    main()
