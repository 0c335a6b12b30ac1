"""A construct's operands, for where it is built again: a view counts as its leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bitnet_jax.ir.interpreter import Context
from bitnet_jax.ir.views import ParamView

Rebuild = Callable[[Sequence[Any]], list[Any]]


def flatten(values: Sequence[Any]) -> tuple[list[Any], Rebuild]:
    """Splits values into arrays, and a function that puts other arrays in their place."""
    counts = [len(v.leaves()) if isinstance(v, ParamView) else 1 for v in values]
    leaves = [x for v in values for x in (v.leaves() if isinstance(v, ParamView) else [v])]

    def rebuild(arrays: Sequence[Any]) -> list[Any]:
        out, start = [], 0
        for value, count in zip(values, counts, strict=True):
            part = list(arrays[start : start + count])
            out.append(value.with_leaves(part) if isinstance(value, ParamView) else part[0])
            start += count
        return out

    return leaves, rebuild


def settled(context: Context, values: Sequence[Any]) -> list[Any]:
    """`values`, with what a view needs of the whole parameter computed."""
    return [context.mode.settle(v) if isinstance(v, ParamView) else v for v in values]
