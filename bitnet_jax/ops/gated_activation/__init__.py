"""The gate of the feed-forward as a primitive: squared ReLU or SiLU, times `up`."""

from bitnet_jax.ops.gated_activation.api import gated_activation, gated_activation_p

__all__ = ["gated_activation", "gated_activation_p"]
