"""Parameters of which `make test` runs some and `make test-heavy` the rest.

For a test that is one law over many rows, each of them seconds: every row still runs, but not on
every change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from bitnet_jax.ops.native import library as native

heavy = pytest.mark.heavy


def mostly_heavy(rows: Iterable[Any], kept: Collection[Any], attribute: str = "") -> list[Any]:
    """`rows` as parameters; all are heavy but those of `kept`, by themselves or by `attribute`."""
    rows = list(rows)
    names = [getattr(row, attribute) if attribute else row for row in rows]
    assert set(kept) <= set(names), set(kept) - set(names)  # a typing error keeps nothing
    return [
        pytest.param(row, marks=[] if name in kept else [heavy])
        for row, name in zip(rows, names, strict=True)
    ]


def each_isa(prefix: str = "") -> list[Any]:
    """Instruction sets that run here, after `prefix`; those between best and portable are heavy."""
    usable = native.status().usable_isas
    return [
        pytest.param(prefix + isa, marks=[heavy] * (isa not in (usable[0], "portable")))
        for isa in usable
    ]
