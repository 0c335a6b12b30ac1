"""Pass: matched parameters become packed leaves, and their dots `ternary_matmul`.

Needs: a float Program, and `Packed` parameters made for it. Does: replaces each
matched `dot_general` by the `ternary_matmul` op on the packed leaf. Leaves: a
Program whose parameters are `Packed`; no float form of a packed weight.

Also here: `pack`, which makes the `Packed` parameters from float ones. It needs
the function, because only the use says which axes are contracted or stacked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.ir.follow import FOLLOW, at
from bitnet_jax.ir.interpreter import Context, interpret
from bitnet_jax.ir.program import Program, named_leaves, trace
from bitnet_jax.ir.views import ParamView
from bitnet_jax.ops.ternary_matmul import ternary_matmul
from bitnet_jax.passes.geometry import DotGeometry
from bitnet_jax.passes.modes import RuleMode, Use
from bitnet_jax.passes.quantize_linears import collect_uses
from bitnet_jax.quant.packing import pack_trits
from bitnet_jax.quant.rules import Rule
from bitnet_jax.quant.tensor import QuantTensor, is_quant
from bitnet_jax.quant.ternary import ternarize

NAME = "pack_weights"
# A parameter used both ways (a tied embedding) has a float leaf under its own
# name and its packed one under the name with this suffix.
DOT = "@dot"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """Packed parameters of one function: what ``ternarize(fn, mode="packed")`` runs on.

    Invariants: each parameter of `tree` has a leaf under its dotted name (a float
    array or a `QuantTensor`), or a float one there and a `QuantTensor` under
    ``name@dot``.

    Attributes:
      leaves: name to array or `QuantTensor`.
      names: the parameters' dotted names, in `tree`'s order.
      tree: the float parameters' tree.
    """

    leaves: dict[str, Any]
    names: tuple[str, ...] = field(metadata={"static": True})
    tree: PyTreeDef = field(metadata={"static": True})

    @classmethod
    def of(cls, leaves: Mapping[str, Any]) -> Packed:
        """Packed parameters for a function that takes one flat dict of names."""
        names = [name for name in leaves if not name.endswith(DOT)]
        tree = jax.tree_util.tree_structure(dict.fromkeys(names, 0))
        return cls(dict(leaves), tuple(sorted(names)), tree)

    def float_avals(self) -> Any:
        """The float parameters this stands for, as abstract values in their tree."""
        avals = []
        for name in self.names:
            leaf = self.leaves[name]
            avals.append(jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(leaf.dtype)))
        return self.tree.unflatten(avals)

    def ternary(self) -> dict[str, QuantTensor]:
        """The packed tensors, by parameter name."""
        return {
            name.removesuffix(DOT): leaf for name, leaf in self.leaves.items() if is_quant(leaf)
        }


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
    value = jnp.asarray(value)
    if not bool(jnp.isfinite(value.astype(jnp.float32)).all()):
        raise BadData(
            "tensor.not_finite", f"`{name}` holds NaN or infinity", "restore an earlier checkpoint"
        )
    quant = _quantize(value, use, rule)
    return replace(quant, shape=tuple(value.shape), dtype=str(value.dtype))


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


@dataclass
class PackedMode(RuleMode):
    """Packed leaves; a dot runs the `ternary_matmul` op."""

    implementation: str | None = None

    def rule_for(self, name: str, use: str) -> tuple[int | None, Rule | None]:
        """What the leaf is decides, not a pattern: every dot of a packed leaf is taken."""
        return (0, self.rules[0]) if use == "dot" else (None, None)

    def other(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """The float leaf where the parameter was split; packing has refused the rest."""
        return self.plain(eqn, view)

    def plain(self, eqn: Any, view: ParamView) -> Any:
        """The float leaf of a split parameter; a packed one is never dequantized."""
        if view.value is None:
            raise UsageError(
                "transform.packed_use",
                f"`{view.name}` is packed for dots, and this function also uses it "
                f"otherwise{at(eqn)}",
                "pack it with the function it will run in: `pack(fn, params, rules, *args)`",
            )
        return view.value

    def ternary_dot(self, geometry: DotGeometry, rule: Rule, x: Any, eqn: Any) -> Any:
        """`ternary_matmul` on the canonical activations."""
        quant = geometry.view.quant
        assert quant is not None
        roles = (geometry.stack, geometry.out, geometry.inner)
        if roles != (quant.stack_axes, quant.out_axes, quant.in_axes):
            raise UsageError(
                "transform.packed_elsewhere",
                f"`{geometry.view.name}` was packed with inputs on axes {quant.in_axes}; this "
                f"function contracts {geometry.inner}{at(eqn)}",
                "pack it with the function it will run in: `pack(fn, params, rules, *args)`",
            )
        y = ternary_matmul(
            geometry.activation_matrix(x),
            quant,
            implementation=self.implementation,
            out_dtype=jnp.float32,
        )
        return geometry.result(y, x.shape).astype(eqn.outvars[0].aval.dtype)


# Every packed leaf is taken by this row; its scale says what rule made it.
_ANY = (Rule("**", use="dot", to="ternary"),)


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
        mode = PackedMode(_ANY, implementation=implementation)
        return interpret(mode, FOLLOW, program.jaxpr, [*values, *inputs])

    avals = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in flat]
    jaxpr = jax.make_jaxpr(run)(avals, program.input_avals)
    names = tuple(named_leaves(packed.leaves))
    return program.derived(NAME, jaxpr, param_names=names, params_tree=tree)


def _view(name: str, leaves: Mapping[str, Any]) -> Any:
    leaf, split = leaves[name], leaves.get(name + DOT)
    quant = leaf if is_quant(leaf) else split
    if quant is None:
        return leaf
    value = None if is_quant(leaf) else leaf
    return ParamView.of(name, quant.shape, jnp.dtype(quant.dtype), value=value, quant=quant)
