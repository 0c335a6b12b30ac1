"""The op as the models call it."""

from __future__ import annotations

from typing import Any

from bitnet_jax.ops.define import define
from bitnet_jax.ops.gated_activation.reference import gated_activation_reference

gated_activation_p = define("gated_activation", gated_activation_reference)


def gated_activation(gate: Any, up: Any, *, kind: str) -> Any:
    """Gates `up` [..., n] by `gate` of the same shape; `kind` is a key of `GATES`."""
    return gated_activation_p.bind(gate, up, kind=kind)
