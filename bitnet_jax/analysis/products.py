"""What each quantized product does to its inputs and outputs, from real forward passes.

Activations are reduced where they stand (`passes/observe_products.py`): memory does not grow
with the text. Knows no file and no text.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.ir.program import trace
from bitnet_jax.passes.observe_products import observe_products
from bitnet_jax.passes.packed import Packed
from bitnet_jax.quant.rules import Rule
from bitnet_jax.quant.tensor import QuantTensor

# A channel is an outlier above this many times the root mean square of all (after the threshold
# of LLM.int8(), Dettmers et al. 2022, which is 6 for activations of about unit size).
OUTLIER = 6.0


def _observe(x: Any, plain: Any, quantized: Any) -> dict[str, Any]:
    """Sums of one batch: `x` is [*stack, tokens, in]."""
    x = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    plain = plain.astype(jnp.float32)
    change = quantized.astype(jnp.float32) - plain
    square = jnp.mean(x * x, -1)
    peak = jnp.max(jnp.abs(x), -1)
    return {
        "tokens": jnp.float32(x.shape[0]),
        "square": jnp.sum(square),
        "channel_peak": jnp.max(jnp.abs(x), 0),
        "crest": jnp.sum(peak * jax.lax.rsqrt(jnp.maximum(square, 1e-30))),
        "output": jnp.sum(plain * plain),
        "error": jnp.sum(change * change),
    }


def observe(
    forward: Callable[..., Any],
    params: Any,
    rules: Sequence[Rule],
    windows: np.ndarray,
    batch: int,
) -> dict[str, dict[str, Any]]:
    """Returns, for each linear that a rule takes, the error of its output and what it is fed.

    Returns:
      name -> ``output_nmse`` and ``activations``: ``rms``, ``absmax``, ``crest`` (mean over
      tokens of a token's peak over its root mean square: what int8 by absmax loses grows with
      it), ``outlier_channels`` (share of inputs whose peak is above 6 times the rms).
    """

    @functools.cache
    def observed(rows: int) -> Any:
        tokens = jax.ShapeDtypeStruct((rows, windows.shape[1]), jnp.int32)
        program = observe_products(trace(forward, params, tokens), rules, _observe)
        return jax.jit(lambda params, tokens: program(params, tokens)[1])

    total: dict[str, dict[str, Any]] = {}
    for start in range(0, len(windows), batch):  # the last batch may be a smaller one
        some = windows[start : start + batch]
        seen = jax.device_get(observed(len(some))(params, some))
        for name, parts in seen.items():
            for part in parts:
                total[name] = _added(total.get(name), part)
    return {name: _figures(sums) for name, sums in total.items()}


def _added(total: Mapping[str, Any] | None, part: Mapping[str, Any]) -> dict[str, Any]:
    """Sums add up, peaks do not; a scan's parts have a leading axis of its length."""
    flat = {
        key: np.max(value.reshape(-1, value.shape[-1]), 0)
        if key == "channel_peak"
        else float(np.sum(value, dtype=np.float64))
        for key, value in part.items()
    }
    if total is None:
        return flat
    return {
        key: np.maximum(total[key], value) if key == "channel_peak" else total[key] + value
        for key, value in flat.items()
    }


def _figures(sums: Mapping[str, Any]) -> dict[str, Any]:
    rms = math.sqrt(sums["square"] / sums["tokens"])
    peaks = sums["channel_peak"]
    return {
        "output_nmse": sums["error"] / sums["output"] if sums["output"] else None,
        "activations": {
            "rms": rms,
            "absmax": float(peaks.max()),
            "crest": sums["crest"] / sums["tokens"],
            "outlier_channels": float(np.mean(peaks > OUTLIER * rms)),
        },
    }


def weight_errors(params: Mapping[str, Any], packed: Packed) -> dict[str, dict[str, Any]]:
    """Returns, for each packed parameter, what its values lose.

    Returns:
      name -> ``shape``, ``parameters``, ``kind``, ``scale``, ``bits_per_weight`` (codes and
      scales), ``nmse`` (Σ(W - Q)² / ΣW²), ``sqnr_db`` (-10·log10 of it), ``zero_share`` (of the
      codes).
    """
    return {
        name: _weight_error(np.asarray(params[name], np.float32), quants[0])
        for name, quants in packed.quants().items()
    }


def _weight_error(weight: np.ndarray, quant: QuantTensor) -> dict[str, Any]:
    error = weight - np.asarray(quant.dequantize(), np.float32)
    size = float(np.sum(np.square(weight, dtype=np.float64)))
    nmse = float(np.sum(np.square(error, dtype=np.float64))) / size if size else None
    codes = np.asarray(quant.codes_matrix())
    group = f"group-{quant.group_size}" if quant.group_size else quant.scale_kind
    return {
        "shape": list(quant.shape),
        "parameters": int(weight.size),
        "kind": quant.kind,
        "scale": group,
        "bits_per_weight": 8 * quant.nbytes / weight.size,
        "nmse": nmse,
        "sqnr_db": -10 * math.log10(nmse) if nmse else None,
        "zero_share": float(np.mean(codes == 0)),
    }
