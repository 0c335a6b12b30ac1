"""Faults planted in a decoder: in its parameters, its spec, or in a function written anew.

`decoder` is the built-in decoder in plain JAX, another text of the same thing; a fault is a hook
in it that changes one step. Each row of `FAULTS` says where `debug` must find it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from bitnet_jax.analysis.subject import Subject
from bitnet_jax.formats.create import create
from bitnet_jax.models.cache import KVCache
from bitnet_jax.models.families import family_for
from bitnet_jax.ops.attention import attention
from bitnet_jax.ops.cache_write import cache_write
from bitnet_jax.ops.gated_activation import gated_activation
from bitnet_jax.ops.rms_norm import rms_norm
from bitnet_jax.ops.rotary import rotary
from bitnet_jax.ops.rotary.reference import frequencies
from bitnet_jax.ops.weight_note import weight_note
from bitnet_jax.passes.packed import Packed
from bitnet_jax.quant.activations import Activation
from bitnet_jax.quant.notes import Activations
from bitnet_jax.quant.ternary import from_trits


def linear(x, weight):
    dims = (((x.ndim - 1,), (1,)), ((), ()))
    return lax.dot_general(x, weight, dims, precision=lax.Precision.HIGHEST)


def interleaved(x, positions, *, theta):
    """Rotary embedding in pairs of neighbours, the layout of the original."""
    angles = positions.astype(jnp.float32)[..., None] * frequencies(x.shape[-1], theta)
    cos, sin = (f(angles)[..., None, :] for f in (jnp.cos, jnp.sin))
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    one, two = pairs[..., 0], pairs[..., 1]
    return jnp.stack([one * cos - two * sin, two * cos + one * sin], -1).reshape(x.shape)


# What a fault may replace, and what stands there.
HOOKS: dict[str, Callable[..., Any]] = {
    "embedded": lambda x, layer: x,
    "rotary": rotary,
    "kv": lambda k, v: (k, v),
    "rotated": lambda positions: positions,
    "written": lambda positions: positions,
    "seen": lambda positions: positions,
    "keys": lambda k: k,
    "queries": lambda q: q,
    "attended": lambda y, norm: norm(y),
    "projected": lambda y, norm: y,
    "attention_residual": lambda x, y: x + y,
    "feed_residual": lambda x, y: x + y,
    "gate": lambda gate, up: (gate, up),
    "last_norm": lambda x, norm: norm(x),
    "table": lambda table: table,
    "logits": lambda logits: logits,
    "weight": lambda weight: weight,
    "new_values": lambda v, old: v,
}


def decoder(spec, at=None, decode_only=False, layer=0, **faults):
    """The function of a family; a fault is in layer `layer`, or where there are no layers."""

    def function(params, tokens, positions, cache, last):
        eps = functools.partial(rms_norm, eps=spec.rms_norm_eps)
        wrong = not decode_only or (cache is not None and tokens.shape[1] == 1)

        def hook(name, number=layer):
            return faults.get(name, HOOKS[name]) if wrong and number == layer else HOOKS[name]

        table = params["embed_tokens"]
        x = jnp.take(table, tokens, axis=0, mode="clip").astype(jnp.float32)
        x = hook("embedded")(x, None)
        keys, values = [], []
        for number in range(spec.num_layers):
            here = functools.partial(hook, number=number)
            one = {
                name.removeprefix(f"layers.{number}."): value
                for name, value in params.items()
                if name.startswith(f"layers.{number}.")
            }
            y = eps(x, one["input_layernorm"])
            split = (*x.shape[:2], -1, spec.head_dim)
            q = linear(y, here("weight")(one["self_attn.q_proj"])).reshape(split)
            k = linear(y, one["self_attn.k_proj"]).reshape(split)
            v = linear(y, one["self_attn.v_proj"]).reshape(split)
            k, v = here("kv")(k, v)
            turned = here("rotated")(positions)
            q, k = (here("rotary")(h, turned, theta=spec.rope_theta) for h in (q, k))
            if cache is not None:
                k = cache_write(cache.keys[number], k, here("written")(positions))
                v = cache_write(
                    cache.values[number],
                    here("new_values")(v, cache.values[number]),
                    here("written")(positions),
                )
            y = attention(here("queries")(q), here("keys")(k), v, here("seen")(positions)).reshape(
                *x.shape[:2], -1
            )
            keys.append(k)
            values.append(v)
            norm = functools.partial(eps, weight=one["self_attn.attn_sub_norm"])
            y = here("attended")(y, norm)
            y = here("projected")(linear(y, one["self_attn.o_proj"]), norm)
            x = here("attention_residual")(x, y)
            y = eps(x, one["post_attention_layernorm"])
            gate, up = here("gate")(linear(y, one["mlp.gate_proj"]), linear(y, one["mlp.up_proj"]))
            y = gated_activation(gate, up, kind=spec.activation)
            y = linear(eps(y, one["mlp.ffn_sub_norm"]), one["mlp.down_proj"])
            x = here("feed_residual")(x, y)
        x = hook("last_norm")(x, functools.partial(eps, weight=params["norm"]))
        logits = hook("logits")(linear(x, hook("table")(table)))
        return logits, KVCache(tuple(keys), tuple(values))

    return function


@functools.cache
def right() -> Subject:
    """The model that is right: the family's own function."""
    return Subject.of(create("tiny", vocab_size=300))


