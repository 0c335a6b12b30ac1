"""A user's own model: a Flax Linen decoder that shares no block with bitnet-jax.

Attention and feed-forward stand side by side, read one LayerNorm (with bias), and are mixed
by one projection of both (as the parallel layers of ViT-22B, arXiv 2302.05442). Queries, keys
and values come from one matrix, positions are learned, the feed-forward is GELU. Parameters
keep the names and the [in, out] kernels that Linen gives them; the cache is one array.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

import bitnet_jax as bj


class Layer(nn.Module):
    spec: bj.ModelSpec

    @nn.compact
    def __call__(self, x, positions, buffer):
        """`buffer` [2, batch, capacity, heads, head_dim], or None; gives the next one back."""
        spec = self.spec
        x_in, heads = x, (*x.shape[:2], 3, spec.num_heads, spec.head_dim)
        x = nn.LayerNorm(epsilon=spec.extra["norm_epsilon"], name="norm")(x)
        fused = nn.Dense(3 * spec.num_heads * spec.head_dim, spec.extra["qkv_bias"], name="qkv")(x)
        q, k, v = jnp.moveaxis(fused.reshape(heads), 2, 0)
        if buffer is not None:
            rows = jnp.arange(x.shape[0])[:, None]
            k = buffer[0].at[rows, positions].set(k)
            v = buffer[1].at[rows, positions].set(v)
        attended = attend(q, k, v, positions).reshape(*x.shape[:2], -1)
        hidden = nn.gelu(nn.Dense(spec.intermediate_size, name="up")(x))
        both = jnp.concatenate([attended, hidden], axis=-1)
        out = nn.Dense(spec.hidden_size, use_bias=False, name="mix")(both)
        return x_in + out, jnp.stack([k, v])


def attend(q, k, v, positions):
    """Causal softmax attention; key j is seen from position p if j <= p."""
    scores = jnp.einsum("blhd,bshd->bhls", q, k) / jnp.sqrt(jnp.float32(q.shape[-1]))
    seen = jnp.arange(k.shape[1]) <= positions[:, None, :, None]
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
    return jnp.einsum("bhls,bshd->blhd", weights, v)


class Decoder(nn.Module):
    spec: bj.ModelSpec

    @nn.compact
    def __call__(self, tokens, positions, cache, last):
        spec = self.spec
        embed = nn.Embed(spec.vocab_size, spec.hidden_size, name="embed_tokens")
        where = nn.Embed(spec.max_positions, spec.hidden_size, name="embed_positions")
        x = embed(tokens) + where(positions)
        buffers = []
        for n in range(spec.num_layers):
            buffer = None if cache is None else cache[n]
            x, buffer = Layer(spec, name=f"layers_{n}")(x, positions, buffer)
            buffers.append(buffer)
        if last is not None:
            x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        x = nn.LayerNorm(epsilon=spec.extra["norm_epsilon"], name="norm")(x)
        if spec.tie_embeddings:
            return embed.attend(x), jnp.stack(buffers)
        return nn.Dense(spec.vocab_size, use_bias=False, name="lm_head")(x), jnp.stack(buffers)


def function(spec):
    def run(params, tokens, positions, cache, last):
        tree = {"params": unflatten_dict(params, sep=".")}
        return Decoder(spec).apply(tree, tokens, positions, cache, last)

    return run


def init(spec, seed):
    zero = jnp.zeros((1, 1), jnp.int32)
    tree = Decoder(spec).init(jax.random.key(seed), zero, zero, None, None)
    return flatten_dict(tree["params"], sep=".")


def cache(spec, batch, capacity):
    shape = (spec.num_layers, 2, batch, capacity, spec.num_heads, spec.head_dim)
    return jnp.zeros(shape, jnp.float32)


def check(spec):
    if spec.num_kv_heads != spec.num_heads:
        return f"num_kv_heads {spec.num_kv_heads} is not num_heads {spec.num_heads}"
    return None


def row(name, theirs, shape, *, needs="", ternary=False):
    """One row of the table; a kernel is [in, out] here and [out, in] there."""
    transposed = name.endswith(".kernel")
    return bj.Parameter(name, theirs, shape, ternary, needs, transposed)


NAMES = (
    row("embed_tokens.embedding", "transformer.wte.weight", "VH"),
    row("embed_positions.embedding", "transformer.wpe.weight", "PH"),
    row("layers_N.norm.scale", "transformer.h.N.ln.weight", "H"),
    row("layers_N.norm.bias", "transformer.h.N.ln.bias", "H"),
    row("layers_N.qkv.kernel", "transformer.h.N.qkv.weight", "HT", ternary=True),
    row("layers_N.qkv.bias", "transformer.h.N.qkv.bias", "T", needs="extra.qkv_bias"),
    row("layers_N.up.kernel", "transformer.h.N.up.weight", "HI", ternary=True),
    row("layers_N.up.bias", "transformer.h.N.up.bias", "I"),
    row("layers_N.mix.kernel", "transformer.h.N.mix.weight", "MH", ternary=True),
    row("norm.scale", "transformer.ln_f.weight", "H"),
    row("norm.bias", "transformer.ln_f.bias", "H"),
    row("lm_head.kernel", "lm_head.weight", "HV", needs="!tie_embeddings"),
)

KEYS = (
    bj.ConfigKey("vocab_size", "vocab_size"),
    bj.ConfigKey("n_embd", "hidden_size"),
    bj.ConfigKey("n_inner", "intermediate_size"),
    bj.ConfigKey("n_layer", "num_layers"),
    bj.ConfigKey("n_head", "num_heads"),
    bj.ConfigKey("n_head_kv", "num_kv_heads"),
    bj.ConfigKey("head_dim", "head_dim"),
    bj.ConfigKey("n_positions", "max_positions"),
    bj.ConfigKey("layer_norm_epsilon", "extra.norm_epsilon", 1e-5),
    bj.ConfigKey("qkv_bias", "extra.qkv_bias", True),
    bj.ConfigKey("tie_word_embeddings", "tie_embeddings", True),
)

FAMILY = bj.Family(
    api=1,
    name="mixing",
    names=NAMES,
    rules=(bj.Rule("layers_*.*.kernel"),),
    init=init,
    function=function,
    cache=cache,
    sizes=lambda spec: {
        "T": 3 * spec.num_heads * spec.head_dim,
        "M": spec.num_heads * spec.head_dim + spec.intermediate_size,
    },
    extra={"norm_epsilon": 1e-5, "qkv_bias": True},
    # What means nothing here has one value.
    values={
        "activation": ("gelu",),
        "sub_norms": (False,),
        "rope_theta": (10000.0,),
        "rms_norm_eps": (1e-5,),
    },
    check=check,
    huggingface=bj.HuggingFace.of_keys(
        "MixingForCausalLM", "mixing", KEYS, fixed={"activation_function": "gelu"}
    ),
    shapes={
        "mixing-tiny": bj.ModelSpec(
            family="mixing", vocab_size=512, hidden_size=64, intermediate_size=128, num_layers=2,
            num_heads=4, num_kv_heads=4, head_dim=16, max_positions=256, activation="gelu",
            sub_norms=False, rope_theta=10000.0, extra={"norm_epsilon": 1e-5, "qkv_bias": True},
        )
    },
)  # fmt: skip
