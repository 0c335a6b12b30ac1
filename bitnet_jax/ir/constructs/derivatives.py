"""Derivative rules: `custom_jvp` and `custom_vjp`, with what the user wrote of each.

They are traced later than the function, so all that they need is passed to them as operands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.constructs.operands import flatten
from bitnet_jax.ir.interpreter import Construct, Context, Tangent
from bitnet_jax.ir.views import ParamView


def _call_bodies(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    return [(eqn.params["call_jaxpr"], values)]


def _later(
    context: Context, eqn: Any, values: Sequence[Any]
) -> tuple[list[Any], Callable[[Sequence[Any]], tuple[Context, list[Any]]]]:
    """Operands for a rule that JAX traces later, and how to come back from them."""
    carried = context.mode.carried()
    leaves, rebuild = flatten(values)

    def enter(arrays: Sequence[Any]) -> tuple[Context, list[Any]]:
        mode = context.mode.with_carried(arrays[: len(carried)])
        return context.with_mode(mode), rebuild(arrays[len(carried) :])

    return [*carried, *leaves], enter


def _trace_rule(eqn: Any, rule: Callable[..., Any], *avals: Any) -> Any:
    try:
        jaxpr = jax.make_jaxpr(rule)(*avals)
    except jax.errors.UnexpectedTracerError as error:
        raise rule_closure(eqn) from error
    if any(map(jax_compat.is_dead, jaxpr.consts)):
        raise rule_closure(eqn)
    return jaxpr


def rule_closure(eqn: Any) -> UsageError:
    """The refusal of a derivative rule that needs a value of a trace that has ended."""
    line = None if eqn is None else jax_compat.source_line(eqn)
    return UsageError(
        "transform.rule_closure",
        f"a derivative rule{f' of the function at {line}' if line else ''} closes over a value "
        "that was traced with the function, and is run after it",
        "pass that value as an argument of the function with the rule; JAX refuses such a rule "
        "under grad of jit too",
    )


def _custom_jvp(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The function and the primal of the user's rule; products with tangents are the user's."""
    closed = eqn.params["call_jaxpr"]
    operands, enter = _later(context, eqn, values)
    user_rule = jax_compat.jvp_rule(eqn)

    @jax.custom_jvp
    def call(*arrays: Any) -> list[Any]:
        inner, args = enter(arrays)
        return inner.plain(eqn, inner.shut(eqn, closed, args))

    @call.defjvp
    def rule(primals: Any, tangents: Any) -> tuple[list[Any], list[Any]]:
        inner, args = enter(primals)
        _, changes = enter(tangents)
        avals = [jax_compat.struct(var.aval) for var in eqn.invars]
        jaxpr = _trace_rule(eqn, user_rule, avals, avals)
        directions = [
            Tangent(a.apply_casts(d.value) if isinstance(a, ParamView) else d)
            for a, d in zip(args, changes, strict=True)
        ]
        out = inner.shut(eqn, jaxpr, [*args, *directions])
        half = len(out) // 2
        quantized = [v for v in args if isinstance(v, ParamView) and inner.mode.quantizes(v)]
        if quantized and any(isinstance(x, Tangent) for x in out[:half]):
            raise UsageError(
                "transform.derivative_mixed",
                f"the derivative rule of the function at {jax_compat.source_line(eqn)} computes "
                f"value and tangent together in a loop, a branch or a remat that "
                f"`{quantized[0].name}` may enter: they cannot be told apart there",
                "let the rule call the function itself for the value, and only the tangent be "
                "jax.jvp's; or leave the rule out: JAX differentiates the ternary function",
            )
        primal = [x.array if isinstance(x, Tangent) else x for x in out[:half]]
        return inner.plain(eqn, primal), [
            x.array if isinstance(x, Tangent) else x for x in inner.plain(eqn, out[half:])
        ]

    return list(call(*operands))


def _custom_vjp(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The function and its forward rule; the backward rule is the user's, on what it always saw."""
    closed = eqn.params["call_jaxpr"]
    operands, enter = _later(context, eqn, values)
    skip = len(operands) - len(flatten(values)[0])
    user = jax_compat.vjp_rules(eqn)
    for view in (value for value in values if isinstance(value, ParamView)):
        if any(note.learns for note in view.notes) and view.value is not None:
            raise UsageError(
                "transform.learned_in_rule",
                f"`{view.name}` learns a scale, and the function with a backward rule of its own"
                f"{context.at(eqn)} gives that no gradient",
                "leave the weight out of `LearnedScale`, or out of the function with the rule",
            )

    @jax.custom_vjp
    def call(*arrays: Any) -> list[Any]:
        inner, args = enter(arrays)
        return inner.plain(eqn, inner.shut(eqn, closed, args))

    def forward(*arrays: Any) -> tuple[list[Any], list[Any]]:
        inner, args = enter([a.value for a in arrays])
        _, moving = enter([a.perturbed for a in arrays])
        perturbed = [m.value if isinstance(m, ParamView) else m for m in moving]
        avals = [jax_compat.struct(var.aval) for var in eqn.invars]
        jaxpr = _trace_rule(eqn, lambda *xs: user.forward(xs, perturbed), *avals)
        out = inner.shut(eqn, jaxpr, args)
        results, saved = user.split(out, args)
        # What the backward rule reads is what the user saved: the float weight.
        floats = [
            inner.mode.latent(inner, eqn, x) if isinstance(x, ParamView) else x for x in saved
        ]
        return inner.plain(eqn, results), floats

    def backward(saved: Any, cotangents: Any) -> tuple[Any, ...]:
        found = iter(user.backward(saved, cotangents))
        out: list[Any] = [None] * skip
        for value, cotangent in zip(values, found, strict=True):
            if not isinstance(value, ParamView):
                out.append(cotangent)
                continue
            if cotangent is not None and value.value is not None:
                for dtype in reversed([value.value.dtype, *value.casts[:-1]]):
                    cotangent = cotangent.astype(dtype)
            count = len(value.leaves())
            out += [None] * count if value.value is None else [cotangent, *[None] * (count - 1)]
        return tuple(out)

    call.defvjp(forward, backward, symbolic_zeros=True)
    return list(call(*operands))


CUSTOM_JVP = Construct(_call_bodies, _custom_jvp)
CUSTOM_VJP = Construct(_call_bodies, _custom_vjp)
