"""Constructs with bodies of their own: loops, branches, remat, derivative rules, shards.

Each is built again through its public form (`lax.scan`, `jax.checkpoint`, …) around its
transformed body, because packed leaves change the number of operands. Bodies that JAX
traces at once may close over outer values; derivative rules are traced later, so all
they need is passed to them as operands.

Knows nothing of quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jec
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir import arrange
from bitnet_jax.ir.interpreter import Construct, Context, Rule, Tangent
from bitnet_jax.ir.views import ParamView

Rebuild = Callable[[Sequence[Any]], list[Any]]


def flatten(values: Sequence[Any]) -> tuple[list[Any], Rebuild]:
    """Splits values into arrays, and a function that puts other arrays in their place."""
    counts = [len(v.leaves()) if isinstance(v, ParamView) else 1 for v in values]
    leaves = [x for v in values for x in (v.leaves() if isinstance(v, ParamView) else [v])]

    def rebuild(arrays: Sequence[Any]) -> list[Any]:
        out, start = [], 0
        for value, count in zip(values, counts, strict=True):
            part = list(arrays[start : start + count])
            out.append(value.with_leaves(part) if isinstance(value, ParamView) else part[0])
            start += count
        return out

    return leaves, rebuild


def _handed_on(jaxpr: jec.Jaxpr, values: Sequence[Any]) -> dict[int, Any]:
    """Results of a body that are views it was given, by number: outside they stay views."""
    return {
        result: value
        for result in range(len(jaxpr.outvars))
        for source, value in enumerate(values)
        if isinstance(value, ParamView) and _is_forwarded(jaxpr, source, result)
    }


def _others(out: Sequence[Any], passed: Mapping[int, Any]) -> list[Any]:
    """The results that are not handed on."""
    return [value for index, value in enumerate(out) if index not in passed]


def _merged(out: Sequence[Any], passed: Mapping[int, Any]) -> list[Any]:
    """All results, of those computed and those handed on."""
    rest = iter(out)
    count = len(out) + len(passed)
    return [passed[index] if index in passed else next(rest) for index in range(count)]


def _settled(context: Context, values: Sequence[Any]) -> list[Any]:
    return [context.mode.settle(v) if isinstance(v, ParamView) else v for v in values]


# --------------------------------------------------------------------------------- calls
def _inline(key: str) -> Rule:
    """A call is inlined: XLA inlines it anyway, and a view may come out of it."""

    def rule(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
        closed = eqn.params[key]
        return context.inside(eqn).run(closed.jaxpr, closed.consts, values)

    return rule


def _jit(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Inlined, unless it has shardings of its own: those are kept with the call."""
    given = [*eqn.params["in_shardings"], *eqn.params["out_shardings"]]
    free = all(jax_compat.is_unspecified(sharding) for sharding in given)
    derivative = any(isinstance(value, Tangent) for value in values)
    if free or context.abstract or derivative:
        out = _inline("jaxpr")(context, eqn, values)
        return out if free or derivative else context.plain(eqn, out)
    return _sharded_jit(context, eqn, values)


