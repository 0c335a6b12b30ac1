"""What `fused_linears` means: the ops that it stands for, one after the other.

Its products are `ternary_matmul`s: where there are no kernels, they run in the form that is
the fastest there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from bitnet_jax.ops.gated_activation.reference import gated_activation_reference
from bitnet_jax.ops.rms_norm.reference import rms_norm_reference
from bitnet_jax.ops.select import AUTO
from bitnet_jax.ops.ternary_matmul import ternary_matmul_p


class Operands(NamedTuple):
    """The operands of `fused_linears` by what they are; None: there is none."""

    x: Any
    up: Any
    norm: Any
    add: Any
    weights: Sequence[tuple[Any, Any]]


def sorted_out(operands: Sequence[Any], gate: str, normed: bool, added: bool) -> Operands:
    """The flat operands of the primitive: x, up, norm, add, then codes and scale of each weight."""
    rest = iter(operands)
    x = next(rest)
    up = next(rest) if gate else None
    norm = next(rest) if normed else None
    add = next(rest) if added else None
    return Operands(x, up, norm, add, list(zip(rest, rest, strict=True)))


def fused_linears_reference(
    *operands: Any,
    gate: str,
    normed: bool,
    eps: float,
    added: bool,
    layout: str,
    scale_kind: str,
    group_size: int,
    out_features: tuple[int, ...],
) -> list[Any]:
    """A float32 [1, M, out] for each weight."""
    x, up, norm, add, weights = sorted_out(operands, gate, normed, added)
    if gate:
        x = gated_activation_reference(x, up, kind=gate)
    if normed:
        x = rms_norm_reference(x, norm, eps=eps)
    results = [
        ternary_matmul_p.bind(
            x,
            codes,
            scale,
            out_features=out,
            layout=layout,
            scale_kind=scale_kind,
            group_size=group_size,
            out_dtype="float32",
            implementation=AUTO,
        )
        for (codes, scale), out in zip(weights, out_features, strict=True)
    ]
    return [add + results[0]] if added else results
