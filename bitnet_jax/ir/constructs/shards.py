"""`shard_map`: a view of which each device holds a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jec
from jax.sharding import PartitionSpec

from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir import arrange
from bitnet_jax.ir.constructs.operands import flatten, settled
from bitnet_jax.ir.interpreter import Construct, Context
from bitnet_jax.ir.views import ParamView


def _axis_names(part: Any) -> tuple[str, ...]:
    return () if part is None else part if isinstance(part, tuple) else (part,)


def _sharded(context: Context, eqn: Any, view: ParamView, spec: Any) -> ParamView | None:
    """The view inside a `shard_map` that splits it by `spec`; leaves are the whole's still.

    None for what is no parameter any more, where no block of it is left.
    """
    mesh = eqn.params["mesh"]
    inner = view
    for axis, part in enumerate(spec):
        names = _axis_names(part)
        count = 1
        for name in names:
            count *= mesh.shape[name]
        split = arrange.shard(inner, axis, names, count) if count > 1 else inner
        if split is None and view.remnant is not None:
            return None
        if split is None:
            raise UsageError(
                "transform.shard",
                f"`{view.name}` is split {count} ways over axis {axis} of {view.current_shape}, "
                f"which gives no block of it that can be quantized{context.at(eqn)}",
                "split an axis of the parameter itself, in whole blocks of 16, and leave each "
                "device at least two elements of a stack",
            )
        inner = split
    return inner


def _shard_inputs(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    return [
        _sharded(context, eqn, value, spec) if isinstance(value, ParamView) else value
        for value, spec in zip(values, eqn.params["in_specs"], strict=True)
    ]


def _shard_map(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    params = eqn.params
    values = settled(context, values)
    inside = _shard_inputs(context, eqn, values)
    carried = context.mode.carried()
    specs: list[Any] = [PartitionSpec() for _ in carried]
    operands: list[Any] = []
    for outer, inner, spec in zip(values, inside, params["in_specs"], strict=True):
        own = _leaf_specs(outer, inner, spec) if isinstance(outer, ParamView) else [spec]
        arrays = outer.leaves() if isinstance(outer, ParamView) else [outer]
        kept = not isinstance(outer, ParamView) or outer.value is not None
        # The function's own arrays lie as its specs say; what we joined to them may not yet.
        operands += arrays[:kept]
        operands += map(jax_compat.laid_as, arrays[kept:], own[kept:])
        specs += own
    _, rebuild = flatten(inside)
    closed = jec.ClosedJaxpr(params["jaxpr"], ())

    def body(*arrays: Any) -> tuple[Any, ...]:
        inner = context.with_mode(context.mode.with_carried(arrays[: len(carried)]))
        out = inner.shut(eqn, closed, rebuild(arrays[len(carried) :]))
        return tuple(inner.plain(eqn, out))

    return list(
        jax.shard_map(
            body,
            mesh=params["mesh"],
            in_specs=tuple(specs),
            out_specs=tuple(params["out_specs"]),
            axis_names=set(params["newly_manual_axes"]),
            check_vma=params["check_vma"],
        )(*carried, *operands)
    )


def _leaf_specs(outer: ParamView, inner: ParamView, spec: Any) -> list[Any]:
    """How each leaf of a view is split where the float array is split by `spec`."""
    names = [inner.shards[axis][len(outer.shards[axis]) :] for axis in range(len(inner.shape))]

    def entry(axis: int, varies: bool = True) -> Any:
        return names[axis] or None if varies else None

    out: list[Any] = [] if outer.value is None else [spec]
    for _, array in outer.companions:
        out.append(PartitionSpec(*(entry(a, n != 1) for a, n in enumerate(array.shape))))
    for quant in outer.quants:
        roles = (quant.out_axes, quant.in_axes)
        stack = [entry(axis) for axis in quant.stack_axes]
        rows, columns = (entry(role[0]) if role else None for role in roles)
        out.append(PartitionSpec(*stack, rows, columns))
        tail = {"tensor": (), "row": (rows,), "group": (rows, columns)}[quant.scale_kind]
        out.append(PartitionSpec(*stack, *tail))
    return out


def _shard_bodies(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    parts = [
        part if isinstance(part, ParamView) else var.aval
        for part, var in zip(
            _shard_inputs(context, eqn, values), eqn.params["jaxpr"].invars, strict=True
        )
    ]
    return [(jec.ClosedJaxpr(eqn.params["jaxpr"], ()), parts)]


SHARD_MAP = Construct(_shard_bodies, _shard_map)
