"""The table of operators, and what a function of it is given.

An operator's function takes a `Node` and its inputs' values, and returns the outputs' (one, or a
tuple). A value is a numpy array where it is known while tracing (weights of shapes, shape
arithmetic) and a JAX array else: `xp` of values says which library computes with them, so shape
arithmetic stays numpy and `jit` sees static shapes. Absent inputs are None.

Knows no graph: the walk is `formats/onnx_walk.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.core.errors import BadData

MICROSOFT = "com.microsoft"
# Of one array that is computed while tracing: a hostile shape must not take the machine's memory.
MOST_ELEMENTS = 1 << 28


@dataclass(frozen=True)
class Operator:
    """One row.

    Attributes:
      run: the function.
      static: inputs that must be known while tracing (shapes, axes, counts).
      since: the first opset whose meaning it has.
      notes: what it does not do, for the page of coverage.
    """

    run: Callable[..., Any]
    static: tuple[int, ...]
    since: int
    notes: str


# (domain, operator) -> rows, ascending by opset
OPERATORS: dict[tuple[str, str], list[Operator]] = {}


def operator(
    *names: str, static: Sequence[int] = (), since: int = 1, domain: str = "", notes: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as the meaning of operators from opset `since` on."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            rows = OPERATORS.setdefault((domain, name), [])
            rows.append(Operator(run, tuple(static), since, notes))
            rows.sort(key=lambda row: row.since)
        return run

    return register


def look_up(domain: str, name: str, opset: int) -> Operator | None:
    """The row of an operator in an opset; None if there is none."""
    rows = [row for row in OPERATORS.get((domain, name), ()) if row.since <= opset]
    return rows[-1] if rows else None


@dataclass(frozen=True)
class Node:
    """What an operator's function knows of its node.

    Attributes:
      op: the operator.
      where: what a message calls the node.
      opset: version of its domain.
      attributes: Python numbers, lists, strings, numpy arrays; graphs as functions of values.
      outputs: how many are used, trailing absent ones left out.
      input_types: ONNX's names of the inputs' types where a constant says it ("INT4").
    """

    op: str
    where: str
    opset: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def need(self, name: str) -> Any:
        """An attribute that must be there."""
        if name not in self.attributes:
            raise self.broken(f"has no attribute `{name}`")
        return self.attributes[name]

    def broken(self, what: str) -> BadData:
        """The error for a node that breaks its operator's rules."""
        return BadData("onnx.node", f"{self.where} {what}", "the model is damaged: export it again")

    def unsupported(self, what: str, hint: str | None = None) -> BadData:
        """The error for what the operator can do and we do not."""
        return BadData("onnx.unsupported", f"{self.where}: {what} is not supported", hint)


def is_static(*values: Any) -> bool:
    """True if every value is known while tracing."""
    return all(
        value is None or isinstance(value, np.ndarray) or _static_list(value) for value in values
    )


def _static_list(value: Any) -> bool:
    return isinstance(value, list) and is_static(*value)


def xp(*values: Any) -> ModuleType:
    """numpy where all values are known, else `jax.numpy`."""
    return np if is_static(*values) else jnp


def as_jax(value: Any) -> Any:
    """A value as a JAX array; what JAX would cut down without a word is an error.

    Raises:
      BadData: an int64 that int32 does not hold (``onnx.int64``).
    """
    if not isinstance(value, np.ndarray):
        return value
    wanted = jax.dtypes.canonicalize_dtype(value.dtype)
    if wanted != value.dtype and value.dtype.kind in "iu" and value.size:
        limits = np.iinfo(wanted)
        if value.min() < limits.min or value.max() > limits.max:
            raise BadData(
                "onnx.int64",
                f"a constant holds {value.min()} to {value.max()}, which {wanted} does not",
                'run JAX with 64-bit numbers: jax.config.update("jax_enable_x64", True)',
            )
    return jnp.asarray(value.astype(wanted))


def cast(value: Any, dtype: Any) -> Any:
    """`value` in `dtype`, or what JAX has for it."""
    if isinstance(value, np.ndarray):
        with np.errstate(invalid="ignore", over="ignore"):
            return value.astype(dtype)
    return value.astype(jax.dtypes.canonicalize_dtype(dtype))


def ints(value: Any) -> list[int]:
    """A static list of integers."""
    return [int(item) for item in np.asarray(value).reshape(-1)]


def checked_size(node: Node, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that is about to be filled.

    Raises:
      BadData: it is negative or absurd (``onnx.limits``).
    """
    count = 1
    for size in shape:
        count *= max(int(size), 1)
        if size < 0 or count > MOST_ELEMENTS:
            raise BadData(
                "onnx.limits",
                f"{node.where} makes an array of shape {list(shape)[:8]}",
                f"at most {MOST_ELEMENTS} elements are made while a graph is traced",
            )
    return tuple(int(size) for size in shape)


def axis_of(node: Node, axis: int, rank: int) -> int:
    """An axis counted from 0."""
    if not -rank <= axis < max(rank, 1):
        raise node.broken(f"names axis {axis} of an array of {rank} axes")
    return axis % max(rank, 1)
