"""Pass: matched parameters become packed leaves, and their dots `ternary_matmul`.

Needs: a float Program, and `Packed` parameters made for it. Does: replaces each
dot of a packed leaf by the `ternary_matmul` op. Leaves: a Program whose parameters
are `Packed`; no float form of a packed weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.follow import FOLLOW
from bitnet_jax.ir.interpreter import Context, interpret
from bitnet_jax.ir.program import Program, named_leaves
from bitnet_jax.ir.views import ParamView
from bitnet_jax.ops.ternary_matmul import ternary_matmul
from bitnet_jax.passes.geometry import DotGeometry
from bitnet_jax.passes.modes import RuleMode
from bitnet_jax.passes.packed import DOT, Packed, abstract
from bitnet_jax.quant.rules import Rule
from bitnet_jax.quant.scaling import read_input, write_output
from bitnet_jax.quant.tensor import is_quant

NAME = "pack_weights"
# What `ternary_matmul` reads; any other dtype is widened first.
NATIVE_DTYPES = ("float32", "bfloat16")


@dataclass
class PackedMode(RuleMode):
    """Packed leaves; a dot runs the `ternary_matmul` op."""

    implementation: str | None = None

    def rule_for(self, name: str, use: str) -> tuple[int | None, Rule | None]:
        """What the leaf is decides, no pattern: a view is a packed leaf, every dot its own."""
        return (0, PACKED) if use == "dot" else (None, None)

    def other(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """The float leaf where the parameter was split; packing has refused the rest."""
        return self.plain(context, eqn, view)

    def plain(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """The float leaf of a split parameter; a packed one is never dequantized."""
        if view.value is None:
            raise UsageError(
                "transform.packed_use",
                f"`{view.name}` is packed for dots, and this function also uses it "
                f"otherwise{context.at(eqn)}",
                "pack it with the function it will run in: `pack(fn, params, rules, *args)`",
            )
        return view.value

    def ternary_dot(
        self, context: Context, geometry: DotGeometry, rule: Rule, x: Any, eqn: Any
    ) -> Any:
        """`ternary_matmul` on the canonical activations."""
        quant = geometry.view.quant
        assert quant is not None
        roles = (geometry.stack, geometry.out, geometry.inner)
        if roles != (quant.stack_axes, quant.out_axes, quant.in_axes):
            raise UsageError(
                "transform.packed_elsewhere",
                f"`{geometry.view.name}` was packed with inputs on axes {quant.in_axes}; this "
                f"function contracts {geometry.inner}{context.at(eqn)}",
                "pack it with the function it will run in: `pack(fn, params, rules, *args)`",
            )
        x_shape = x.shape
        if str(x.dtype) not in NATIVE_DTYPES:
            x = read_input(x)
        y = ternary_matmul(
            geometry.activation_matrix(x),
            quant,
            implementation=self.implementation,
            out_dtype=jnp.float32,
        )
        return write_output(geometry.result(y, x_shape), eqn.outvars[0].aval.dtype)


# Stands for whatever rule made the leaf: its kind of scale is the leaf's own affair.
PACKED = Rule("**", use="dot", to="ternary")


def pack_weights(program: Program, packed: Packed, *, implementation: str | None = None) -> Program:
    """As `program`, on packed parameters.

    Args:
      packed: `Packed`, its leaves arrays or abstract values.
      implementation: of `ternary_matmul`; None chooses at lowering.

    Raises:
      UsageError: the parameters were packed for another function.
    """
    missing = set(program.param_names) ^ set(packed.names)
    if missing:
        raise UsageError(
            "transform.packed_elsewhere",
            f"the packed parameters and the function differ in {', '.join(sorted(missing)[:5])}",
            "pack them with the function they will run in",
        )
    flat, structure = jax.tree_util.tree_flatten(packed)
    tree: Any = structure

    def run(leaves: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        now: Packed = tree.unflatten(leaves)
        values = [_view(name, now.leaves) for name in program.param_names]
        mode = PackedMode((PACKED,), implementation=implementation)
        return interpret(mode, FOLLOW, program.jaxpr, [*values, *inputs])

    avals = [abstract(leaf) for leaf in flat]
    jaxpr = jax.make_jaxpr(run)(avals, program.input_avals)
    names = tuple(named_leaves(packed.leaves))
    return program.derived(NAME, jaxpr, param_names=names, params_tree=tree)


def _view(name: str, leaves: Mapping[str, Any]) -> Any:
    leaf, split = leaves[name], leaves.get(name + DOT)
    quant = leaf if is_quant(leaf) else split
    if quant is None:
        return leaf
    value = None if is_quant(leaf) else leaf
    return ParamView.of(name, quant.shape, value=value, quant=quant)
