"""Small models whose layers matter to their logits."""

import math

import numpy as np

from bitnet_jax.formats.checkpoint import Source, checkpoint_of
from bitnet_jax.models.names import expected
from bitnet_jax.quant.tensor import from_codes
from tests.tiny import tiny_spec


def small_checkpoint(tmp_path, scale="tensor", dtype=np.float32, spec=None, **changes):
    """A checkpoint of two layers.

    Args:
      scale: of its ternary matrices: tensor, row or group-N.
      dtype: of its floats.
      spec: another than BitNet's with `changes`.
    """
    spec = spec or tiny_spec(
        **{"hidden_size": 64, "intermediate_size": 160, "head_dim": 16, **changes}
    )
    rng = np.random.default_rng(0)
    kind, _, group = scale.partition("-")
    leaves = {}
    for name, item in expected(spec).items():
        if not item.ternary:
            center = 1.0 if len(item.shape) == 1 else 0.0
            leaves[name] = (center + rng.normal(size=item.shape) / 5).astype(dtype)
            continue
        out, inner = item.shape
        shape = {"tensor": (), "row": (out,), "group": (out, inner // int(group or 1))}[kind]
        scales = (rng.uniform(0.5, 2, shape) / math.sqrt(inner)).astype(np.float32)
        leaves[name] = from_codes(
            rng.integers(-1, 2, item.shape).astype(np.int8),
            scales if shape else np.asarray(scales),
            scale_kind=kind,
            group_size=int(group or 0),
        )
    return checkpoint_of(spec, leaves, None, Source(tmp_path / "memory", "bitnet", "packed"))


def some_tokens(spec, batch, length, seed=0):
    return np.random.default_rng(seed).integers(0, spec.vocab_size, (batch, length))
