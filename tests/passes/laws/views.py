"""What only shows a weight differently: its scale stays that of the whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.passes.laws.case import IN, OUT, TOKENS, Case, normal, one, relu, tokens

OUTPUTS = [(0, 8), (8, 24), (0, 16), (3, 40)]
PARTS = {"w_q": 16, "w_k": 8, "w_v": 8}
INPUTS = [(0, 8), (8, 24), (16, 40), (5, 37)]


def of_outputs(start, stop, stored="io"):
    axis = stored.index("o")

    def part(w):
        return lax.slice_in_dim(w, start, stop, axis=axis)

    return one(
        lambda p, x: jnp.einsum(f"bi,{stored}->bo", x, part(p["w"])),
        lambda q, p, x: q(f"bi,{stored}->bo", x, p["w"], view=part, inner=(1 - axis,)),
        w=(32, 40) if axis else (40, 32),
        axes={"w": ((), (axis,), (1 - axis,))},
    )


def of_inputs(start, stop, stored="io"):
    axis = stored.index("i")

    def part(w):
        return lax.slice_in_dim(w, start, stop, axis=axis)

    return one(
        lambda p, x: jnp.einsum(f"bi,{stored}->bo", x[:, start:stop], part(p["w"])),
        lambda q, p, x: q(f"bi,{stored}->bo", x[:, start:stop], p["w"], view=part, inner=(axis,)),
        w=(24, 40) if axis else (40, 24),
        x=(4, 40),
        axes={"w": ((), (1 - axis,), (axis,))},
    )


def seen(view, spec="bi,io->bo", w=(IN, OUT), x=(TOKENS, IN), inner=(0,), stack=(), **options):
    """The row of ``einsum(spec, x, view(w))``."""
    rest = tuple(axis for axis in range(len(w)) if axis not in (*inner, *stack))
    return one(
        lambda p, x: jnp.einsum(spec, x, view(p["w"])),
        lambda q, p, x: q(spec, x, p["w"], view=view, inner=inner, stack=stack),
        w=w,
        x=x,
        axes={"w": (stack, rest, inner)},
        **options,
    )


def fused_qkv(p, x):
    q, k, v = jnp.split(x @ p["w"], 3, axis=1)
    return q * k, v


def fused_qkv_twin(hand, p, x):
    q, k, v = jnp.split(hand("bi,io->bo", x, p["w"]), 3, axis=1)
    return q * k, v


def split_weight(p, x):
    q, k, v = jnp.split(p["w"], [16, 24], axis=1)
    return x @ q, x @ k, x @ v


def split_weight_twin(hand, p, x):
    return tuple(
        hand("bi,io->bo", x, p["w"], view=lambda w, a=a, b=b: w[:, a:b], inner=(0,))
        for a, b in ((0, 16), (16, 24), (24, 40))
    )


def both_halves(p, x):
    return x[:, :24] @ p["w"][:24] + x[:, 24:] @ p["w"][24:]


def both_halves_twin(q, p, x):
    first = q("bi,io->bo", x[:, :24], p["w"], view=lambda w: w[:24], inner=(0,))
    return first + q("bi,io->bo", x[:, 24:], p["w"], view=lambda w: w[24:], inner=(0,))


def joined(multiply, order="bo"):
    """The row of weights that are joined along their outputs before they are multiplied."""
    return Case(
        lambda p, x: multiply(x, jnp.concatenate([p["w_q"], p["w_k"], p["w_v"]], 1)),
        lambda q, p, x: jnp.concatenate(
            [q(f"bi,io->{order}", x, p[name]) for name in ("w_q", "w_k", "w_v")],
            axis=order.index("o"),
        ),
        {name: k * normal(IN, n, seed=k) for k, (name, n) in enumerate(PARTS.items(), 1)},
        (tokens(),),
        axes={name: ((), (1,), (0,)) for name in PARTS},
    )


def chosen(select):
    """The row of an element of a stack that an input chooses."""
    return Case(
        lambda p, x, i: x @ select(p["w"], i),
        lambda q, p, x, i: q(
            "bi,io->bo", x, p["w"], view=lambda w: select(w, i), inner=(1,), stack=(0,)
        ),
        {"w": normal(3, IN, OUT)},
        (tokens(), np.int32(1)),
        axes={"w": ((0,), (2,), (1,))},
    )


def dynamic_columns(w, i):
    return lax.dynamic_slice(w, (0, i), (IN, 8))


CASES = {
    **{f"outputs [{a}:{b}] of 40": of_outputs(a, b) for a, b in OUTPUTS},
    **{f"inputs [{a}:{b}] of 40": of_inputs(a, b) for a, b in INPUTS},
    "outputs [8:24], stored out first": of_outputs(8, 24, "oi"),
    "inputs [8:24], stored out first": of_inputs(8, 24, "oi"),
    "transpose": seen(lambda w: w.T, w=(OUT, IN), inner=(1,)),
    "transpose twice and back": seen(lambda w: w.T.T.T, w=(OUT, IN), inner=(1,)),
    "transpose of three axes": seen(
        lambda w: jnp.transpose(w, (2, 0, 1)),
        "bi,ihd->bhd",
        w=(4, 6, IN),
        inner=(2,),
    ),
    "merge of outputs": seen(lambda w: w.reshape(IN, 24), w=(IN, 4, 6)),
    "merge of inputs": seen(lambda w: w.reshape(32, OUT), w=(4, 8, OUT), inner=(0, 1)),
    "split of outputs": seen(lambda w: w.reshape(IN, 4, 6), "bi,ihd->bhd"),
    "split of inputs": seen(
        lambda w: w.reshape(4, 8, OUT), "bhd,hdo->bo", x=(TOKENS, 4, 8), inner=(0,)
    ),
    "split, transposed and contracted": seen(
        lambda w: w.reshape(4, 8, OUT).transpose(1, 0, 2), "bdh,dho->bo", x=(TOKENS, 8, 4)
    ),
    "ravel and reshape": seen(lambda w: w.ravel().reshape(IN, OUT), w=(4, 8, OUT), inner=(0, 1)),
    "squeeze": seen(lambda w: jnp.squeeze(w, 0), w=(1, IN, OUT), inner=(1,)),
    "expand_dims": seen(lambda w: jnp.expand_dims(w, 1), "bi,iuo->buo"),
    "moveaxis": seen(lambda w: jnp.moveaxis(w, 0, 1), "bi,oi->bo"),
    "swapaxes": seen(lambda w: jnp.swapaxes(w, 0, 1), "bi,oi->bo"),
    "cast there and back": Case(
        lambda p, x: x @ p["w"].astype(jnp.float16).astype(jnp.float32),
        lambda q, p, x: q("bi,io->bo", x, p["w"]),
        {"w": normal(IN, OUT, dtype=np.float16).astype(np.float32)},
        (tokens(),),
    ),
    "stop_gradient": one(
        lambda p, x: x @ lax.stop_gradient(p["w"]),
        lambda q, p, x: q("bi,io->bo", x, lax.stop_gradient(p["w"])),
    ),
    "slice of heads after a split": seen(
        lambda w: w.reshape(IN, 3, 8)[:, 1:], "bi,ihd->bhd", inner=(0,)
    ),
    "slice, then transpose, then slice": seen(lambda w: w[:, 4:20].T[2:10], "bi,oi->bo"),
    "slices of both axes": seen(lambda w: w[4:28, 3:19], x=(TOKENS, 24)),
    "every second output": seen(lambda w: w[:, ::2]),
    "the result of a fused qkv is split": one(
        fused_qkv, fused_qkv_twin, axes={"w": ((), (1,), (0,))}
    ),
    "a fused qkv weight is split": one(
        split_weight, split_weight_twin, w=(IN, 40), axes={"w": ((), (1,), (0,))}
    ),
    "two slices of the inputs are added": one(
        both_halves, both_halves_twin, w=(40, OUT), x=(TOKENS, 40)
    ),
    "an element of a stack": seen(lambda w: w[1], w=(3, IN, OUT), inner=(1,), stack=(0,)),
    "the last element of a stack": seen(lambda w: w[-1], w=(3, IN, OUT), inner=(1,), stack=(0,)),
    "an element of an inner axis": seen(lambda w: w[:, 2], w=(IN, 3, OUT), inner=(0,), stack=(1,)),
    "every element of a stack": one(
        lambda p, x: relu(relu(x @ p["w"][0]) @ p["w"][1]) @ p["w"][2],
        lambda q, p, x: q(
            "bi,io->bo",
            relu(
                q(
                    "bi,io->bo",
                    relu(q("bi,io->bo", x, p["w"], view=lambda w: w[0], inner=(1,), stack=(0,))),
                    p["w"],
                    view=lambda w: w[1],
                    inner=(1,),
                    stack=(0,),
                )
            ),
            p["w"],
            view=lambda w: w[2],
            inner=(1,),
            stack=(0,),
        ),
        w=(3, IN, IN),
        layers=3,
    ),
    "w[i] with i traced": chosen(lambda w, i: w[i]),
    "take of one element": chosen(lambda w, i: jnp.take(w, i, axis=0)),
    "dynamic_index_in_dim": chosen(
        lambda w, i: lax.dynamic_index_in_dim(w, i, axis=0, keepdims=False)
    ),
    "dynamic_index_in_dim keeping the axis": chosen(
        lambda w, i: jnp.squeeze(lax.dynamic_index_in_dim(w, i, axis=0), 0)
    ),
    "dynamic_slice of outputs": Case(
        lambda p, x, i: x @ dynamic_columns(p["w"], i),
        lambda q, p, x, i: q(
            "bi,io->bo", x, p["w"], view=lambda w: dynamic_columns(w, i), inner=(0,)
        ),
        {"w": normal(IN, 40)},
        (tokens(), np.int32(11)),
    ),
    "joined along the outputs": joined(lambda x, w: x @ w),
    "joined, cast, transposed, and first": joined(
        lambda x, w: jnp.einsum("oi,bi->ob", w.astype(jnp.float32).T, x), "ob"
    ),
    "joined, in an inner jit": joined(lambda x, w: jax.jit(lambda w: x @ w)(w)),
    "jnp.einsum inside jit, transposed outside": one(
        lambda p, x: jax.jit(lambda w, x: jnp.einsum("bi,oi->bo", x, w))(p["w"].T, x),
        lambda q, p, x: q("bi,io->bo", x, p["w"]),
    ),
}
