"""Primitive name to the rule that writes it in ONNX: the tables of `rules/`, joined.

A new primitive is a row in one of those files.
"""

from __future__ import annotations

from bitnet_jax.export.lowering import Rule
from bitnet_jax.export.rules import (
    control,
    decoder,
    elementwise,
    indexing,
    packed,
    products,
    reductions,
    shapes,
)

TABLE: dict[str, Rule] = {
    **elementwise.RULES,
    **shapes.RULES,
    **indexing.RULES,
    **reductions.RULES,
    **products.RULES,
    **control.RULES,
    **decoder.RULES,
    **packed.RULES,
}

# For equations of which an operand is packed codes.
ON_CODES: dict[str, Rule] = {**control.ON_CODES, **shapes.ON_CODES, **packed.ON_CODES}
