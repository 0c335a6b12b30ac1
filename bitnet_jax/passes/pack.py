"""`pack`: float parameters into packed ones.

It needs the function, because only the use says which axes are contracted,
stacked or looked up. Stands beside the pass that runs the result
(`pack_weights.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.ir.program import Program, named_leaves, trace
from bitnet_jax.passes.modes import Use
from bitnet_jax.passes.packed import DOT, Packed
from bitnet_jax.passes.quantize_linears import collect_uses
from bitnet_jax.quant.packing import pack_trits
from bitnet_jax.quant.rules import Rule
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.quant.ternary import ternarize


def pack(fn: Callable[..., Any], params: Any, rules: Sequence[Rule], *example_args: Any) -> Packed:
    """Packs `params` for `fn` under `rules`.

    Args:
      fn: ``fn(params, *args)``, any JAX function.
      params: pytree of float arrays.
      rules: ordered, first match wins.
      example_args: arrays or `jax.ShapeDtypeStruct`s; only shapes and dtypes are read.

    Raises:
      UsageError: a rule matched nothing, a use cannot be followed, or one parameter
        is contracted over different axes in different places (``transform.two_layouts``).
      BadData: a weight holds NaN or infinity (``tensor.not_finite``).
    """
    program = trace(fn, params, *example_args)
    return pack_program(program, params, rules)


def pack_program(program: Program, params: Any, rules: Sequence[Rule]) -> Packed:
    """As `pack`, for a traced program."""
    taken: dict[str, Use] = {}
    floats: set[str] = set()
    for use in collect_uses(program, rules):
        rule = None if use.rule is None else rules[use.rule]
        if use.kind != "dot" or rule is None or rule.to == "keep":
            floats.add(use.name)
            continue
        first = taken.setdefault(use.name, use)
        if (first.stack, first.out, first.inner) != (use.stack, use.out, use.inner):
            raise UsageError(
                "transform.two_layouts",
                f"`{use.name}` is contracted over axes {first.inner}{first.where}, and over "
                f"{use.inner}{use.where}",
                "pass it as two parameters, or keep one of them by a rule",
            )
    leaves: dict[str, Any] = {}
    for name, value in named_leaves(params).items():
        used = taken.get(name)
        if used is None:
            leaves[name] = value
            continue
        assert used.rule is not None
        leaves[name + DOT * (name in floats)] = _pack_one(name, value, used, rules[used.rule])
        if name in floats:
            leaves[name] = value
    return Packed(leaves, program.param_names, program.params_tree)


def _pack_one(name: str, value: Any, use: Use, rule: Rule) -> QuantTensor:
    if isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct):
        raise UsageError(
            "transform.pack_traced",
            f"`{name}` has no values yet: pack runs on arrays, not inside jit",
            "pack outside, and pass what it returns to the jitted function",
        )
    value = jnp.asarray(value)
    if not bool(jnp.isfinite(value.astype(jnp.float32)).all()):
        raise BadData(
            "tensor.not_finite", f"`{name}` holds NaN or infinity", "restore an earlier checkpoint"
        )
    return _quantize(value, use, rule)


# Jitted once for all: a decoder's matrices have a handful of shapes.
@functools.partial(jax.jit, static_argnames=("scale_kind", "group_size", "scale_dtype"))
def _pack_matrix(matrix: Any, **rule: Any) -> tuple[Any, Any]:
    trits, scale = ternarize(matrix, **rule)
    return pack_trits(trits), scale


def _quantize(value: Any, use: Use, rule: Rule) -> QuantTensor:
    order = (*use.stack, *use.out, *use.inner)
    lead = [value.shape[axis] for axis in use.stack]
    out = int(np.prod([value.shape[axis] for axis in use.out]))
    matrix = jnp.transpose(value, order).reshape(*lead, out, -1)

    codes, scale = _pack_matrix(
        matrix,
        scale_kind=rule.scale_kind,
        group_size=rule.group_size,
        scale_dtype=rule.scale_dtype,
    )
    return QuantTensor(
        codes,
        scale,
        shape=tuple(value.shape),
        dtype=str(value.dtype),
        stack_axes=use.stack,
        out_axes=use.out,
        in_axes=use.inner,
        scale_kind=rule.scale_kind,
        group_size=rule.group_size,
        scale_dtype=rule.scale_dtype,
    )
