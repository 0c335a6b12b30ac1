"""The parameters that a spec asks for, by its family's table of names.

The table stands in the family's row (`Family.names`) and is used both ways, by every reader
and writer. Knows no file format beyond its spelling of names.
"""

from __future__ import annotations

from dataclasses import replace

from bitnet_jax.core.errors import CannotCreate
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.families import check_spec, family_of
from bitnet_jax.models.parameter import Expected, Parameter, expand, present, translate

__all__ = [
    "Expected",
    "Parameter",
    "expected",
    "from_huggingface",
    "gguf_names",
    "table",
    "to_huggingface",
    "unfused",
]


def table(family: str) -> tuple[Parameter, ...]:
    """Returns the rows of `family`.

    Raises:
      BadData: it is not known (code ``model.unknown_family``).
    """
    return family_of(family).names


def expected(spec: ModelSpec) -> dict[str, Expected]:
    """Every parameter that `spec` asks for, by canonical name, in the order data meets them.

    Raises:
      BadData: the family is not known, or refuses the spec (code ``config.value``).
    """
    family = check_spec(spec)
    return {item.name: item for item in expand(family.names, family.letters(spec), spec)}


def unfused(spec: ModelSpec) -> dict[str, Expected]:
    """As `expected`, each parameter with the shape of a tensor of its own."""
    return {name: replace(item, rows=None, file_rows=0) for name, item in expected(spec).items()}


def tied_away(spec: ModelSpec) -> set[str]:
    """What a `transformers` checkpoint calls the parameters that `spec`, being tied, has not."""
    rows = table(spec.family)
    return {
        row.huggingface for row in rows if row.needs == "!tie_embeddings" and not present(row, spec)
    }


def to_huggingface(family: str, name: str) -> str | None:
    """What a `transformers` checkpoint calls the canonical `name`; None if it has no such."""
    return translate(table(family), name, "name", "huggingface")


def from_huggingface(family: str, name: str) -> str | None:
    """The canonical name of a `transformers` tensor; None if the family has no such."""
    return translate(table(family), name, "huggingface", "name")


def gguf_names(spec: ModelSpec) -> dict[str, str]:
    """What a GGUF file calls each parameter of `spec`, by canonical name.

    Parts of one tensor have the same name, and stand in the order of their rows.

    Raises:
      CannotCreate: the family has no names there (``gguf.family``), or lacks one.
    """
    row = family_of(spec.family).gguf
    found: dict[str, str] = {}
    for name in expected(spec):
        theirs = translate(row.names, name, "name", "gguf") if row is not None else None
        if theirs is None:
            raise CannotCreate(
                "gguf.family",
                f"family `{spec.family}` has no name for "
                + (f"`{name}` in a GGUF file" if row is not None else "its tensors in GGUF files"),
                "keep it as --format bitnet",
            )
        found[name] = theirs
    return found
