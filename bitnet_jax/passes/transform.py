"""`ternarize`: the transform as a function of a function.

Stands on the passes; knows no file, model or device.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import UsageError, did_you_mean
from bitnet_jax.ir.constructs.derivatives import rule_closure
from bitnet_jax.ir.program import is_array, trace
from bitnet_jax.passes import pipelines
from bitnet_jax.passes.packed import Packed
from bitnet_jax.quant.qat import FORWARDS
from bitnet_jax.quant.rules import Rule, as_rules, match
from bitnet_jax.quant.tensor import is_quant


def ternarize(
    fn: Callable[..., Any],
    rules: Sequence[Rule],
    mode: str = "qat",
    *,
    implementation: str | None = None,
    forward: str = "float32",
) -> Callable[..., Any]:
    """Turns ``fn(params, *args)`` into its ternary form; differentiable, jittable.

    Args:
      fn: any JAX function whose first argument is a pytree of float arrays.
      rules: which parameters are quantized where they are used. In ``packed`` mode they
        must be those that `pack` was given; empty, the packed parameters alone say it.
      mode: ``qat`` gives ``qat(params, *args, lam=1.0)`` on the float parameters,
        straight-through; ``packed`` gives ``run(packed, *args)`` on what `pack` made.
      implementation: of the products in ``packed`` mode (None: the best that runs).
      forward: in ``qat`` mode, what multiplies the codes where λ is exactly 1: ``float32``,
        or ``int8``, faster where the device has int8 products. The bits are the same.

    Returns:
      A function with `fn`'s result; keyword arguments that are no arrays (``train=True``)
      are left as they are. At λ = 1 both modes give the same values, exactly
      so in every quantized product. A packed run has reverse-mode gradients with
      respect to its inputs and float leaves; no forward mode.

    Raises:
      UsageError: when called: a rule matched nothing, a use cannot be followed, the
        parameters were packed for another function.
    """
    modes = {"qat": _qat, "packed": _packed}
    if mode not in modes:
        raise UsageError(
            "transform.mode", f"mode {mode!r} is unknown", did_you_mean(str(mode), modes)
        )
    if mode == "qat" and "lam" in _keywords(fn):
        raise UsageError(
            "transform.lambda_name",
            "the function has an argument named `lam`, which is λ's name here",
            "rename it, or close over it: lambda params, x: fn(params, x, lam=2.0)",
        )
    if forward not in FORWARDS:
        raise UsageError(
            "transform.forward",
            f"forward {forward!r} is unknown",
            did_you_mean(str(forward), FORWARDS),
        )
    unread = {"qat": ("implementation", implementation), "packed": ("forward", forward)}
    name, value = unread[mode]
    if value not in (None, FORWARDS[0]):
        raise UsageError(
            "transform.option", f"mode {mode!r} takes no {name}, and was given {value!r}"
        )
    return modes[mode](fn, as_rules(rules), implementation, forward)


def _qat(
    fn: Callable[..., Any], rules: tuple[Rule, ...], implementation: str | None, forward: str
) -> Callable[..., Any]:
    @functools.wraps(fn)
    def qat(params: Any, *args: Any, lam: Any = 1.0, **kwargs: Any) -> Any:
        _refuse_packed(params)
        call, inputs = _positional(fn, args, kwargs)
        program = trace(call, params, *inputs)
        static_one = isinstance(lam, int | float) and lam == 1
        steps = pipelines.qat(rules, traced_lambda=not static_one, forward=forward)
        quantized = pipelines.run_pipeline(program, steps)
        extra = () if static_one else (_scalar(lam),)
        try:
            return quantized(params, *inputs, *extra)
        except jax.errors.UnexpectedTracerError as error:
            raise rule_closure(jax_compat.closing_rule(program.jaxpr.jaxpr)) from error

    return qat


def _keywords(fn: Callable[..., Any]) -> Sequence[str]:
    try:
        return tuple(inspect.signature(fn).parameters)
    except (TypeError, ValueError):  # a callable of C has none to read
        return ()


def _positional(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """`fn` with its keyword arguments made positional: arrays are inputs, the rest settings."""
    if not kwargs:
        return fn, args
    settings: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name, value in kwargs.items():
        leaves = jax.tree_util.tree_leaves(value)
        traced = bool(leaves) and all(is_array(x) and not isinstance(x, bool) for x in leaves)
        (arrays if traced else settings)[name] = value

    def call(params: Any, *inputs: Any) -> Any:
        *given, named = inputs
        return fn(params, *given, **named, **settings)

    return functools.wraps(fn)(call), (*args, arrays)


def _check_packed_rules(packed: Packed, rules: Sequence[Rule]) -> None:
    """What is packed was packed under these rules; rules left empty are not read."""
    for name, quants in packed.quants().items() if rules else ():
        quant = quants[0]
        found = [
            index for use in ("dot", "gather") if (index := match(rules, name, use)) is not None
        ]
        if not any(
            (rules[i].to, rules[i].scale_kind, rules[i].group_size)
            == (quant.kind, quant.scale_kind, quant.group_size)
            for i in found
        ):
            raise UsageError(
                "transform.packed_rules",
                f"`{name}` is packed as {quant.kind} with a scale per {quant.scale_kind}, and "
                "no rule says so",
                "give the rules that it was packed with, or none: rules=()",
            )


def _refuse_packed(params: Any) -> None:
    leaves = jax.tree_util.tree_leaves(params, is_leaf=is_quant)
    if isinstance(params, Packed) or any(is_quant(leaf) for leaf in leaves):
        raise UsageError(
            "transform.packed_already",
            "mode 'qat' trains float parameters, and these are packed",
            "run them with ternarize(fn, rules, mode='packed')",
        )


def _scalar(lam: Any) -> Any:
    if np.ndim(lam):
        raise UsageError(
            "transform.lambda", f"lam has shape {list(np.shape(lam))}", "λ is one number"
        )
    known = np.ndim(lam) == 0 and not isinstance(lam, jax.core.Tracer)
    if known and not 0 <= float(lam) <= 1:
        raise UsageError(
            "transform.lambda", f"lam is {lam}", "λ goes from 0 (float) to 1 (ternary)"
        )
    return jax.lax.convert_element_type(lam, jnp.float32)


def served(
    fn: Callable[..., Any], rules: Sequence[Rule], *, implementation: str | None = None
) -> Callable[..., Any]:
    """As ``ternarize(fn, rules, "packed")``, for running only: fused, without derivatives.

    Raises:
      UsageError: when called, as `ternarize`.
    """
    return _packed(fn, as_rules(rules), implementation, pipeline=pipelines.serving)


def _packed(
    fn: Callable[..., Any],
    rules: tuple[Rule, ...],
    implementation: str | None,
    forward: str = FORWARDS[0],
    pipeline: Callable[..., list[pipelines.Pass]] = pipelines.packed,
) -> Callable[..., Any]:
    @functools.wraps(fn)
    def run(packed: Packed, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(packed, Packed):
            raise UsageError(
                "transform.not_packed",
                f"mode 'packed' runs on what `pack` returns, not on a {type(packed).__name__}",
                "packed = pack(fn, params, rules, *example_args)",
            )
        _check_packed_rules(packed, rules)
        call, inputs = _positional(fn, args, kwargs)
        program = trace(call, packed.float_avals(), *inputs)
        steps = pipeline(packed, implementation=implementation)
        return pipelines.run_pipeline(program, steps)(packed, *inputs)

    return run
