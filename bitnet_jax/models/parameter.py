"""`Parameter`: one row of a family's table of names, and what a spec makes of the rows.

A row is a template used both ways: ``N`` stands for the layer's number, in our name and in
the one of a `transformers` checkpoint. Knows no family and no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bitnet_jax.ir.spec import ModelSpec

# An N that stands alone: `layers.N.mlp`, Flax's `layers_N`, not the N of `LayerNorm`.
LAYER = re.compile(r"(?<![A-Za-z0-9])N(?![A-Za-z0-9])")


@dataclass(frozen=True)
class Parameter:
    """One row: a parameter of every layer (``N`` in its name) or of the model.

    Attributes:
      name: canonical template, the parameter's dotted path in `params`.
      huggingface: the same in a `transformers` checkpoint.
      shape: letters of `sizes_of`, or of the family's own `sizes`.
      ternary: it is one of the matrices that the family quantizes.
      needs: a boolean field of the spec (``tie_embeddings``, ``extra.bias``) without which
        the row is absent; with a leading ``!`` the field must be false.
      transposed: a matrix that is [in, out] here, as Flax has its kernels; checkpoints of
        `transformers` hold it [out, in].
      fused: it is some rows of a larger matrix there: the letters of all its parts' rows, in
        order. Rows with the same `huggingface` are those parts.
      part: which of them it is.
    """

    name: str
    huggingface: str
    shape: str
    ternary: bool = False
    needs: str = ""
    transposed: bool = False
    fused: str = ""
    part: int = 0

    @property
    def layered(self) -> bool:
        """There is one in every layer."""
        return LAYER.search(self.name) is not None


@dataclass(frozen=True)
class Expected:
    """A parameter that a spec asks for.

    Attributes:
      shape: here; `file_shape` is the shape in a `transformers` checkpoint.
      rows: which rows of the tensor there it is; None: all.
      file_rows: how many rows that tensor has, where it holds more than this parameter.
    """

    name: str
    huggingface: str
    shape: tuple[int, ...]
    ternary: bool
    transposed: bool = False
    rows: tuple[int, int] | None = None
    file_rows: int = 0

    @property
    def file_shape(self) -> tuple[int, ...]:
        """The shape of the tensor in a `transformers` checkpoint: of a matrix [out, in]."""
        if self.rows is not None:
            return (self.file_rows, *self.shape[1:])
        return self.shape[::-1] if self.transposed else self.shape

    def taken(self, whole: Any) -> Any:
        """This parameter's rows of the tensor in a checkpoint."""
        return whole if self.rows is None else whole[slice(*self.rows)]


def sizes_of(spec: ModelSpec) -> dict[str, int]:
    """What the letters of a shape stand for.

    V vocabulary, H hidden, I intermediate, Q query heads x head_dim, K key/value heads x
    head_dim, P positions.
    """
    return {
        "V": spec.vocab_size,
        "H": spec.hidden_size,
        "I": spec.intermediate_size,
        "Q": spec.num_heads * spec.head_dim,
        "K": spec.num_kv_heads * spec.head_dim,
        "P": spec.max_positions,
    }


def field_of(spec: ModelSpec, name: str) -> Any:
    """A field of the spec by name; `extra.x` is the family's own ``x``."""
    if name.startswith("extra."):
        return spec.extra[name.removeprefix("extra.")]
    return getattr(spec, name)


def present(row: Parameter, spec: ModelSpec) -> bool:
    """Whether `spec` has the parameter of `row`."""
    wanted = not row.needs.startswith("!")
    return not row.needs or bool(field_of(spec, row.needs.removeprefix("!"))) is wanted


def expand(
    rows: tuple[Parameter, ...], sizes: Mapping[str, int], spec: ModelSpec
) -> Iterator[Expected]:
    """Every parameter of `spec`, in the order data meets them.

    That is the rows' order, the layered rows standing together where the first of them does.
    """
    rows = tuple(row for row in rows if present(row, spec))
    layered = [row for row in rows if row.layered]
    first = rows.index(layered[0]) if layered else len(rows)

    def fill(row: Parameter, layer: str) -> Expected:
        counts = [sizes[letter] for letter in row.fused]
        start = sum(counts[: row.part])
        return Expected(
            LAYER.sub(layer, row.name),
            LAYER.sub(layer, row.huggingface),
            tuple(sizes[letter] for letter in row.shape),
            row.ternary,
            row.transposed,
            (start, start + counts[row.part]) if counts else None,
            sum(counts),
        )

    yield from (fill(row, "") for row in rows[:first])
    yield from (fill(row, str(n)) for n in range(spec.num_layers) for row in layered)
    yield from (fill(row, "") for row in rows[first:] if not row.layered)


@lru_cache
def _patterns(
    rows: tuple[Any, ...], source: str, target: str
) -> tuple[tuple[re.Pattern[str], str], ...]:
    out = []
    for row in rows:
        before, *after = LAYER.split(getattr(row, source))
        pattern = re.escape(before) + "".join(rf"(\d+){re.escape(part)}" for part in after)
        out.append((re.compile(pattern), LAYER.sub(r"\\1", getattr(row, target))))
    return tuple(out)


def translate(rows: tuple[Any, ...], name: str, source: str, target: str) -> str | None:
    """A name in one column of the rows as the other column has it; None if there is no such.

    Rows are `Parameter`s, or others that have two templates each, such as a `TensorName`.
    """
    for pattern, template in _patterns(rows, source, target):
        found = pattern.fullmatch(name)
        if found:
            return found.expand(template)
    return None
