"""`Program`: a traced function with named parameters; tracing and calling it.

Knows nothing of quantization: passes take a Program and return a Program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.extend.core as jec
import numpy as np
from jax.tree_util import PyTreeDef

from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.stages import record

# What JAX raises where Python would need the value of a traced array.
UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


@dataclass(frozen=True)
class Program:
    """A closed jaxpr whose first inputs are named parameters.

    Invariants (`verify` checks them): the jaxpr's inputs are `param_names`' leaves
    in order, then the inputs of `inputs_tree`; names are unique; every variable is
    defined before it is used. It holds no file, and a tracer only as a constant of a
    function traced inside another trace.

    Attributes:
      jaxpr: the computation, `jax.extend.core.ClosedJaxpr`.
      param_names: dotted path of each parameter leaf.
      params_tree: tree of the parameters as the caller passes them.
      inputs_tree: tree of the other positional arguments (a tuple).
      out_tree: tree of the result.
      passes: names of the passes that made it, in order.
    """

    jaxpr: jec.ClosedJaxpr
    param_names: tuple[str, ...]
    params_tree: PyTreeDef
    inputs_tree: PyTreeDef
    out_tree: PyTreeDef
    passes: tuple[str, ...] = ()

    @property
    def param_avals(self) -> list[Any]:
        """Abstract values of the parameters."""
        return list(self.jaxpr.in_avals[: len(self.param_names)])

    @property
    def input_avals(self) -> list[Any]:
        """Abstract values of the inputs that are no parameters."""
        return list(self.jaxpr.in_avals[len(self.param_names) :])

    def __call__(self, params: Any, *inputs: Any) -> Any:
        """Runs the program on parameters and inputs of the traced shapes."""
        leaves = self.params_tree.flatten_up_to(params)
        flat = self.inputs_tree.flatten_up_to(inputs)
        out = jec.jaxpr_as_fun(self.jaxpr)(*leaves, *flat)
        return self.out_tree.unflatten(out)

    def derived(self, name: str, jaxpr: jec.ClosedJaxpr, **changes: Any) -> Program:
        """The program that pass `name` made of this one."""
        made = replace(self, jaxpr=jaxpr, passes=(*self.passes, name), **changes)
        return record(made, before=self)

    def __str__(self) -> str:
        from bitnet_jax.ir.printer import print_program

        return print_program(self)


def path_name(path: Sequence[Any]) -> str:
    """Dotted name of a key path: ``{"a": [x]}``'s leaf is ``a.0``."""
    parts = []
    for key in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(key, attribute):
                parts.append(str(getattr(key, attribute)))
                break
        else:
            parts.append(str(key).strip(".[]'\""))
    return ".".join(parts)


def named_leaves(params: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Leaves of a pytree by dotted name, in tree order.

    A Flax variable, and a box around a parameter, is a leaf to people: its name does not
    end in the ``value`` that it holds.

    Raises:
      UsageError: two leaves have the same name (``{"a.b": x, "a": {"b": y}}``).
    """

    def stop(node: Any) -> bool:
        return _is_box(node) or bool(is_leaf and is_leaf(node))

    out: dict[str, Any] = {}
    for path, node in jax.tree_util.tree_leaves_with_path(params, is_leaf=stop):
        held = jax.tree_util.tree_leaves_with_path(node, is_leaf=is_leaf)
        for inner, leaf in held:
            name = path_name(path if len(held) == 1 else (*path, *inner))
            if name in out:
                raise UsageError(
                    "program.name_clash", f"two parameters are named `{name}`", "rename one of them"
                )
            out[name] = leaf
    return out


def _is_box(node: Any) -> bool:
    """True for what Flax wraps one parameter in (`nnx.Variable`, `nn.Partitioned`)."""
    kinds = {base.__name__ for base in type(node).__mro__ if base.__module__.startswith("flax.")}
    return bool(kinds & {"Variable", "AxisMetadata"})


def trace(fn: Callable[..., Any], params: Any, *inputs: Any) -> Program:
    """Traces ``fn(params, *inputs)`` into a `Program`.

    Args:
      fn: any JAX function whose first argument is a pytree of arrays.
      params: arrays or abstract values (`jax.ShapeDtypeStruct`).
      inputs: arrays, numbers or abstract values.

    Raises:
      UsageError: a leaf is no array (``program.leaf``).
    """
    named = named_leaves(params)
    flat_inputs, structure = jax.tree_util.tree_flatten(inputs)
    inputs_tree: Any = structure
    params_tree: Any = jax.tree_util.tree_structure(params)
    for name, leaf in [*named.items(), *((f"input {i}", x) for i, x in enumerate(flat_inputs))]:
        if not is_array(leaf):
            raise UsageError(
                "program.leaf",
                f"`{name}` is a {type(leaf).__name__}, not an array",
                "close over settings that are no arrays: `lambda params, x: fn(params, x, mode)`",
            )
    out_tree: list[Any] = []

    def flat_fn(leaves: Sequence[Any], flat: Sequence[Any]) -> list[Any]:
        out = fn(params_tree.unflatten(leaves), *inputs_tree.unflatten(flat))
        flat_out, tree = jax.tree_util.tree_flatten(out)
        out_tree.append(tree)
        return flat_out

    try:
        jaxpr = jax.make_jaxpr(flat_fn)(list(named.values()), flat_inputs)
    except UNTRACEABLE as error:
        where = jax_compat.raised_at(error.__traceback__)
        raise UsageError(
            "program.not_traceable",
            f"the function cannot be traced{f' at {where}' if where else ''}: "
            f"{str(error).splitlines()[0]}",
            "a value decides Python control flow or leaves JAX: use jnp.where, lax.cond, "
            "jax.debug.print, or pass it as a setting that is no array",
        ) from error
    return record(Program(jaxpr, tuple(named), params_tree, inputs_tree, out_tree[-1]), of=fn)


def is_array(leaf: Any) -> bool:
    """True for what JAX can trace: an array, an abstract value, a number."""
    if isinstance(leaf, bool | int | float | complex | np.ndarray | np.generic):
        return getattr(leaf, "dtype", None) != np.dtype(object)
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")
