"""What `gated_activation` means."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def _relu2(gate: Any) -> Any:
    # Squared in the input's own dtype or wider, never f16: relu² overflows it.
    positive = jnp.maximum(gate, 0)
    return positive * positive


def _gelu_tanh(gate: Any) -> Any:
    # With tanh in place of erf (Hendrycks & Gimpel 2016), as Gemma was trained.
    return jax.nn.gelu(gate, approximate=True)


GATES = {"relu2": _relu2, "silu": jax.nn.silu, "gelu_tanh": _gelu_tanh}


def gated_activation_reference(gate: Any, up: Any, *, kind: str) -> Any:
    """``relu(gate)² * up`` (BitNet b1.58 2B4T), or another of `GATES`."""
    return GATES[kind](gate) * up
