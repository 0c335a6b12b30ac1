"""A few small products on every instruction set, against numpy, bit for bit.

Run before a library's first use in a process: a miscompiled kernel must never
answer. Takes a few milliseconds. Knows nothing of JAX.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData
from bitnet_jax.quant import dense, packing
from bitnet_jax.quant.layouts import layout_of, pack_codes
from bitnet_jax.quant.ternary import INVERSE_ACTIVATION_MAX, quantize_activations

# The numbers that product.h gives to the kinds of scale.
SCALE_KINDS = {"tensor": 0, "row": 1, "group": 2}
ACCUMULATE = 3
# And to the layouts.
LAYOUT_IDS = {packing.LAYOUT: 0, dense.LAYOUT: 1}

# (tokens, out, in, scale kind, group, threads): edges of blocks, tiles and groups. Groups that
# `t1.16x20` does not take are left out there.
CASES = (
    (1, 70, 250, "tensor", 0, 1),
    (1, 33, 96, "group", 32, 2),
    (3, 17, 50, "row", 0, 2),
    (9, 37, 160, "group", 16, 1),
    (2, 20, 160, "group", 80, 1),
    (19, 16, 304, "tensor", 0, 2),
)


def expected(x, trits, scale, scale_kind: str, group: int) -> np.ndarray:
    """The contract in numpy: x [tokens, in], trits [out, in] to float32 [tokens, out]."""
    q, a = quantize_activations(x)
    token_scale = a * INVERSE_ACTIVATION_MAX
    if scale_kind != "group":
        acc = (q.astype(np.int64) @ trits.astype(np.int64).T).astype(np.float32)
        return acc * (scale * token_scale)
    total = np.zeros((x.shape[0], trits.shape[0]), np.float32)
    for index in range(x.shape[1] // group):
        columns = slice(index * group, (index + 1) * group)
        acc = q[:, columns].astype(np.int64) @ trits[:, columns].astype(np.int64).T
        total = total + acc.astype(np.float32) * scale[:, index]
    return total * token_scale


def selftest(library: Any) -> None:
    """Raises `BadData` (``kernel.selftest``) if any path of `library` gives other bits."""
    rng = np.random.default_rng(0)
    for tokens, out, inputs, kind, group, threads in CASES:
        x = rng.standard_normal((tokens, inputs), np.float32)
        x[-1] *= np.float32(1e-7)  # below the smallest absmax
        trits = rng.integers(-1, 2, (out, inputs), np.int8)
        shape = {"tensor": (1,), "row": (out,), "group": (out, inputs // (group or 1))}[kind]
        scale = rng.random(shape, np.float32) + np.float32(0.01)
        want = expected(x, trits, scale, kind, group)
        q = rng.integers(-128, 128, (tokens, inputs), np.int8)
        want_acc = q.astype(np.int64) @ trits.astype(np.int64).T
        packed = {name: pack_codes(trits, name) for name in LAYOUT_IDS}
        for (layout, codes), isa in itertools.product(packed.items(), library.usable_isas):
            if group % layout_of(layout).group_step:
                continue
            y = np.empty((tokens, out), np.float32)
            tail = (0, 0, LAYOUT_IDS[layout])
            sizes = (1, tokens, out, inputs, SCALE_KINDS[kind], group, *tail)
            library.run(isa, sizes, x, codes, scale, y, threads)
            acc = np.empty((tokens, out), np.int32)
            library.run(isa, (*sizes[:4], ACCUMULATE, 0, *tail), q, codes, scale, acc, threads)
            if not np.array_equal(y, want) or not np.array_equal(acc, want_acc):
                raise BadData(
                    "kernel.selftest",
                    f"the `{isa}` kernel of `{library.path}` gives wrong values "
                    f"({tokens} tokens, {out}x{inputs}, {kind} scale, layout {layout})",
                )
        for source, to in itertools.permutations(packed):
            if not np.array_equal(library.repack(packed[source], to, inputs), packed[to]):
                raise BadData(
                    "kernel.selftest", f"`{library.path}` turns {source} into {to} wrongly"
                )
