"""Sums of the inputs' products of linears, H = Σ x xᵀ, from real forward passes.

A matrix [in, in] each is large: as many linears are looked at in one pass over the text as fit
into a limit, and the text is read once more for the next ones. Knows no file and no text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.core.errors import BadData
from bitnet_jax.ir.program import trace
from bitnet_jax.passes.observe_products import observe_products
from bitnet_jax.quant.rules import Rule

# Bytes of sums that are held at once; one linear is, whatever it takes.
AT_ONCE = 1 << 30
# Of each element: a sum in float64, and a window's part of it in float32.
_EACH = 8 + 4


def hessians(
    forward: Callable[..., Any],
    params: Any,
    rules: Sequence[Rule],
    windows: np.ndarray,
    inputs: Mapping[str, int],
    *,
    at_once: int = AT_ONCE,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each linear's name and its sums, float64 [in, in], over all tokens of `windows`.

    Args:
      inputs: the linears that are wanted, each with its number of inputs.

    Raises:
      BadData: a linear is used with separate matrices, or never (``quant.no_hessian``).
    """
    groups: list[list[str]] = [[]]
    held = 0
    for name, count in inputs.items():
        if groups[-1] and held + _EACH * count * count > at_once:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += _EACH * count * count
    tokens = jax.ShapeDtypeStruct((1, windows.shape[1]), jnp.int32)
    program = trace(forward, params, tokens)
    for group in groups:
        observed = observe_products(program, rules, _products, names=group, quantized=False)
        run = jax.jit(lambda params, tokens, observed=observed: observed(params, tokens)[1])
        sums: dict[str, np.ndarray] = {}
        for window in windows:
            for name, parts in jax.device_get(run(params, window[None])).items():
                for part in parts:
                    sums[name] = sums.get(name, 0) + part.astype(np.float64)
        for name in group:
            wanted = (inputs[name], inputs[name])
            if name not in sums or sums[name].shape != wanted:
                found = sums[name].shape if name in sums else "none"
                raise BadData(
                    "quant.no_hessian",
                    f"`{name}` is not one matrix that all tokens meet: sums {wanted} were "
                    f"expected, and {found} found",
                    "use --method absmean, or keep it by a rule",
                )
            yield name, sums.pop(name)


def _products(x: Any, plain: Any, quantized: Any) -> Any:
    """Σ x xᵀ of [*stack, tokens, in] over its tokens: [*stack, in, in]."""
    x = x.astype(jnp.float32)
    return jnp.einsum("...ti,...tj->...ij", x, x)
