"""RMSNorm as a primitive: root-mean-square normalization over the last axis."""

from bitnet_jax.ops.rms_norm.api import rms_norm, rms_norm_p

__all__ = ["rms_norm", "rms_norm_p"]
