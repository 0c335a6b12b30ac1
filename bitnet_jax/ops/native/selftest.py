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

# The numbers that rows.h gives to the layouts.
ROWS_LAYOUTS = {"i8.rows": 0, "i6.rows": 1, "i4.rows": 2}

# (tokens, out, in, scale kind, group, threads): edges of blocks, tiles and groups. Groups that
# `t1.16x20` does not take are left out there.
CASES = (
    (1, 70, 250, "tensor", 0, 1),
    (1, 33, 96, "group", 32, 2),
    (3, 17, 50, "row", 0, 2),
    (9, 37, 160, "group", 16, 1),
    (2, 20, 160, "group", 80, 1),
    (21, 16, 304, "tensor", 0, 2),
)

# (layout, tokens, out, in, scale kind, group, threads): edges of strips, chunks and tiles.
ROWS_CASES = (
    ("i8.rows", 1, 9, 130, "row", 0, 1),
    ("i8.rows", 9, 6, 96, "group", 48, 2),
    ("i6.rows", 1, 7, 133, "tensor", 0, 2),
    ("i6.rows", 5, 9, 192, "group", 64, 1),
    ("i4.rows", 1, 5, 289, "row", 0, 1),
    ("i4.rows", 7, 5, 160, "group", 32, 2),
)

# (tokens, out, in, bfloat16, threads): edges of strips, lanes and tiles.
DENSE_CASES = ((1, 6, 40, True, 1), (7, 9, 35, False, 2), (13, 5, 64, True, 2))


def dense_expected(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The sums of dense.h in their order: x [tokens, in], w [out, in] to [tokens, out]."""
    lanes = 16
    pad = ((0, 0), (0, -x.shape[1] % lanes))
    products = np.pad(x, pad)[:, None] * np.pad(w.astype(np.float32), pad)[None]
    sums = np.zeros((*products.shape[:2], lanes), np.float32)
    for at in range(0, products.shape[2], lanes):
        sums = sums + products[..., at : at + lanes]
    while sums.shape[-1] > 1:
        half = sums.shape[-1] // 2
        sums = sums[..., :half] + sums[..., half:]
    return sums[..., 0]


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


def scales(rng: np.random.Generator, out: int, inputs: int, kind: str, group: int) -> np.ndarray:
    """Float32 scales of a weight [out, in]."""
    shape = {"tensor": (1,), "row": (out,), "group": (out, inputs // (group or 1))}[kind]
    return rng.random(shape, np.float32) + np.float32(0.01)


def selftest(library: Any) -> None:
    """Raises `BadData` (``kernel.selftest``) if any path of `library` gives other bits."""
    rng = np.random.default_rng(0)
    _ternary(library, rng)
    _rows(library, rng)
    _dense(library, rng)


def _ternary(library: Any, rng: np.random.Generator) -> None:
    for tokens, out, inputs, kind, group, threads in CASES:
        x = rng.standard_normal((tokens, inputs), np.float32)
        x[-1] *= np.float32(1e-7)  # below the smallest absmax
        trits = rng.integers(-1, 2, (out, inputs), np.int8)
        scale = scales(rng, out, inputs, kind, group)
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
                what = f"{tokens} tokens, {out}x{inputs}, {kind} scale, layout {layout}"
                raise _wrong(library, isa, what)
        for source, to in itertools.permutations(packed):
            if not np.array_equal(library.repack(packed[source], to, inputs), packed[to]):
                raise BadData(
                    "kernel.selftest", f"`{library.path}` turns {source} into {to} wrongly"
                )


def _rows(library: Any, rng: np.random.Generator) -> None:
    for layout, tokens, out, inputs, kind, group, threads in ROWS_CASES:
        x = rng.standard_normal((tokens, inputs), np.float32)
        # Every code that fits: a file may hold the lowest, though we write none.
        half = 1 << (int(layout[1]) - 1)
        codes = rng.integers(-half, half, (out, inputs)).astype(np.int8)
        scale = scales(rng, out, inputs, kind, group)
        packed = np.ascontiguousarray(pack_codes(codes, layout))
        want = expected(x, codes, scale, kind, group)
        sizes = (1, tokens, out, inputs, SCALE_KINDS[kind], group, 0, 0, ROWS_LAYOUTS[layout])
        for isa in library.usable_isas:
            y = np.empty((tokens, out), np.float32)
            library.run(isa, sizes, x, packed, scale, y, threads, entry="bitnet_rows_run")
            if not np.array_equal(y, want):
                what = f"{layout}, {tokens} tokens, {out}x{inputs}, {kind} scale"
                raise _wrong(library, isa, what)


def _dense(library: Any, rng: np.random.Generator) -> None:
    for tokens, out, inputs, narrow, threads in DENSE_CASES:
        x = rng.standard_normal((tokens, inputs), np.float32)
        bits = rng.standard_normal((out, inputs), np.float32).view(np.uint32)
        w = (bits & np.uint32(0xFFFF0000)).view(np.float32)  # values that bfloat16 holds
        held = (bits >> np.uint32(16)).astype(np.uint16) if narrow else w
        want = dense_expected(x, w)
        for isa in library.usable_isas:
            y = np.empty((tokens, out), np.float32)
            sizes = (tokens, out, inputs, int(narrow))
            library.run(isa, sizes, x, held, x, y, threads, entry="bitnet_dense_run")
            if not np.array_equal(y, want):
                raise _wrong(library, isa, f"{tokens} tokens, {out}x{inputs}, float weights")


def _wrong(library: Any, isa: str, what: str) -> BadData:
    return BadData(
        "kernel.selftest",
        f"the `{isa}` kernel of `{library.path}` gives wrong values ({what})",
    )
