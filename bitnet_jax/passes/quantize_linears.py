"""Pass: the dots that the rules name compute as the quantized model will.

Needs: a float Program. Does: replaces each matched `dot_general` by the QAT
arithmetic of `quant/qat.py`. Leaves: the same parameters, float; with
`traced_lambda`, one more input at the end, λ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bitnet_jax.ir.follow import FOLLOW
from bitnet_jax.ir.interpreter import Context, interpret
from bitnet_jax.ir.program import Program
from bitnet_jax.ir.views import ParamView
from bitnet_jax.passes.geometry import DotGeometry
from bitnet_jax.passes.modes import RuleMode, Use, check_rules_used, tracked
from bitnet_jax.quant.qat import qat_matmul
from bitnet_jax.quant.rules import Rule
from bitnet_jax.quant.scaling import write_output

NAME = "quantize_linears"


@dataclass
class QatMode(RuleMode):
    """Float parameters, quantized at each use."""

    lam: Any = None

    def ternary_dot(
        self, context: Context, geometry: DotGeometry, rule: Rule, x: Any, eqn: Any
    ) -> Any:
        """`qat_matmul` on the canonical matrices."""
        y = qat_matmul(
            geometry.activation_matrix(x),
            geometry.weight_matrix(geometry.view.value),
            scale_kind=rule.scale_kind,
            group_size=rule.group_size,
            scale_dtype=rule.scale_dtype,
            lam=self.lam,
            precision=eqn.params["precision"],
        )
        return write_output(geometry.result(y, x.shape), eqn.outvars[0].aval.dtype)


def views_of(program: Program, leaves: Sequence[Any], rules: Sequence[Rule]) -> list[Any]:
    """Parameter leaves, those that a rule may quantize wrapped as views."""
    return [
        ParamView.of(name, leaf.shape, value=leaf) if tracked(name, rules) else leaf
        for name, leaf in zip(program.param_names, leaves, strict=True)
    ]


def quantize_linears(
    program: Program, rules: Sequence[Rule], *, traced_lambda: bool = False
) -> Program:
    """As `program`, with the matched dots quantized.

    Raises:
      UsageError: a rule matched nothing (``quant.rule_unused``), or a matched
        parameter has a use that cannot be followed (``transform.unfollowable``).
    """
    count = len(program.param_names)
    uses: list[Use] = []

    def run(args: Sequence[Any]) -> list[Any]:
        lam = args[-1] if traced_lambda else None
        inputs = args[count:-1] if traced_lambda else args[count:]
        mode = QatMode(rules, uses, lam)
        values = views_of(program, args[:count], rules)
        return interpret(mode, FOLLOW, program.jaxpr, [*values, *inputs])

    avals = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in program.jaxpr.in_avals]
    if traced_lambda:
        avals.append(jax.ShapeDtypeStruct((), jnp.float32))
    jaxpr = jax.make_jaxpr(run)(avals)
    check_rules_used(rules, uses, program.param_names)
    if not traced_lambda:
        return program.derived(NAME, jaxpr)
    inputs_tree = jax.tree_util.tree_structure(
        (*program.inputs_tree.unflatten([0] * program.inputs_tree.num_leaves), 0)
    )
    return program.derived(NAME, jaxpr, inputs_tree=inputs_tree)


def collect_uses(program: Program, rules: Sequence[Rule]) -> list[Use]:
    """Every use of every parameter that a rule may quantize, in program order.

    Raises as `quantize_linears` does.
    """
    uses: list[Use] = []

    def run(args: Sequence[Any]) -> list[Any]:
        count = len(program.param_names)
        values = views_of(program, args[:count], rules)
        return interpret(QatMode(rules, uses), FOLLOW, program.jaxpr, [*values, *args[count:]])

    avals = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in program.jaxpr.in_avals]
    jax.eval_shape(run, avals)
    check_rules_used(rules, uses, program.param_names)
    return uses
