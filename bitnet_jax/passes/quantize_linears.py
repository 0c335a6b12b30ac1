"""Pass: the products that the rules name compute as the quantized model will.

Needs: a float Program. Does: replaces each matched `dot_general`, `ragged_dot` and
lookup by the QAT arithmetic of `quant/qat.py`. Leaves: the same parameters, float; with
`traced_lambda`, one more input at the end, λ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import InternalError
from bitnet_jax.ir.follow import FOLLOW
from bitnet_jax.ir.interpreter import Context, bind, interpret
from bitnet_jax.ir.program import Program
from bitnet_jax.ir.views import ParamView
from bitnet_jax.passes.geometry import (
    canonical_matrix,
    dot_geometry,
)
from bitnet_jax.passes.modes import FloatMode
from bitnet_jax.passes.plan import Plan, make_plan
from bitnet_jax.passes.qat_products import Spec, matrix_scale, qat_dot, qat_ragged_dot, view_scale
from bitnet_jax.quant.notes import LearnedScale, activation_of, find, learned_scale
from bitnet_jax.quant.qat import (
    Arithmetic,
    weight_codes,
)
from bitnet_jax.quant.rules import Rule
from bitnet_jax.quant.scaling import read_input, write_output
from bitnet_jax.quant.tensor import broadcast_scale

NAME = "quantize_linears"


@dataclass(frozen=True)
class QatMode(FloatMode):
    """Float parameters, quantized at each use."""

    plan: Plan
    lam: Any = None
    forward: str = "float32"

    def quantizes(self, view: ParamView) -> bool:
        """True if a rule took this parameter's products."""
        return view.name in self.plan.dots

    def plain(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """Floats, where the plan saw a use for them: a quantized weight is never lost."""
        if not self.plan.needs_float(view.name):
            raise InternalError(
                "transform.lost",
                f"`{view.name}` reaches `{eqn.primitive.name if eqn else 'the result'}`"
                f"{context.at(eqn)}, which the plan had not seen",
            )
        return super().plain(context, eqn, view)

    def carried(self) -> list[Any]:
        """λ, where it is traced."""
        return [] if self.lam is None else [self.lam]

    def with_carried(self, arrays: Sequence[Any]) -> QatMode:
        """The same mode over another λ."""
        return self if self.lam is None else replace(self, lam=arrays[0])

    def settle(self, view: ParamView) -> ParamView:
        """Computes the scale of the whole parameter, before a slice or a shard hides the rest.

        Groups need none: what is left of the inputs is whole groups, or refused.
        """
        rule = self.plan.rule(view.name)
        if rule is None or rule.scale_kind == "group" or view.companion("scale") is not None:
            return view
        roles = self.plan.roles(view)

        def settled(leaves: Sequence[Any]) -> Any:
            return view_scale(view.with_leaves(leaves), roles, rule)

        sharding = jax_compat.explicit_sharding(jax.typeof(view.value))
        whole = jax_compat.replicated(sharding)
        return view.joined("scale", jax_compat.in_auto_axes(settled, whole)(view.leaves()))

    def _spec(
        self, eqn: Any, view: ParamView, side: int, dims: Any, equation: tuple[Any, ...]
    ) -> Spec:
        rule = self.plan.dots[view.name].rule
        bare = replace(view, name="", origin=(), sliced=(), picked=(), casts=(), value=None)
        bare = replace(bare, companions=(), notes=())
        geometry = dot_geometry(bare, side, dims, self.plan.roles(view).stack)
        assert geometry is not None  # collecting uses has checked it
        shards = tuple(name for axis in geometry.roles.inner for name in view.shards[axis])
        learned = find(view.notes, LearnedScale) is not None
        how = Arithmetic(rule.to, activation_of(view.notes), self.forward, learned)
        return Spec(
            geometry, self.plan.roles(view), how, rule.scale_kind, rule.group_size,
            rule.scale_dtype, shards, equation,
            str(eqn.outvars[0].aval.dtype),
        )  # fmt: skip

    def _companions(self, view: ParamView) -> dict[str, Any]:
        """What goes into the product beside the operands, by name."""
        rule = self.plan.rule(view.name)
        assert rule is not None
        found = {name: array for name, array in view.companions if name in ("scale", "mask")}
        if find(view.notes, LearnedScale) is not None:
            found["scale"] = learned_scale(found["scale"], rule.scale_dtype)
        return found

    def product(self, context: Context, eqn: Any, view: ParamView, side: int, other: Any) -> Any:
        """`qat_dot` in the user's own dimension order."""
        params = eqn.params
        dims = params["dimension_numbers"]
        equation = (dims, params["precision"], params["out_sharding"])
        spec = self._spec(eqn, view, side, dims, equation)
        return qat_dot(
            other,
            view.value,
            self._companions(view),
            self.lam,
            spec=spec,
        )

    def ragged_product(
        self, context: Context, eqn: Any, view: ParamView, x: Any, sizes: Any
    ) -> Any:
        """`qat_ragged_dot`: each row with the scale of its own expert."""
        equation = (eqn.params["precision"],)
        spec = self._spec(eqn, view, 1, (((1,), (1,)), ((), ())), equation)
        return qat_ragged_dot(
            x,
            view.value,
            sizes,
            self._companions(view),
            self.lam,
            spec=spec,
        )

    def gather(self, context: Context, eqn: Any, view: ParamView, indices: Sequence[Any]) -> Any:
        """Rows of the quantized table, where a rule takes the lookup."""
        rule = self.plan.lookups.get(view.name)
        if rule is None:
            return super().gather(context, eqn, view, indices)
        found = self._companions(self.settle(view))
        how = Arithmetic(rule.to, learned=find(view.notes, LearnedScale) is not None)
        scale = found.get("scale")
        if scale is None:
            matrix = canonical_matrix(view, self.plan.roles(view))
            by_group = matrix_scale(lax.stop_gradient(read_input(matrix)), rule)
            scale = broadcast_scale(by_group, "group", rule.group_size)
        codes = weight_codes(read_input(view.value), scale, how, self.lam, found.get("mask"))
        rows = view.apply_casts(write_output(codes * scale, view.value.dtype))
        return bind(eqn, [rows, *indices])[0]


def views_of(program: Program, plan: Plan, leaves: Sequence[Any]) -> list[Any]:
    """Parameter leaves, those that the plan quantizes wrapped as views."""
    return [
        ParamView.of(name, leaf.shape, value=leaf)
        if name in plan.dots or name in plan.lookups
        else leaf
        for name, leaf in zip(program.param_names, leaves, strict=True)
    ]


def quantize_linears(
    program: Program,
    rules: Sequence[Rule],
    *,
    traced_lambda: bool = False,
    forward: str = "float32",
) -> Program:
    """As `program`, with the matched products quantized.

    Args:
      forward: ``float32`` or ``int8``: what multiplies the codes where λ is exactly 1.

    Raises:
      UsageError: as `plan.make_plan`.
    """
    plan = make_plan(program, rules)
    count = len(program.param_names)

    def run(args: Sequence[Any]) -> list[Any]:
        lam = args[-1] if traced_lambda else None
        inputs = args[count:-1] if traced_lambda else args[count:]
        values = views_of(program, plan, args[:count])
        mode = QatMode(plan, lam, forward)
        return interpret(mode, FOLLOW, program.jaxpr, [*values, *inputs])

    avals = [jax_compat.struct(aval) for aval in program.jaxpr.in_avals]
    if traced_lambda:
        avals.append(jax.ShapeDtypeStruct((), jnp.float32))
    jaxpr = jax.make_jaxpr(run)(avals)
    if not traced_lambda:
        return program.derived(NAME, jaxpr)
    inputs_tree = jax.tree_util.tree_structure(
        (*program.inputs_tree.unflatten([0] * program.inputs_tree.num_leaves), 0)
    )
    return program.derived(NAME, jaxpr, inputs_tree=inputs_tree)