def variant(spec=None, function=None, **leaves) -> Subject:
    """`right` with another spec, function or parameters."""
    base = right()
    spec = spec or base.spec
    family = family_for(spec)
    packed = Packed.of({**base.packed.leaves, **leaves}, base.packed.narrow)
    if function is None:
        function = family.function(spec)
    return Subject("faulty", spec, function, functools.partial(family.cache, spec), packed)


def written_anew(**faults) -> Subject:
    """The plain function, with faults."""
    return variant(function=decoder(right().spec, **faults))


# ------------------------------------------------------------------------- in the parameters


def quantized(name, change):
    """The ternary parameter `name` with its trits and scale changed."""
    tensor = right().packed.leaves[name]
    trits, scale = change(np.asarray(tensor.trits()), np.asarray(tensor.scale))
    made = from_trits(trits, scale, scale_dtype="float32", dtype=tensor.dtype)
    return {name: made}


def flipped(trits, scale):
    trits = trits.copy()
    trits[5, 7] = 1 if trits[5, 7] < 1 else 0
    return trits, scale


def changed(name, change):
    return {name: change(jnp.asarray(right().packed.leaves[name]))}


def swapped(one, other):
    leaves = right().packed.leaves
    return {one: leaves[other], other: leaves[one]}


def interleaved_rows(trits, scale):
    """As GGUF's converter leaves query and key rows, without undoing it."""
    heads = trits.reshape(right().spec.num_heads, 2, -1, trits.shape[1])
    return heads.swapaxes(1, 2).reshape(trits.shape), scale


def spec(**changes):
    return dataclasses.replace(right().spec, **changes)


BITS4 = Activations(Activation(4, "absmean"))
L0, L1 = "layers.0.", "layers.1."


@dataclass(frozen=True)
class Fault:
    """A fault, and where it is to be found.

    Attributes:
      make: the faulty subject.
      op: the name of the first op that diverges.
      phases: those in which it is to be found.
    """

    make: Callable[[], Subject]
    op: str
    phases: tuple[str, ...] = ("prefill", "decode")


