"""`pack`: float parameters into packed ones.

It needs the function, because only the use says which axes are contracted,
stacked or looked up. Stands beside the pass that runs the result
(`pack_weights.py`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.ir.program import Program, named_leaves, trace
from bitnet_jax.ir.views import ParamView
from bitnet_jax.passes import flax_state as flax_state  # registers what `pack` gives
from bitnet_jax.passes.geometry import Roles, canonical_matrix
from bitnet_jax.passes.packed import Packed, leaf_names
from bitnet_jax.passes.plan import Plan, make_plan
from bitnet_jax.quant.kinds import kind_codes, kind_scale
from bitnet_jax.quant.layouts import LAYOUT_OF, pack_codes
from bitnet_jax.quant.notes import KeepNofM, LearnedScale, find, learned_scale, n_of_m
from bitnet_jax.quant.rules import Rule, as_rules
from bitnet_jax.quant.tensor import QuantTensor, is_quant


def pack(fn: Callable[..., Any], params: Any, rules: Sequence[Rule], *example_args: Any) -> Packed:
    """Packs `params` for `fn` under `rules`.

    Args:
      fn: ``fn(params, *args)``, any JAX function.
      params: pytree of float arrays.
      rules: ordered, first match wins.
      example_args: arrays or `jax.ShapeDtypeStruct`s; only shapes and dtypes are read.

    Raises:
      UsageError: a rule matched nothing, a use cannot be followed, or the parameters are
        packed already (``transform.packed_already``).
      BadData: a weight holds NaN or infinity (``tensor.not_finite``), or its scale
        would be none (``tensor.scale_not_finite``).
    """
    leaves = jax.tree_util.tree_leaves(params, is_leaf=is_quant)
    if isinstance(params, Packed) or any(is_quant(leaf) for leaf in leaves):
        raise UsageError(
            "transform.packed_already",
            "these parameters are packed already",
            "pack takes the float parameters; run packed ones with ternarize(…, mode='packed')",
        )
    return pack_program(trace(fn, params, *example_args), params, as_rules(rules))


def pack_program(program: Program, params: Any, rules: Sequence[Rule]) -> Packed:
    """As `pack`, for a traced program."""
    plan = make_plan(program, rules)
    leaves: dict[str, Any] = {}
    values = named_leaves(params)
    for name, value in values.items():
        layouts, rule = plan.layouts(name), plan.rule(name)
        split = plan.needs_float(name)
        if not layouts or split:
            leaves[name] = value
        if rule is not None:
            notes = plan.dots[name].use.notes if name in plan.dots else ()
            packed = _pack_one(name, value, layouts, rule, notes, values)
            leaves |= zip(leaf_names(name, len(layouts), split), packed, strict=True)
    return Packed(leaves, program.param_names, program.params_tree)


# matrix [*stack, out, in] -> (codes int8 of that shape, scale float32)
Quantize = Callable[[Any], tuple[Any, Any]]


def check_single(plan: Plan, name: str) -> None:
    """Raises unless parameter `name`, which a rule takes, has one packed form, and that alone.

    Raises:
      BadData: it is used unpacked too, or multiplied over several of its axes
        (``checkpoint.names``): files hold one form of each.
    """
    if plan.needs_float(name) or len(plan.layouts(name)) > 1:
        raise BadData(
            "checkpoint.names",
            f"`{name}` would be quantized in one of its uses and stay as it is in another",
            "a file holds one form of each: keep it, by a rule",
        )


def pack_parameter(
    plan: Plan, name: str, value: Any, quantize: Quantize | None = None
) -> QuantTensor:
    """Packs one parameter that a rule of `plan` takes: as `pack` does, one at a time.

    Args:
      value: its floats, in the shape that was traced.
      quantize: what makes codes and scale of its matrix; the rule's kind if None.

    Raises:
      BadData: as `check_single`, and as `pack`.
    """
    check_single(plan, name)
    rule, layouts = plan.rule(name), plan.layouts(name)
    assert rule is not None
    if quantize is None:
        return _pack_one(name, value, layouts, rule, (), {})[0]
    _require_finite(name, value)
    view = ParamView.of(name, value.shape, value=jnp.asarray(value))
    codes, scale = quantize(canonical_matrix(view, layouts[0]))
    packed = pack_codes(jnp.asarray(codes), LAYOUT_OF[rule.to])
    return _tensor(value, packed, jnp.asarray(scale), layouts[0], rule)


def _require_finite(name: str, value: Any) -> None:
    if not bool(jnp.isfinite(jnp.asarray(value).astype(jnp.float32)).all()):
        raise BadData(
            "tensor.not_finite", f"`{name}` holds NaN or infinity", "restore an earlier checkpoint"
        )


def _pack_one(
    name: str,
    value: Any,
    layouts: Sequence[Roles],
    rule: Rule,
    notes: tuple[Any, ...],
    values: Mapping[str, Any],
) -> list[QuantTensor]:
    if isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct):
        raise UsageError(
            "transform.pack_traced",
            f"`{name}` has no values yet: pack runs on arrays, not inside jit",
            "pack outside, and pass what it returns to the jitted function",
        )
    value = jnp.asarray(value)
    sharding = value.sharding if jax_compat.explicit_sharding(jax.typeof(value)) else None
    _require_finite(name, value)
    learned, kept = find(notes, LearnedScale), find(notes, KeepNofM)
    given = None if learned is None else jnp.asarray(values[learned.parameter])

    def compute(value: Any, given: Any) -> tuple[Any, list[Any]]:
        view = ParamView.of(name, value.shape, value=value)
        if given is None:
            scale = _scale(canonical_matrix(view, layouts[0]), rule=_bare(rule))
        else:
            scale = learned_scale(given, rule.scale_dtype)
        return scale, [
            _codes(canonical_matrix(view, roles), scale, rule=_bare(rule), kept=kept)
            for roles in layouts
        ]

    replicated = jax_compat.replicated(sharding)
    scale, codes = jax_compat.in_auto_axes(compute, replicated)(value, given)
    if not bool(jnp.isfinite(scale).all()):
        raise BadData(
            "tensor.scale_not_finite",
            f"the scale of `{name}` is no finite number: its values are too large to be summed in "
            "float32, or its learned scale is not finite",
            "restore an earlier checkpoint; a weight of a trained model lies far below 1e30",
        )
    return [
        _tensor(
            value,
            _placed(packed, sharding, roles),
            _placed(scale, sharding, roles),
            roles,
            rule,
        )
        for packed, roles in zip(codes, layouts, strict=True)
    ]


def _tensor(value: Any, packed: Any, scale: Any, roles: Roles, rule: Rule) -> QuantTensor:
    return QuantTensor(
        packed,
        scale,
        shape=tuple(value.shape),
        dtype=str(value.dtype),
        stack_axes=roles.stack,
        out_axes=roles.out,
        in_axes=roles.inner,
        scale_kind=rule.scale_kind,
        group_size=rule.group_size,
        scale_dtype=rule.scale_dtype,
        kind=rule.to,
        layout=LAYOUT_OF[rule.to],
    )


def _placed(array: Any, sharding: Any, roles: Roles) -> Any:
    """Codes or scale [*stack, out, in] lying on the devices as the float weight lies there.

    An axis whose blocks do not come out even is not split.
    """
    if sharding is None:
        return array
    mesh, spec = sharding.mesh, dict(enumerate(sharding.spec))
    # Of several outputs or inputs the first is the major one; further axes are within a block.
    sources = [*roles.stack, *(role[0] if role else None for role in (roles.out, roles.inner))]
    names: list[Any] = []
    for size, source in zip(array.shape, sources, strict=False):
        over = None if source is None else spec.get(source)
        each = over if isinstance(over, tuple) else (over,) * (over is not None)
        even = size % math.prod(mesh.shape[name] for name in each) == 0
        names.append(over if even else None)
    return jax.device_put(array, jax.sharding.NamedSharding(mesh, PartitionSpec(*names)))


def _bare(rule: Rule) -> Rule:
    """Equal for every parameter that is quantized alike: a decoder's are compiled once."""
    return Rule("**", to=rule.to, scale=rule.scale, scale_dtype=rule.scale_dtype)


@functools.partial(jax.jit, static_argnames="rule")
def _scale(matrix: Any, *, rule: Rule) -> Any:
    return kind_scale(matrix, rule.to, rule.scale_kind, rule.group_size, rule.scale_dtype)


@functools.partial(jax.jit, static_argnames=("rule", "kept"))
def _codes(matrix: Any, scale: Any, *, rule: Rule, kept: KeepNofM | None) -> Any:
    codes = kind_codes(matrix, scale, rule.to, rule.scale_kind, rule.group_size)
    if kept is not None:
        codes = jnp.where(n_of_m(matrix, kept.n, kept.m), codes, 0)
    return pack_codes(codes, LAYOUT_OF[rule.to])
