"""What `gated_activation` means."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def _relu2(gate: Any) -> Any:
    # Squared in the input's own dtype or wider, never f16: relu² overflows it.
    positive = jnp.maximum(gate, 0)
    return positive * positive


GATES = {"relu2": _relu2, "silu": jax.nn.silu}


def gated_activation_reference(gate: Any, up: Any, *, kind: str) -> Any:
    """``relu(gate)² * up`` (BitNet b1.58 2B4T) or ``silu(gate) * up``."""
    return GATES[kind](gate) * up