FAULTS: dict[str, Fault] = {
    # in the parameters
    "scale inverted": Fault(
        lambda: variant(**quantized(L1 + "mlp.down_proj", lambda t, s: (t, 1 / s))),
        L1 + "mlp.down_proj:ternary_matmul",
    ),
    "square tensor transposed": Fault(
        lambda: variant(**quantized(L0 + "self_attn.o_proj", lambda t, s: (t.T, s))),
        L0 + "self_attn.o_proj:ternary_matmul",
    ),
    "one trit flipped": Fault(
        lambda: variant(**quantized(L1 + "mlp.up_proj", flipped)),
        L1 + "mlp.up_proj:ternary_matmul",
    ),
    "scale off by one in its last bit": Fault(
        lambda: variant(
            **quantized(L0 + "mlp.gate_proj", lambda t, s: (t, np.nextafter(s, np.float32(9))))
        ),
        "",  # below the tolerance of 1e-6: found with a tolerance of 0
    ),
    "query rows left interleaved": Fault(
        lambda: variant(**quantized(L0 + "self_attn.q_proj", interleaved_rows)),
        L0 + "self_attn.q_proj:ternary_matmul",
    ),
    "rows of the embedding shifted": Fault(
        lambda: variant(**changed("embed_tokens", lambda e: jnp.roll(e, 1, 0))),
        "embed_tokens:gather",
    ),
    "norm weight plus one": Fault(
        lambda: variant(**changed(L1 + "post_attention_layernorm", lambda w: w + 1)),
        L1 + "post_attention_layernorm:rms_norm",
    ),
    "key and value swapped": Fault(
        lambda: variant(**swapped(L0 + "self_attn.k_proj", L0 + "self_attn.v_proj")),
        L0 + "self_attn.k_proj:ternary_matmul",
    ),
    "gate and up swapped": Fault(
        lambda: variant(**swapped(L1 + "mlp.gate_proj", L1 + "mlp.up_proj")),
        L1 + "mlp.gate_proj:ternary_matmul",
    ),
    # in the spec
    "another theta": Fault(
        lambda: variant(spec(rope_theta=10000.0)), L0 + "self_attn.q_proj:rotary"
    ),
    "another epsilon": Fault(
        lambda: variant(spec(rms_norm_eps=1e-6)), L0 + "input_layernorm:rms_norm"
    ),
    "SiLU for squared ReLU": Fault(
        lambda: variant(spec(activation="silu")), L0 + "mlp:gated_activation"
    ),
    "another count of heads": Fault(
        lambda: variant(spec(num_heads=8, num_kv_heads=4, head_dim=8)),
        L0 + "self_attn.q_proj:rotary",
    ),
    # in the function
    "rotary interleaved": Fault(
        lambda: written_anew(layer=1, rotary=interleaved), L1 + "self_attn.q_proj:rotary"
    ),
    "rotary forgotten for the keys": Fault(
        lambda: written_anew(
            rotary=lambda x, p, theta: x if x.shape[2] == 2 else rotary(x, p, theta=theta)
        ),
        L0 + "self_attn.k_proj:rotary",
    ),
    "key and value swapped in the function": Fault(
        lambda: written_anew(layer=1, kv=lambda k, v: (v, k)), L1 + "self_attn.k_proj:rotary"
    ),
    "gate and up swapped in the function": Fault(
        lambda: written_anew(layer=1, gate=lambda g, u: (u, g)), L1 + "mlp:gated_activation"
    ),
    "sub-norm dropped": Fault(
        lambda: written_anew(layer=1, attended=lambda y, norm: y),
        L1 + "self_attn.attn_sub_norm:rms_norm",
    ),
    "sub-norm behind the projection": Fault(
        lambda: written_anew(attended=lambda y, norm: y, projected=lambda y, norm: norm(y)),
        L0 + "self_attn.attn_sub_norm:rms_norm",
    ),
    "residual missing": Fault(
        lambda: written_anew(layer=1, attention_residual=lambda x, y: y),
        L1 + "self_attn.o_proj:add",
    ),
    "last norm missing": Fault(lambda: written_anew(last_norm=lambda x, norm: x), "norm:rms_norm"),
    "embedding scaled": Fault(
        lambda: written_anew(embedded=lambda x, layer: x * np.float32(8)), "embed_tokens:mul"
    ),
    "head of another table": Fault(
        lambda: written_anew(table=lambda t: t[::-1]), "embed_tokens:dot_general"
    ),
    "logits scaled": Fault(
        lambda: written_anew(logits=lambda y: y * np.float32(0.5)), "embed_tokens:mul"
    ),
    "queries scaled twice": Fault(
        lambda: written_anew(queries=lambda q: q * np.float32(0.25)),
        L0 + "self_attn.q_proj:mul",
    ),
    "key heads in another order": Fault(
        lambda: written_anew(keys=lambda k: k[:, :, ::-1]), L0 + "self_attn.k_proj:rev"
    ),
    "causal mask off by one": Fault(
        # the last token of all has nothing before it that it did not see: later keys are zeros
        lambda: written_anew(layer=1, seen=lambda p: p + 1),
        L1 + "self_attn:attention",
    ),
    "activations rounded to four bits": Fault(
        lambda: written_anew(weight=lambda w: weight_note(w, note=BITS4)),
        L0 + "self_attn.q_proj:ternary_matmul",
    ),
    # with the cache
    "cache written one too far": Fault(
        lambda: written_anew(layer=1, written=lambda p: p + 1), L1 + "self_attn.k_proj:cache_write"
    ),
    "cache written one too far, in decode": Fault(
        lambda: written_anew(layer=1, decode_only=True, written=lambda p: p + 1),
        L1 + "self_attn.k_proj:cache_write",
        ("decode",),
    ),
    "rotary one too far, in decode": Fault(
        lambda: written_anew(decode_only=True, rotated=lambda p: p + 1),
        L0 + "self_attn.q_proj:rotary",
        ("decode",),
    ),
    "the newest key not seen, in decode": Fault(
        lambda: written_anew(layer=1, decode_only=True, seen=lambda p: p - 1),
        L1 + "self_attn:attention",
        ("decode",),
    ),
    "values not written, in decode": Fault(
        lambda: written_anew(layer=1, decode_only=True, new_values=lambda v, old: v * 0),
        L1 + "self_attn.v_proj:mul",
        ("decode",),
    ),
}
