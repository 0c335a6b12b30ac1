"""Attention natively: close to the reference, and the same bits however it is cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.ops.attention import attention
from bitnet_jax.ops.attention.reference import attention_reference
from bitnet_jax.ops.cached_attention import cached_attention
from bitnet_jax.ops.cached_attention.reference import cached_attention_reference
from bitnet_jax.ops.native import library as native
from bitnet_jax.quant.cache_rows import as_floats, stored
from tests.ops.native.threads import threads
from tests.thin import each_isa

THETA = 10000.0


@pytest.fixture(params=each_isa())
def isa(request, monkeypatch):
    monkeypatch.setenv("BITNET_ISA", request.param)
    jax.clear_caches()
    yield request.param
    jax.clear_caches()


def operands(rng, batch, length, heads, kv_heads, width, capacity, starts):
    q = rng.standard_normal((batch, length, heads, width), np.float32)
    k, v = rng.standard_normal((2, batch, length, kv_heads, width), np.float32)
    keys, values = rng.standard_normal((2, batch, capacity, kv_heads, width), np.float32)
    positions = (np.asarray(starts)[:, None] + np.arange(length)).astype(np.int32)
    return q, k, v, positions, keys, values


def close(found, want):
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(b).max())


# batch, length, heads, kv heads, width, capacity, first position of each row
CASES = (
    (1, 1, 4, 2, 16, 64, (5,)),
    (1, 1, 8, 2, 32, 700, (600,)),  # several chunks
    (2, 1, 3, 3, 48, 300, (0, 299)),
    (1, 40, 4, 1, 16, 64, (0,)),
    (2, 9, 6, 2, 16, 300, (120, 250)),
    (1, 12, 12, 1, 16, 20, (3,)),  # more queries of a kv head than are held at once
)


def made(case, narrow=False):
    args = operands(np.random.default_rng(0), *case[:-1], list(case[-1]))
    return narrowed(args) if narrow else args


@functools.cache  # once for all instruction sets
def expected(case, narrow=False):
    reference = jax.jit(functools.partial(cached_attention_reference, theta=THETA))
    return [np.asarray(x) for x in reference(*map(jnp.asarray, made(case, narrow)))]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_close_to_the_reference(isa, case):
    close(cached_attention(*made(case), theta=THETA), expected(case))


def narrowed(args):
    *parts, keys, values = args
    return *parts, *(np.asarray(stored(jnp.asarray(x), jnp.int8)) for x in (keys, values))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_cache_in_int8(isa, case):
    want, exact = expected(case, narrow=True), expected(case)[0]
    found = cached_attention(*made(case, narrow=True), theta=THETA)
    y, keys, values = (np.asarray(x) for x in found)
    np.testing.assert_array_equal(values, want[2])
    # A rotated key may differ in its last bit: then a code by one, or a scale by a bit.
    assert np.mean(keys[..., :-4] != want[1][..., :-4]) < 0.01
    wide = (np.asarray(as_floats(jnp.asarray(x))) for x in (keys, want[1]))
    np.testing.assert_allclose(*wide, rtol=0, atol=0.05)
    np.testing.assert_allclose(y, want[0], rtol=0, atol=2e-3 * np.abs(want[0]).max())
    # What was quantized is near what was not.
    assert np.abs(y - exact).max() < 0.05 * np.abs(exact).max()


def test_a_row_of_an_int8_cache_that_is_no_number_is_seen(rng):
    args = list(narrowed(operands(rng, 1, 1, 4, 2, 16, 64, [5])))
    args[2][0, 0, 1, 3] = np.inf
    want = cached_attention_reference(*map(jnp.asarray, args), theta=THETA)[0]
    found = np.asarray(cached_attention(*args, theta=THETA)[0])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(want))
    assert np.isnan(found[0, 0, 2:]).all() and np.isfinite(found[0, 0, :2]).all()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("length", [1, 5, 140])
def test_without_a_cache(isa, rng, length):
    q = rng.standard_normal((2, length, 4, 32), np.float32)
    k, v = rng.standard_normal((2, 2, length, 2, 32), np.float32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (2, length))
    want = attention_reference(*map(jnp.asarray, (q, k, v, positions)))
    close([attention(q, k, v, positions, implementation="native")], [want])


@pytest.mark.parametrize("count", [1, 2])
def test_positions_that_start_again(rng, count):
    q = rng.standard_normal((1, 9, 4, 16), np.float32)
    k, v = rng.standard_normal((2, 1, 400, 4, 16), np.float32)
    positions = np.asarray([[300, 0, 1, 399, 2, 2**31 - 1, 130, 5, 4]], np.int32)
    want = attention_reference(*map(jnp.asarray, (q, k, v, positions)))
    with threads(count):
        close([attention(q, k, v, positions, implementation="native")], [want])


def test_what_does_not_fit_is_the_reference(rng):
    q, k, v = rng.standard_normal((3, 1, 3, 2, 8), np.float32)  # half of the kernels' lanes
    positions = np.arange(3, dtype=np.int32)[None]
    want = attention_reference(*map(jnp.asarray, (q, k, v, positions)))
    assert np.array_equal(attention(q, k, v, positions, implementation="auto"), want)


@pytest.mark.parametrize("form", [tuple, narrowed], ids=["float32", "int8"])
def test_the_same_bits_on_every_instruction_set(rng, monkeypatch, form):
    args = form(operands(rng, 2, 9, 6, 2, 16, 300, [120, 250]))
    found = []
    for isa in native.status().usable_isas:
        monkeypatch.setenv("BITNET_ISA", isa)
        jax.clear_caches()
        found.append([np.asarray(part) for part in cached_attention(*args, theta=THETA)])
    jax.clear_caches()
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("form", [tuple, narrowed], ids=["float32", "int8"])
def test_a_row_depends_on_no_neighbour_piece_capacity_or_thread(rng, form):
    """One row, its 33 tokens in pieces of every size, beside others, in a longer cache."""
    batch, length, capacity = 3, 33, 512
    args = operands(rng, batch, length, 4, 2, 32, capacity, [290, 120, 7])
    q, k, v, positions, keys, values = form(args)
    whole, *_ = cached_attention(q, k, v, positions, keys, values, theta=THETA)
    whole = np.asarray(whole)
    for count in (1, 2, 4):
        for piece in (1, 2, 7, 8, 33):
            with threads(count):
                cut = 384
                cache = keys[:1, :cut], values[:1, :cut]
                out = []
                for at in range(0, length, piece):
                    part = slice(at, at + piece)
                    y, *cache = cached_attention(
                        *(q[:1, part], k[:1, part], v[:1, part], positions[:1, part], *cache),
                        theta=THETA,
                    )
                    out.append(np.asarray(y))
            assert np.array_equal(np.concatenate(out, axis=1), whole[:1]), (count, piece)


def test_the_cache_holds_what_is_written_and_what_was_there(rng):
    q, k, v, positions, keys, values = operands(rng, 1, 4, 4, 2, 16, 32, [10])
    _, new_keys, new_values = cached_attention(q, k, v, positions, keys, values, theta=THETA)
    assert np.array_equal(np.asarray(new_values)[:, 10:14], v)
    for new, old in ((new_keys, keys), (new_values, values)):
        for rows in (slice(0, 10), slice(14, None)):
            assert np.array_equal(np.asarray(new)[:, rows], old[:, rows])
