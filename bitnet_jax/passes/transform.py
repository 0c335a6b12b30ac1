"""`ternarize`: the transform as a function of a function.

Stands on the passes; knows no file, model or device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.core.errors import UsageError, did_you_mean
from bitnet_jax.ir.program import trace
from bitnet_jax.passes.pack_weights import pack_weights
from bitnet_jax.passes.packed import Packed
from bitnet_jax.passes.quantize_linears import quantize_linears
from bitnet_jax.quant.rules import Rule


def ternarize(
    fn: Callable[..., Any],
    rules: Sequence[Rule],
    mode: str = "qat",
    *,
    implementation: str | None = None,
) -> Callable[..., Any]:
    """Turns ``fn(params, *args)`` into its ternary form; differentiable, jittable.

    Args:
      fn: any JAX function whose first argument is a pytree of float arrays.
      rules: which parameters become ternary where they are contracted.
      mode: ``qat`` gives ``qat(params, *args, lam=1.0)`` on the float parameters,
        straight-through; ``packed`` gives ``run(packed, *args)`` on what `pack` made.
      implementation: of `ternary_matmul` in ``packed`` mode (None: the best that runs).

    Returns:
      A function with `fn`'s result. At λ = 1 both modes give the same values, exactly
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
    rules = tuple(rules)
    return modes[mode](fn, rules, implementation)


def _qat(
    fn: Callable[..., Any], rules: tuple[Rule, ...], implementation: str | None
) -> Callable[..., Any]:
    @functools.wraps(fn)
    def qat(params: Any, *args: Any, lam: Any = 1.0) -> Any:
        program = trace(fn, params, *args)
        static_one = isinstance(lam, int | float) and lam == 1
        quantized = quantize_linears(program, rules, traced_lambda=not static_one)
        return quantized(params, *args) if static_one else quantized(params, *args, _scalar(lam))

    return qat


def _scalar(lam: Any) -> Any:
    known = np.ndim(lam) == 0 and not isinstance(lam, jax.core.Tracer)
    if known and not 0 <= float(lam) <= 1:
        raise UsageError(
            "transform.lambda", f"lam is {lam}", "λ goes from 0 (float) to 1 (ternary)"
        )
    return jax.lax.convert_element_type(lam, jnp.float32)


def _packed(
    fn: Callable[..., Any], rules: tuple[Rule, ...], implementation: str | None
) -> Callable[..., Any]:
    @functools.wraps(fn)
    def run(packed: Packed, *args: Any) -> Any:
        if not isinstance(packed, Packed):
            raise UsageError(
                "transform.not_packed",
                f"mode 'packed' runs on what `pack` returns, not on a {type(packed).__name__}",
                "packed = pack(fn, params, rules, *example_args)",
            )
        program = trace(fn, packed.float_avals(), *args)
        return pack_weights(program, packed, implementation=implementation)(packed, *args)

    return run
