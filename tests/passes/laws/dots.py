"""`dot_general` in every order of its dimensions, and what numpy's names make of it."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from tests.passes.laws.case import IN, TOKENS, Case, normal, one, tokens

SIZES = {"b": TOKENS, "c": 3, "i": 32, "o": 24, "e": 2, "f": 3, "h": 4, "d": 8, "k": 5}


def general(lhs, rhs, batch, contract, weight):
    """`lax.dot_general` of operands labelled `lhs` and `rhs`; operand `weight` is `w`."""
    dims = tuple(
        (tuple(lhs.index(label) for label in labels), tuple(rhs.index(label) for label in labels))
        for labels in (contract, batch)
    )
    free = [[m for m in labels if m not in batch + contract] for labels in (lhs, rhs)]
    out = batch + "".join(free[0]) + "".join(free[1])
    of_x, of_w = (rhs, lhs) if weight == 0 else (lhs, rhs)

    def fn(p, x):
        return lax.dot_general(*((p["w"], x) if weight == 0 else (x, p["w"])), dims)

    def twin(q, p, x):
        return q(f"{of_x},{of_w}->{out}", x, p["w"])

    axes = {
        "stack": tuple(i for i, label in enumerate(of_w) if label in batch),
        "inner": tuple(i for i, label in enumerate(of_w) if label in contract),
    }
    out_axes = tuple(i for i in range(len(of_w)) if i not in axes["stack"] + axes["inner"])
    return one(
        fn,
        twin,
        w=[SIZES[label] for label in of_w],
        x=[SIZES[label] for label in of_x],
        axes={"w": (axes["stack"], out_axes, axes["inner"])},
    )


# lhs, rhs, batch, contracted, which operand is the weight
GENERAL = [
    ("bi", "io", "", "i", 1),
    ("ib", "oi", "", "i", 1),
    ("io", "bi", "", "i", 0),
    ("i", "io", "", "i", 1),
    ("oi", "i", "", "i", 0),
    ("bci", "io", "", "i", 1),
    ("bi", "ihd", "", "i", 1),
    ("hdi", "bi", "", "i", 0),
    ("bhd", "hdo", "", "hd", 1),
    ("dbh", "ohd", "", "dh", 1),
    ("hod", "bdh", "", "hd", 0),
    ("hcbd", "dkho", "", "dh", 1),
    ("ebi", "eio", "e", "i", 1),
    ("ibe", "oei", "e", "i", 1),
    ("eoi", "bei", "e", "i", 0),
    ("efbi", "efio", "ef", "i", 1),
    ("efbi", "feio", "ef", "i", 1),
    ("fbei", "iofe", "ef", "i", 1),
    ("ebhd", "hedo", "e", "dh", 1),
]


def three_operands(p, x):
    return jnp.einsum("bi,io,ok->bk", x, p["w1"], p["w2"])


def three_operands_twin(q, p, x):
    return q("bo,ok->bk", q("bi,io->bo", x, p["w1"]), p["w2"])


CASES = {
    **{
        f"dot_general {lhs},{rhs} batch[{batch}] contract[{contract}]"
        f" w {'right' if weight else 'left'}": general(lhs, rhs, batch, contract, weight)
        for lhs, rhs, batch, contract, weight in GENERAL
    },
    "matmul": one(lambda p, x: x @ p["w"], lambda q, p, x: q("bi,io->bo", x, p["w"])),
    "matmul of a sequence": one(
        lambda p, x: x @ p["w"], lambda q, p, x: q("abi,io->abo", x, p["w"]), x=(2, 3, IN)
    ),
    "weight on the left of matmul": one(
        lambda p, x: p["w"] @ x, lambda q, p, x: q("ib,oi->ob", x, p["w"]), w=(24, 32), x=(32, 4)
    ),
    "batched matmul": one(
        lambda p, x: jnp.matmul(x, p["w"]),
        lambda q, p, x: q("ebi,eio->ebo", x, p["w"]),
        w=(3, 32, 24),
        x=(3, 4, 32),
    ),
    "tensordot": one(
        lambda p, x: jnp.tensordot(x, p["w"], axes=((2, 1), (0, 1))),
        lambda q, p, x: q("bdh,hdo->bo", x, p["w"]),
        w=(4, 8, 24),
        x=(4, 8, 4),
    ),
    "inner": one(
        lambda p, x: jnp.inner(x, p["w"]), lambda q, p, x: q("bi,oi->bo", x, p["w"]), w=(24, 32)
    ),
    "a weight of one output": one(
        lambda p, x: x @ p["w"], lambda q, p, x: q("bi,io->bo", x, p["w"]), w=(32, 1)
    ),
    "a weight of one input": one(
        lambda p, x: x @ p["w"], lambda q, p, x: q("bi,io->bo", x, p["w"]), w=(1, 24), x=(4, 1)
    ),
    "a batch axis of one": one(
        lambda p, x: lax.dot_general(x[None], p["w"][None], (((2,), (1,)), ((0,), (0,))))[0],
        lambda q, p, x: q("bi,io->bo", x, p["w"]),
    ),
    "einsum with the result transposed": one(
        lambda p, x: jnp.einsum("bi,io->ob", x, p["w"]),
        lambda q, p, x: q("bi,io->ob", x, p["w"]),
    ),
    "einsum with an ellipsis": one(
        lambda p, x: jnp.einsum("...i,io->...o", x, p["w"]),
        lambda q, p, x: q("abi,io->abo", x, p["w"]),
        x=(2, 3, 32),
    ),
    "einsum with the weight first": one(
        lambda p, x: jnp.einsum("hid,bti->bthd", p["w"], x),
        lambda q, p, x: q("bti,hid->bthd", x, p["w"]),
        w=(4, 32, 6),
        x=(2, 3, 32),
    ),
    "einsum over two axes in another order": one(
        lambda p, x: jnp.einsum("bhtd,dho->bto", x, p["w"]),
        lambda q, p, x: q("bhtd,dho->bto", x, p["w"]),
        w=(8, 4, 24),
        x=(2, 4, 3, 8),
    ),
    "einsum of three operands": Case(
        three_operands,
        three_operands_twin,
        {"w1": normal(32, 24, seed=1), "w2": normal(24, 16, seed=2)},
        (tokens(),),
        layers=2,
        axes={"w1": ((), (1,), (0,)), "w2": ((), (1,), (0,))},
    ),
}
