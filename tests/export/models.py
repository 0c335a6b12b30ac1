"""Small models whose layers matter to their logits, and the files made of them."""

import numpy as np

from bitnet_jax.formats.checkpoint import Source, checkpoint_of
from bitnet_jax.models.families import family_for
from bitnet_jax.passes.pack import pack
from bitnet_jax.quant.rules import Rule
from tests.tiny import tiny_spec

LINEARS = ("layers.*.self_attn.*_proj", "layers.*.mlp.*_proj")


def small_checkpoint(tmp_path, scale="tensor", dtype=np.float32, **changes):
    """A checkpoint of two layers; `scale` is of its ternary matrices, `dtype` of its floats."""
    import jax
    import jax.numpy as jnp

    spec = tiny_spec(**{"hidden_size": 64, "intermediate_size": 160, "head_dim": 16, **changes})
    family = family_for(spec)
    # Fresh output projections are near zero, and hide whatever is wrong before them.
    params = {
        name: value * (40 if "o_proj" in name or "down_proj" in name else 1)
        for name, value in family.init(spec, 0).items()
    }
    rules = [Rule(path, scale=scale) for path in LINEARS]
    packed = pack(family.forward(spec), params, rules, jnp.zeros((1, 4), jnp.int32))
    leaves = jax.tree.map(np.asarray, packed.leaves)
    leaves = {
        name: leaf.astype(dtype) if isinstance(leaf, np.ndarray) else leaf
        for name, leaf in leaves.items()
    }
    return checkpoint_of(spec, leaves, None, Source(tmp_path / "memory", "bitnet", "packed"))


def some_tokens(spec, batch, length, seed=0):
    return np.random.default_rng(seed).integers(0, spec.vocab_size, (batch, length))
