"""Writes docs/formats/onnx-operators.md: each operator of ONNX, and what `from_onnx` makes of it.

    python -m tests.contracts.onnx_operators

The rows are those of the code's own table and of the package `onnx`; nothing is typed by hand.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from bitnet_jax.formats import onnx_walk  # noqa: F401  (registers every operator)
from bitnet_jax.formats.onnx_ops.table import MICROSOFT, OPERATORS

PAGE = Path(__file__).parents[2] / "docs/formats/onnx-operators.md"
HEAD = """# ONNX operators that are read

<!-- Written by `make format` from the code's table: do not edit. -->

What [`bj.from_onnx`](onnx-import.md) makes a JAX function of. An operator that is not here is an
error that names it, its domain and its node (`onnx.unknown_op`). *From opset*: the first whose
meaning is known; where an operator changed its meaning, each of them is.
"""


def _since(name: str, domain: str) -> str:
    return ", ".join(str(since) for since in sorted({r.since for r in OPERATORS[domain, name]}))


def _notes(name: str, domain: str) -> str:
    return "; ".join(dict.fromkeys(row.notes for row in OPERATORS[domain, name] if row.notes))


def standard() -> dict[str, str]:
    """Every operator of the standard's newest opset: ``yes``, ``as a function`` or ``no``."""
    newest: dict[str, onnx.defs.OpSchema] = {}
    for schema in onnx.defs.get_all_schemas():
        if schema.domain == "" and not schema.deprecated:
            newest[schema.name] = schema
    found = {}
    for name, schema in sorted(newest.items()):
        known = ("", name) in OPERATORS
        found[name] = "yes" if known else "as a function" if schema.has_function else "no"
    return found


def page() -> str:
    """The whole page."""
    rows = standard()
    older = sorted(name for domain, name in OPERATORS if not domain and name not in rows)
    contrib = sorted(name for domain, name in OPERATORS if domain == MICROSOFT)
    known = [name for name, how in rows.items() if how == "yes"]
    functions = [name for name, how in rows.items() if how == "as a function"]
    lines = [
        HEAD,
        f"\nOf the {len(rows)} operators of opset {onnx.defs.onnx_opset_version()} "
        f"{len(known)} are lowered, and {len(functions)} more as the function that the standard "
        f"defines them as; of ONNX Runtime's own (`{MICROSOFT}`) {len(contrib)}.\n",
        "\n## The standard's\n\n| operator | from opset | |\n|---|---|---|\n",
    ]
    for name in sorted([*known, *older]):
        lines.append(f"| `{name}` | {_since(name, '')} | {_notes(name, '')} |\n")
    lines.append("\nAs the standard's function: " + ", ".join(f"`{n}`" for n in functions) + ".\n")
    lines.append(f"\n## `{MICROSOFT}`\n\n| operator | |\n|---|---|\n")
    for name in contrib:
        lines.append(f"| `{name}` | {_notes(name, MICROSOFT)} |\n")
    lacking = ", ".join(f"`{name}`" for name, how in rows.items() if how == "no")
    lines.append(f"\n## Not read\n{lacking}.\n")
    return "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
