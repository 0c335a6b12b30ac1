"""Mixed dtypes, kinds of scale, several rules at once, trees of parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

import bitnet_jax as bj
from tests.passes.laws.case import IN, OUT, TOKENS, Case, normal, one, relu, tokens
from tests.passes.laws.control import LINEAR, block, element

BF16, F16 = ml_dtypes.bfloat16, np.float16


def typed(fn, twin, w=np.float32, x=np.float32, **options):
    """The row of a weight and activations of these dtypes."""
    options.setdefault("narrow", w != np.float32 or x != np.float32)
    return Case(fn, twin, {"w": normal(IN, OUT, dtype=w)}, (tokens(dtype=x),), **options)


def cast_to(dtype):
    return typed(
        lambda p, x: x.astype(dtype) @ p["w"].astype(dtype),
        lambda q, p, x: q(LINEAR, x.astype(dtype), p["w"], dtype=dtype),
        narrow=True,
    )


def preferred(p, x):
    return jnp.matmul(x, p["w"], preferred_element_type=jnp.float32)


def master_cast_once(p, x):
    """Parameters cast as a tree, as mixed-precision training does."""
    p = jax.tree.map(lambda w: w.astype(jnp.bfloat16), p)
    return relu(x.astype(jnp.bfloat16) @ p["w1"]) @ p["w2"]


def master_cast_once_twin(q, p, x):
    h = relu(q(LINEAR, x.astype(jnp.bfloat16), p["w1"], dtype=jnp.bfloat16))
    return q(LINEAR, h, p["w2"], dtype=jnp.bfloat16)


def scaled(scale, view=None, spec=LINEAR, inner=None, w=(IN, OUT), stack=(), **options):
    seen = view or (lambda w: w)
    scale_dtype = options.pop("scale_dtype", "bfloat16")

    def twin(q, p, x):
        return q(
            spec,
            x,
            p["w"],
            view=view,
            inner=inner,
            stack=stack,
            scale=scale,
            scale_dtype=scale_dtype,
        )

    rule = bj.Rule("w", scale=scale, scale_dtype=scale_dtype)
    return one(lambda p, x: jnp.einsum(spec, x, seen(p["w"])), twin, w=w, rules=(rule,), **options)


def scan_rows(p, x):
    return lax.scan(lambda x, w: (block(x, x @ w), None), x, p["w"])[0]


def scan_scaled_twin(scale):
    def twin(q, p, x):
        for i in range(2):
            view = {"view": lambda w, i=i: w[i], "inner": (1,), "stack": (0,)}
            x = block(x, q(LINEAR, x, p["w"], scale=scale, **view))
        return x

    return twin


def mixed_rules(p, x):
    h = relu(x @ p["row"]["kernel"])
    h = relu(h @ p["group"]["kernel"]) + h[:, :24]
    return h @ p["kept"]["kernel"], h @ p["plain"]["kernel"]


def mixed_rules_twin(q, p, x):
    h = relu(q(LINEAR, x, p["row"]["kernel"], scale="row"))
    h = relu(q(LINEAR, h, p["group"]["kernel"], scale="group-16")) + h[:, :24]
    kept = jnp.einsum(LINEAR, h, p["kept"]["kernel"])
    return kept, q(LINEAR, h, p["plain"]["kernel"], scale_dtype="float32")


MIXED_RULES = (
    bj.Rule("kept.*", use="*", to="keep"),
    bj.Rule("row.kernel", scale="row"),
    bj.Rule("**.kernel", scale="group-16"),
)


class Layer(NamedTuple):
    """A layer as a named tuple."""

    weight: Any
    bias: Any


@jax.tree_util.register_dataclass
@dataclass
class Model:
    """A model as a dataclass, with a list and a dict inside."""

    layers: list[Layer]
    head: dict[str, Any]


def over_a_tree(dot):
    def fn(p, x):
        for layer in p.layers:
            x = relu(dot(LINEAR, x, layer.weight) + layer.bias)
        return {"out": dot(LINEAR, x, p.head["weight"]), "hidden": (x, None)}

    return fn


def with_keywords(p, x, *, gain=1.0, skip=None):
    y = gain * (x @ p["w"])
    return y if skip is None else y + skip["x"]


def with_keywords_twin(q, p, x, *, gain, skip):
    return gain * q(LINEAR, x, p["w"]) + skip["x"]


def ensemble(p, x):
    return jax.vmap(lambda w, b: relu(x @ w + b))(p["w"], p["b"])


def ensemble_twin(q, p, x):
    return jnp.stack([relu(element(q, x, p["w"], i) + p["b"][i]) for i in range(3)])


def mapped_tokens(p, x):
    return jax.vmap(lambda x: relu(x @ p["w"]))(x)


def mapped_ensemble_and_tokens(p, x):
    return jax.vmap(jax.vmap(lambda w, x: x @ w, (None, 0)), (0, None))(p["w"], x)


def mapped_ensemble_and_tokens_twin(q, p, x):
    return jnp.stack([element(q, x, p["w"], i) for i in range(3)])


# Inputs that all members share make a dot in which the members' axis is one of outputs: the
# rule says that it is a stack.
BY_MEMBER = (bj.Rule("w", stack=(0,)),)
STACK = {"w": normal(3, IN, OUT), "b": normal(3, OUT)}

CASES = {
    "bfloat16 activations, float32 weight": typed(
        lambda p, x: x @ p["w"],
        lambda q, p, x: q(LINEAR, x, p["w"], dtype=jnp.float32),
        x=BF16,
    ),
    "bfloat16 weight, float32 activations": typed(
        lambda p, x: x @ p["w"], lambda q, p, x: q(LINEAR, x, p["w"]), w=BF16
    ),
    "bfloat16 throughout": typed(
        lambda p, x: x @ p["w"], lambda q, p, x: q(LINEAR, x, p["w"]), w=BF16, x=BF16
    ),
    "float16 throughout": typed(
        lambda p, x: x @ p["w"], lambda q, p, x: q(LINEAR, x, p["w"]), w=F16, x=F16
    ),
    "cast to bfloat16 on the way": cast_to(jnp.bfloat16),
    "cast to float16 on the way": cast_to(jnp.float16),
    "preferred_element_type": typed(
        preferred,
        lambda q, p, x: q(LINEAR, x, p["w"], dtype=jnp.float32),
        w=BF16,
        x=BF16,
    ),
    "parameters cast as a tree": Case(
        master_cast_once,
        master_cast_once_twin,
        {"w1": normal(IN, OUT, seed=1), "w2": normal(OUT, 16, seed=2)},
        (tokens(),),
        layers=2,
        narrow=True,
    ),
    "precision": one(
        lambda p, x: jnp.matmul(x, p["w"], precision="highest"),
        lambda q, p, x: q(LINEAR, x, p["w"]),
    ),
    "scale in float32": scaled("tensor", scale_dtype="float32"),
    "scale in float16": scaled("tensor", scale_dtype="float16"),
    "row scales": scaled("row", axes={"w": ((), (1,), (0,))}),
    "row scales in float32": scaled("row", scale_dtype="float32"),
    "group scales": scaled("group-16", axes={"w": ((), (1,), (0,))}),
    "group scales over three groups": scaled("group-16", w=(48, OUT), x=(TOKENS, 48)),
    "row scales of a slice of outputs": scaled("row", lambda w: w[:, 5:21], inner=(0,)),
    "group scales of a slice of outputs": scaled("group-16", lambda w: w[:, 8:], inner=(0,)),
    "row scales of heads": scaled("row", spec="bi,ihd->bhd", w=(IN, 4, 6)),
    "row scales of two contracted axes": scaled(
        "row", spec="bhd,hdo->bo", w=(4, 8, OUT), x=(TOKENS, 4, 8)
    ),
    "group scales of two contracted axes": scaled(
        "group-16", spec="bdh,hdo->bo", w=(4, 8, OUT), x=(TOKENS, 8, 4)
    ),
    "row scales of experts": scaled("row", spec="ebi,eio->ebo", w=(3, IN, OUT), x=(3, TOKENS, IN)),
    "group scales of experts": scaled(
        "group-16", spec="ebi,eio->ebo", w=(3, IN, OUT), x=(3, TOKENS, IN)
    ),
    "row scales in scan": one(
        scan_rows,
        scan_scaled_twin("row"),
        w=(2, IN, IN),
        layers=2,
        rules=(bj.Rule("w", scale="row"),),
    ),
    "group scales in scan": one(
        scan_rows,
        scan_scaled_twin("group-16"),
        w=(2, IN, IN),
        layers=2,
        rules=(bj.Rule("w", scale="group-16"),),
    ),
    "several rules": Case(
        mixed_rules,
        mixed_rules_twin,
        {
            "row": {"kernel": normal(IN, 32, seed=1)},
            "group": {"kernel": normal(32, 24, seed=2)},
            "kept": {"kernel": normal(24, 16, seed=3)},
            "plain": {"kernel": normal(24, 16, seed=4)},
        },
        (tokens(),),
        rules=(*MIXED_RULES[:2], bj.Rule("plain.*", scale_dtype="float32"), MIXED_RULES[2]),
        layers=4,
    ),
    "a tree of named tuples, lists and dataclasses": Case(
        over_a_tree(jnp.einsum),
        lambda q, p, x: over_a_tree(q)(p, x),
        Model(
            [Layer(normal(IN, IN, seed=k), normal(IN, seed=k)) for k in range(2)],
            {"weight": normal(IN, OUT, seed=3)},
        ),
        (tokens(),),
        rules=(bj.Rule("layers.*.weight"), bj.Rule("head.weight")),
        layers=3,
        axes={
            name: ((), (1,), (0,)) for name in ("layers.0.weight", "layers.1.weight", "head.weight")
        },
    ),
    "keyword arguments": one(
        with_keywords,
        with_keywords_twin,
        kwargs={"gain": 2.0, "skip": {"x": tokens(TOKENS, OUT)}},
        packed=False,
    ),
    "vmap of tokens inside": one(mapped_tokens, lambda q, p, x: relu(q(LINEAR, x, p["w"]))),
    "ensemble": Case(ensemble, ensemble_twin, STACK, (tokens(),), rules=BY_MEMBER),
    "ensemble with inputs of their own": Case(
        lambda p, x: jax.vmap(lambda w, x: x @ w)(p["w"], x),
        lambda q, p, x: jnp.stack([element(q, x[i], p["w"], i) for i in range(3)]),
        {"w": STACK["w"]},
        (tokens(3, TOKENS, IN),),
    ),
    "ensemble of tokens": Case(
        mapped_ensemble_and_tokens,
        mapped_ensemble_and_tokens_twin,
        {"w": STACK["w"]},
        (tokens(),),
        rules=BY_MEMBER,
        axes={"w": ((0,), (2,), (1,))},
    ),
}
