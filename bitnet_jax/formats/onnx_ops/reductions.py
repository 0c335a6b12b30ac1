"""Operators along axes: sums, means, extremes, sorting, running sums, softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.formats.onnx_ops.table import Node, axis_of, ints, operator, xp

_REDUCE: dict[str, Callable[..., Any]] = {
    "ReduceL1": lambda lib, x, **how: lib.sum(lib.abs(x), **how),
    "ReduceL2": lambda lib, x, **how: lib.sqrt(lib.sum(x * x, **how)),
    "ReduceLogSum": lambda lib, x, **how: lib.log(lib.sum(x, **how)),
    "ReduceMax": lambda lib, x, **how: lib.max(x, **how),
    "ReduceMean": lambda lib, x, **how: lib.mean(x, **how),
    "ReduceMin": lambda lib, x, **how: lib.min(x, **how),
    "ReduceProd": lambda lib, x, **how: lib.prod(x, **how),
    "ReduceSum": lambda lib, x, **how: lib.sum(x, **how),
    "ReduceSumSquare": lambda lib, x, **how: lib.sum(x * x, **how),
    "ReduceLogSumExp": lambda lib, x, **how: jax.nn.logsumexp(jnp.asarray(x), **how),
}


def _end(sign: int) -> Callable[[np.dtype], Any]:
    def end(dtype: np.dtype) -> Any:
        if dtype == np.bool_:
            return sign > 0
        if jnp.issubdtype(dtype, jnp.floating):
            return sign * np.inf
        return np.iinfo(dtype).max if sign > 0 else np.iinfo(dtype).min

    return end


# Of no elements at all: the end of the type's range.
_EXTREMES = {"ReduceMax": _end(-1), "ReduceMin": _end(1)}


def _reduce(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(node: Node, x: Any, axes: Any = None) -> Any:
        given = axes if axes is not None else node.get("axes")
        chosen = ints(given) if given is not None else []
        if not chosen:
            if node.get("noop_with_empty_axes", 0):
                return x
            chosen = list(range(x.ndim))
        over = tuple(axis_of(node, axis, x.ndim) for axis in chosen) if x.ndim else ()
        dtype, lib = x.dtype, xp(x)
        how: dict[str, Any] = {"axis": over, "keepdims": bool(node.get("keepdims", 1))}
        if node.op in _EXTREMES and 0 in x.shape:
            how["initial"] = _EXTREMES[node.op](np.dtype(dtype))
        found = function(lib, x, **how)
        return found.astype(dtype) if found.dtype != dtype else found

    return run


for _name, _function in _REDUCE.items():
    operator(_name, static=(1,))(_reduce(_function))


def _arg(name: str, pick: str) -> None:
    def run(node: Node, x: Any) -> Any:
        axis, lib = axis_of(node, node.get("axis", 0), x.ndim), xp(x)
        if node.get("select_last_index", 0):
            found = x.shape[axis] - 1 - getattr(lib, pick)(lib.flip(x, axis), axis=axis)
        else:
            found = getattr(lib, pick)(x, axis=axis)
        return lib.expand_dims(found, axis) if node.get("keepdims", 1) else found

    operator(name)(run)


_arg("ArgMax", "argmax")
_arg("ArgMin", "argmin")


@operator("TopK", static=(1,))
def top_k(node: Node, x: Any, k: Any = None) -> Any:
    """Of equal elements the first comes first, sorted or not."""
    count = int(np.asarray(node.need("k") if k is None else k).reshape(()))
    axis = axis_of(node, node.get("axis", -1), x.ndim)
    if not 0 <= count <= x.shape[axis]:
        raise node.broken(f"takes {count} of {x.shape[axis]} elements")
    lib = xp(x)
    if node.get("largest", 1):
        # Backwards twice: a stable ascending sort leaves the last of equals last.
        order = lib.flip(lib.argsort(lib.flip(x, axis), axis=axis, kind="stable"), axis)
        order = x.shape[axis] - 1 - order
    else:
        order = lib.argsort(x, axis=axis, kind="stable")
    order = lib.take(order, np.arange(count), axis)
    return lib.take_along_axis(x, order, axis), order


def _cumulative(name: str, function: str, empty: int) -> None:
    def run(node: Node, x: Any, axis: Any) -> Any:
        along, lib = axis_of(node, int(axis.reshape(())), x.ndim), xp(x)
        found = lib.flip(x, along) if node.get("reverse", 0) else x
        found = getattr(lib, function)(found, axis=along, dtype=x.dtype)
        if node.get("exclusive", 0):
            widths = [(1, 0) if i == along else (0, 0) for i in range(x.ndim)]
            found = lib.pad(found, widths, constant_values=empty)
            found = found[tuple(slice(n) for n in x.shape)]
        return lib.flip(found, along) if node.get("reverse", 0) else found

    operator(name, static=(1,))(run)


_cumulative("CumSum", "cumsum", 0)
_cumulative("CumProd", "cumprod", 1)


# ---------------------------------------------------------------------------- softmax
def _soft(name: str, function: Callable[..., Any]) -> None:
    def run(node: Node, x: Any) -> Any:
        return function(jnp.asarray(x), axis=axis_of(node, node.get("axis", -1), x.ndim))

    def flat(node: Node, x: Any) -> Any:
        """Before opset 13 all axes from `axis` on were one."""
        axis = axis_of(node, node.get("axis", 1), x.ndim)
        rows = jnp.reshape(x, (math.prod(x.shape[:axis]), -1))
        return function(rows, axis=-1).reshape(x.shape)

    operator(name, since=13)(run)
    operator(name)(flat)


def _hardmax(x: Any, axis: int) -> Any:
    return jax.nn.one_hot(jnp.argmax(x, axis), x.shape[axis], dtype=x.dtype, axis=axis)


_soft("Softmax", jax.nn.softmax)
_soft("LogSoftmax", jax.nn.log_softmax)
_soft("Hardmax", _hardmax)
