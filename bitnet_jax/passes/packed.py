"""`Packed`: the parameters that a packed program runs on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import PyTreeDef

from bitnet_jax.core import jax_compat
from bitnet_jax.quant.tensor import QuantTensor, is_quant

# A parameter used both ways (a tied embedding) has a float leaf under its own name and
# its packed one under the name with this suffix; where it is multiplied over several of
# its axes, each further layout has a number after it.
DOT = "@dot"


def leaf_names(name: str, layouts: int, split: bool) -> list[str]:
    """The names of a parameter's packed leaves; `split`: a float leaf has its own name."""
    return [name + DOT * split, *(f"{name}{DOT}{number}" for number in range(2, layouts + 1))]


def parameter_of(leaf: str) -> str:
    """The parameter that a leaf belongs to."""
    return leaf.partition(DOT)[0]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """Packed parameters of one function: what ``ternarize(fn, mode="packed")`` runs on.

    Invariants: each parameter of `tree` has a leaf under its dotted name (a float
    array or a `QuantTensor`), or a float one there and a `QuantTensor` under
    ``name@dot``; further layouts of it stand under ``name@dot2``, …. Float leaves are the
    caller's own arrays: donating those to a training step takes them from here too.

    Attributes:
      leaves: name to array or `QuantTensor`.
      names: the parameters' dotted names, in `tree`'s order.
      tree: the float parameters' tree.
      narrow: float leaves, ascending, that are held as bfloat16 and stand for float32: where they
        are used, their values are widened, exactly.
    """

    leaves: dict[str, Any]
    names: tuple[str, ...] = field(metadata={"static": True})
    tree: PyTreeDef = field(metadata={"static": True})
    narrow: tuple[str, ...] = field(metadata={"static": True}, default=())

    @classmethod
    def of(cls, leaves: Mapping[str, Any], narrow: Iterable[str] = ()) -> Packed:
        """Packed parameters for a function that takes one flat dict of names."""
        names = [name for name in leaves if DOT not in name]
        tree = jax.tree_util.tree_structure(dict.fromkeys(names, 0))
        return cls(dict(leaves), tuple(sorted(names)), tree, tuple(sorted(narrow)))

    def float_avals(self) -> Any:
        """The float parameters this stands for, as abstract values in their tree."""
        return self.tree.unflatten([self._stands_for(name) for name in self.names])

    def _stands_for(self, name: str) -> Any:
        aval = abstract(self.leaves[name])
        return aval.update(dtype=jnp.float32) if name in self.narrow else aval

    def ternary(self) -> dict[str, QuantTensor]:
        """The ternary tensors, by parameter name (in its first layout)."""
        return {
            name: quants[0] for name, quants in self.quants().items() if quants[0].kind == "ternary"
        }

    def quants(self) -> dict[str, tuple[QuantTensor, ...]]:
        """The packed tensors of each parameter that has any, one for each layout."""
        out: dict[str, tuple[QuantTensor, ...]] = {}
        for leaf_name, leaf in sorted(self.leaves.items(), key=lambda item: _layout(item[0])):
            if is_quant(leaf):
                name = parameter_of(leaf_name)
                out[name] = (*out.get(name, ()), leaf)
        return out


def _layout(leaf: str) -> int:
    """The number of a leaf's layout."""
    return int(leaf.partition(DOT)[2] or 1)


def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """The type of an array, a number, or what a `QuantTensor` stands for."""
    if is_quant(leaf):
        found = _explicit(leaf.codes)
        sharding = None if found is None else _float_sharding(leaf, found)
        return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(leaf.dtype), sharding=sharding)
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_explicit(leaf))
    return jax.ShapeDtypeStruct((), jnp.result_type(leaf))


def _explicit(array: Any) -> Any:
    """The sharding in the type of an array, or None; numpy arrays have none."""
    typed = isinstance(array, jax.Array | jax.ShapeDtypeStruct | jax.core.ShapedArray)
    return jax_compat.explicit_sharding(jax.typeof(array)) if typed else None


def _float_sharding(quant: QuantTensor, codes: Any) -> Any:
    """How the float parameter lies whose codes lie so (inverse of `pack`'s placing)."""
    axes = [*quant.stack_axes, *(r[0] if r else None for r in (quant.out_axes, quant.in_axes))]
    spec: list[Any] = [None] * len(quant.shape)
    for axis, names in zip(axes, codes.spec, strict=False):
        each = names if isinstance(names, tuple) else (names,) * (names is not None)
        over = math.prod(codes.mesh.shape[name] for name in each)
        if axis is not None and quant.shape[axis] % over == 0:
            spec[axis] = names
    return jax.sharding.NamedSharding(codes.mesh, jax.sharding.PartitionSpec(*spec))
