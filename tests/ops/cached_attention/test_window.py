"""Sliding windows: close to the reference, and the same bits however the call is cut."""

import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.ops.attention import attention
from bitnet_jax.ops.attention.reference import attention_reference
from bitnet_jax.ops.cached_attention import cached_attention
from bitnet_jax.ops.cached_attention.reference import cached_attention_reference
from tests.ops.cached_attention.test_suite import close, narrowed, operands
from tests.ops.native.threads import threads

THETA = 10000.0
# Shorter than a chunk of keys, one, not a multiple of it, more than there are.
WINDOWS = (1, 7, 128, 200, 5000)


def test_the_reference_sees_its_window(rng):
    q, k, v = rng.standard_normal((3, 1, 9, 2, 16), np.float32)
    positions = np.arange(9, dtype=np.int32)[None]
    found = attention_reference(*map(jnp.asarray, (q, k, v, positions)), window=3)
    for at in range(9):
        first = max(at - 2, 0)
        own = jnp.asarray([[at - first]])
        part = (k[:, first : at + 1], v[:, first : at + 1])
        want = attention_reference(jnp.asarray(q[:, at : at + 1]), *map(jnp.asarray, part), own)
        np.testing.assert_allclose(found[:, at : at + 1], want, atol=1e-6)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    "case",
    [(1, 1, 8, 2, 32, 700, (600,)), (2, 9, 6, 2, 16, 300, (120, 250)), (1, 40, 4, 1, 16, 64, (0,))],
    ids=str,
)
def test_close_to_the_reference(rng, case, window):
    args = operands(rng, *case[:-1], list(case[-1]))
    more = {"theta": THETA, "window": window, "scaling": ("linear", 2.0)}
    want = cached_attention_reference(*map(jnp.asarray, args), **more)
    close(cached_attention(*args, **more), [np.asarray(x) for x in want])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("window", WINDOWS)
def test_without_a_cache(rng, window):
    q = rng.standard_normal((2, 290, 4, 32), np.float32)
    k, v = rng.standard_normal((2, 2, 290, 2, 32), np.float32)
    positions = np.broadcast_to(np.arange(290, dtype=np.int32), (2, 290))
    want = attention_reference(*map(jnp.asarray, (q, k, v, positions)), window=window)
    found = attention(q, k, v, positions, window=window, implementation="native")
    close([found], [np.asarray(want)])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("form", [tuple, narrowed], ids=["float32", "int8"])
@pytest.mark.parametrize("window", [5, 130])
def test_a_row_depends_on_no_neighbour_piece_capacity_or_thread(rng, form, window):
    args = operands(rng, 3, 33, 4, 2, 32, 512, [290, 120, 7])
    q, k, v, positions, keys, values = form(args)
    more = {"theta": THETA, "window": window}
    whole = np.asarray(cached_attention(q, k, v, positions, keys, values, **more)[0])
    for count, piece in ((1, 1), (1, 8), (2, 7), (4, 1), (4, 33)):
        with threads(count):
            cache, out = (keys[:1, :384], values[:1, :384]), []
            for at in range(0, 33, piece):
                part = slice(at, at + piece)
                row = (q[:1, part], k[:1, part], v[:1, part], positions[:1, part])
                y, *cache = cached_attention(*row, *cache, **more)
                out.append(np.asarray(y))
        assert np.array_equal(np.concatenate(out, axis=1), whole[:1]), (count, piece)


@pytest.mark.parametrize("count", [1, 2])
def test_a_position_beyond_the_cache_reads_nothing_outside_it(rng, count):
    q = rng.standard_normal((1, 2, 4, 16), np.float32)
    k, v = rng.standard_normal((2, 1, 200, 4, 16), np.float32)
    positions = np.asarray([[2**31 - 1, 5000]], np.int32)
    with threads(count):
        found = attention(q, k, v, positions, window=3, implementation="native")
    assert np.isfinite(found).all()