def _sharded_jit(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    params = eqn.params
    closed = params["jaxpr"]
    leaves, rebuild = flatten(values)

    def body(*arrays: Any) -> tuple[list[Any], Any]:
        inner, seen = context.through(eqn, closed, rebuild(arrays))
        return context.plain(eqn, inner), seen

    def named(sharding: Any) -> Any:
        return None if jax_compat.is_unspecified(sharding) else sharding

    shardings: list[Any] = []
    for value, sharding in zip(values, params["in_shardings"], strict=True):
        # A packed leaf or a scale has other axes than the array the sharding is for.
        has_array = not isinstance(value, ParamView) or value.value is not None
        extra = len(value.leaves()) - has_array if isinstance(value, ParamView) else 0
        shardings += [named(sharding)] * has_array + [None] * extra
    body.__name__ = params["name"]
    out, seen = jax.jit(
        body,
        in_shardings=tuple(shardings),
        out_shardings=([named(sharding) for sharding in params["out_shardings"]], None),
        keep_unused=params["keep_unused"],
        inline=params["inline"],
    )(*leaves)
    context.mode.add_seen(seen)
    return out


def _remat_bodies(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    return [(jec.ClosedJaxpr(eqn.params["jaxpr"], ()), values)]


def _remat_passed(eqn: Any, values: Sequence[Any]) -> dict[int, Any]:
    return _handed_on(eqn.params["jaxpr"], values)


def _remat(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    leaves, rebuild = flatten(values)
    params = eqn.params
    closed = jec.ClosedJaxpr(params["jaxpr"], ())
    passed = _remat_passed(eqn, values)

    def body(*arrays: Any) -> tuple[list[Any], Any]:
        inner, seen = context.through(eqn, closed, rebuild(arrays))
        return context.plain(eqn, _others(inner, passed)), seen

    # Quantization keeps the dot an ordinary dot_general, so the policy still sees it.
    again = jax.checkpoint(body, prevent_cse=params["prevent_cse"], policy=params["policy"])
    out, seen = again(*leaves)
    context.mode.add_seen(seen)
    return _merged(out, passed)


# --------------------------------------------------------------------------------- loops
def _carried_views(jaxpr: jec.Jaxpr, skip: int, carry: Sequence[Any]) -> dict[int, Any]:
    """Views in the carry that the body hands on unchanged: constants in all but name."""
    return {
        index: value
        for index, value in enumerate(carry)
        if isinstance(value, ParamView) and _is_forwarded(jaxpr, skip + index, index)
    }


def _is_forwarded(jaxpr: jec.Jaxpr, source: int, result: int) -> bool:
    """True if result number `result` is input number `source`, also through inner jits."""
    wanted = jaxpr.outvars[result]
    if wanted is jaxpr.invars[source]:
        return True
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "jit" and wanted in eqn.outvars:
            inner, place = eqn.params["jaxpr"].jaxpr, eqn.outvars.index(wanted)
            return any(
                var is jaxpr.invars[source] and _is_forwarded(inner, at, place)
                for at, var in enumerate(eqn.invars)
            )
    return False


def _scan_parts(eqn: Any, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    consts, carry = jax_compat.scan_counts(eqn)
    return (
        list(values[:consts]),
        list(values[consts : consts + carry]),
        list(values[consts + carry :]),
    )


def _scan_passed(eqn: Any, values: Sequence[Any]) -> dict[int, Any]:
    _, carry, _ = _scan_parts(eqn, values)
    return _carried_views(eqn.params["jaxpr"].jaxpr, jax_compat.scan_counts(eqn)[0], carry)


def _identity(array: Any, axis: int) -> Any:
    return array


def _scan_element(view: ParamView) -> ParamView | None:
    """The element that a scan takes; leaves are the stack's still.

    Of a stack that was regrouped (for nested scans) it is a smaller stack.
    """
    if not view.ndim:
        return None
    whole = arrange.element(view, 0, _identity, view.value, keep=False)
    return whole or arrange.part(view)


def _abstract_element(stack: Any) -> Any:
    if isinstance(stack, ParamView):
        return _scan_element(stack) or stack
    return jax.core.ShapedArray(stack.shape[1:], stack.dtype)


def _scan_bodies(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    consts, carry, stacks = _scan_parts(eqn, values)
    return [(eqn.params["jaxpr"], [*consts, *carry, *map(_abstract_element, stacks)])]


def _stack_first(view: ParamView, element: ParamView) -> list[Any]:
    """A view's leaves with the axis that a scan slices, or its major part, in front of each."""
    source = view.axes[0][0].axis
    count = view.axes[0][0].size
    regrouped = len(element.shape) == len(view.shape)

    def first(array: Any, at: int) -> Any:
        if regrouped and array.shape[at] != 1:
            split = (count, array.shape[at] // count)
            array = array.reshape(*array.shape[:at], *split, *array.shape[at + 1 :])
            return jnp.moveaxis(array, at, 0)
        if regrouped:
            return jnp.broadcast_to(array, (count, *array.shape))
        moved = jnp.moveaxis(array, at, 0)
        return jnp.broadcast_to(moved, (count, *moved.shape[1:]))

    out = [] if view.value is None else [view.value]
    out += [first(array, source) for _, array in view.companions]
    for quant in view.quants:
        position = quant.stack_axes.index(source)
        out += [first(quant.codes, position), first(quant.scale, position)]
    return out


def _scan(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    params = eqn.params
    _, num_carry = jax_compat.scan_counts(eqn)
    closed = params["jaxpr"]
    consts, carry, stacks = _scan_parts(eqn, values)
    constant = _scan_passed(eqn, values)
    states = [i for i in range(num_carry) if i not in constant]
    start = context.plain(eqn, [carry[i] for i in states])
    elements: list[ParamView | None] = []
    arrays: list[Any] = []
    for stack in stacks:
        element = _scan_element(stack) if isinstance(stack, ParamView) else None
        elements.append(element)
        if element is None:
            arrays.append(context.plain(eqn, [stack]))
        else:
            arrays.append(_stack_first(stack, element))
    consts = _settled(context, consts)
    held = {index: context.mode.settle(view) for index, view in constant.items()}

    def body(state: Any, x: Any) -> tuple[Any, Any]:
        slices = [
            part[0] if element is None else element.with_leaves(part)
            for element, part in zip(elements, x, strict=True)
        ]
        now = dict(zip(states, state, strict=True)) | held
        args = [*consts, *(now[i] for i in range(num_carry)), *slices]
        out, seen = context.through(eqn, closed, args)
        ys = context.plain(eqn, out[num_carry:])
        return context.plain(eqn, [out[i] for i in states]), (ys, seen)

    state, (ys, seen) = lax.scan(
        body,
        start,
        arrays,
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    context.mode.add_seen(seen)  # one more axis in front: the scan's
    final = dict(zip(states, state, strict=True)) | constant
    return [*(final[i] for i in range(num_carry)), *ys]


def _while_parts(eqn: Any, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    cond, body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    return list(values[:cond]), list(values[cond : cond + body]), list(values[cond + body :])


def _while_passed(eqn: Any, values: Sequence[Any]) -> dict[int, Any]:
    _, _, carry = _while_parts(eqn, values)
    return _carried_views(eqn.params["body_jaxpr"].jaxpr, eqn.params["body_nconsts"], carry)


def _while_bodies(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    cond, body, carry = _while_parts(eqn, values)
    params = eqn.params
    return [(params["body_jaxpr"], [*body, *carry]), (params["cond_jaxpr"], [*cond, *carry])]


def _while(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    cond_consts, body_consts, carry = _while_parts(eqn, values)
    constant = _while_passed(eqn, values)
    states = [i for i in range(len(carry)) if i not in constant]
    held = {index: context.mode.settle(view) for index, view in constant.items()}
    cond_consts, body_consts = _settled(context, cond_consts), _settled(context, body_consts)

    def run(closed: Any, consts: Sequence[Any], state: Sequence[Any]) -> list[Any]:
        now = dict(zip(states, state, strict=True)) | held
        args = [*consts, *(now[i] for i in range(len(carry)))]
        return context.shut(eqn, closed, args)

    def cond(state: Any) -> Any:
        return context.plain(eqn, run(eqn.params["cond_jaxpr"], cond_consts, state))[0]

    def body(state: Any) -> Any:
        out = run(eqn.params["body_jaxpr"], body_consts, state)
        return context.plain(eqn, [out[i] for i in states])

    state = lax.while_loop(cond, body, context.plain(eqn, [carry[i] for i in states]))
    final = dict(zip(states, state, strict=True)) | constant
    return [final[i] for i in range(len(carry))]


# ------------------------------------------------------------------------------ branches
def _cond_bodies(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    return [(branch, values[1:]) for branch in eqn.params["branches"]]


def _cond_passed(eqn: Any, values: Sequence[Any]) -> dict[int, Any]:
    """What every branch hands on from the same operand."""
    each = [_handed_on(branch.jaxpr, values[1:]) for branch in eqn.params["branches"]]
    return {
        result: view
        for result, view in each[0].items()
        if all(found.get(result) is view for found in each)
    }


def _cond(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    index, *operands = values
    leaves, rebuild = flatten(operands)
    passed = _cond_passed(eqn, values)

    def branch(closed: Any) -> Callable[..., list[Any]]:
        def body(*arrays: Any) -> list[Any]:
            out = context.shut(eqn, closed, rebuild(arrays))
            return context.plain(eqn, _others(out, passed))

        return body

    bodies = [branch(closed) for closed in eqn.params["branches"]]
    platforms = eqn.params.get("branches_platforms")
    if platforms is None:
        return _merged(lax.switch(index, bodies, *leaves), passed)
    # `lax.platform_dependent`: the index is the platform's, known when it is lowered.
    chosen: dict[str, Any] = {}
    for names, body in zip(platforms, bodies, strict=True):
        chosen |= {name: body for name in names or ("default",)}
    return _merged(lax.platform_dependent(*leaves, **chosen), passed)


# ---------------------------------------------------------------------- derivative rules
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
        avals = [_operand_aval(var) for var in eqn.invars]
        jaxpr = _trace_rule(eqn, user_rule, avals, avals)
        directions = [
            Tangent(a.apply_casts(d.value) if isinstance(a, ParamView) else d)
            for a, d in zip(args, changes, strict=True)
        ]
        out = inner.shut(eqn, jaxpr, [*args, *directions])
        half = len(out) // 2
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
        avals = [_operand_aval(var) for var in eqn.invars]
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


def _operand_aval(var: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype)


# -------------------------------------------------------------------------------- shards
def _axis_names(part: Any) -> tuple[str, ...]:
    return () if part is None else part if isinstance(part, tuple) else (part,)


def _sharded(context: Context, eqn: Any, view: ParamView, spec: Any) -> ParamView:
    """The view inside a `shard_map` that splits it by `spec`; leaves are the whole's still."""
    mesh = eqn.params["mesh"]
    inner = view
    for axis, part in enumerate(spec):
        names = _axis_names(part)
        count = 1
        for name in names:
            count *= mesh.shape[name]
        split = arrange.shard(inner, axis, names, count) if count > 1 else inner
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
    values = _settled(context, values)
    inside = _shard_inputs(context, eqn, values)
    carried = context.mode.carried()
    specs: list[Any] = [PartitionSpec() for _ in carried]
    for outer, inner, spec in zip(values, inside, params["in_specs"], strict=True):
        specs += _leaf_specs(outer, inner, spec) if isinstance(outer, ParamView) else [spec]
    operands, _ = flatten(values)
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


CONSTRUCTS: dict[str, Rule | Construct] = {
    "jit": _jit,
    "closed_call": _inline("call_jaxpr"),
    "remat2": Construct(_remat_bodies, _remat, _remat_passed),
    "checkpoint": Construct(_remat_bodies, _remat, _remat_passed),
    "scan": Construct(_scan_bodies, _scan, _scan_passed),
    "while": Construct(_while_bodies, _while, _while_passed),
    "cond": Construct(_cond_bodies, _cond, _cond_passed),
    "custom_jvp_call": Construct(_call_bodies, _custom_jvp),
    "custom_vjp_call": Construct(_call_bodies, _custom_vjp),
    "shard_map": Construct(_shard_bodies, _shard_map),
}
