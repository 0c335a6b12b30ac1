"""A KV cache held in int8: close to float32, the same bits however it is cut, refused where a
family reads its cache by itself."""

import jax
import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.models.cache import KVCache
from bitnet_jax.runtime.engine import Engine
from bitnet_jax.runtime.sampling import SamplingParams
from tests.suites.families import ROWS
from tests.tiny import tiny_spec

ROW = ROWS[0]
PROMPT = np.asarray([[7, 300, 12, 91, 4, 4, 250, 33]], np.int32)


def steps(engine, rows, capacity=64):
    """The logits of every position, one token at a time, and the cache."""
    cache = engine.new_cache(len(rows), capacity)
    run, found = engine.decode_executable(len(rows), capacity), []
    for at in range(rows.shape[1]):
        where, zero = np.full(len(rows), at, np.int32), np.zeros(len(rows), np.int32)
        logits, cache, _ = run(engine.packed, rows[:, at : at + 1], cache, where, zero)
        found.append(np.asarray(logits))
    return np.stack(found, axis=1), cache


def divergence(p, q):
    """Mean over tokens of the Kullback-Leibler divergence of the two distributions, nats."""
    log_p, log_q = (np.asarray(jax.nn.log_softmax(x.astype(np.float64))) for x in (p, q))
    return float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean())


@pytest.mark.sampled(2)
@pytest.mark.parametrize("implementation", [None, "xla"])
def test_close_to_a_cache_in_float32(implementation):
    exact = Engine(ROW.spec, ROW.packed(), implementation)
    narrow = Engine(ROW.spec, ROW.packed(), implementation, kv="int8")
    want, wide = steps(exact, PROMPT)
    found, cache = steps(narrow, PROMPT)
    assert 0 < divergence(want, found) < 1e-3
    assert cache.keys[0].dtype == np.int8
    width = ROW.spec.head_dim
    assert cache.keys[0].nbytes * 4 * width == wide.keys[0].nbytes * (width + 4)


def test_a_prompt_at_once_or_token_by_token():
    engine = Engine(ROW.spec, ROW.packed(), kv="int8")
    whole, _ = engine.prefill(PROMPT[0], 64)
    np.testing.assert_allclose(whole, steps(engine, PROMPT)[0][:, -1], atol=2e-3)
    said = list(engine.generate(PROMPT[0], SamplingParams(max_tokens=5)))
    assert said == list(engine.generate(PROMPT[0], SamplingParams(max_tokens=5)))


def test_an_unknown_kind_is_told():
    with pytest.raises(UsageError, match="cannot be held as 'int7'") as caught:
        Engine(ROW.spec, ROW.packed(), kv="int7")
    assert caught.value.code == "model.kv_kind" and "int8" in caught.value.hint


@pytest.mark.parametrize("row", [row for row in ROWS if row.plugin], ids=lambda row: row.name)
def test_a_plugin_that_leaves_its_cache_to_the_ops_may_and_another_is_told(row, tmp_path):
    with row.loaded(tmp_path) as family:
        if family.cache == KVCache.empty and _uses_the_ops(row):
            engine = Engine(row.spec, row.packed(), kv="int8")
            assert divergence(steps(row.engine(), PROMPT)[0], steps(engine, PROMPT)[0]) < 1e-2
            return
        with pytest.raises(UsageError, match="KV cache of") as caught:
            Engine(row.spec, row.packed(), kv="int8")
        assert caught.value.code == "model.kv_use"


def _uses_the_ops(row):
    return "cache_write" in row.plugin.read_text() if row.plugin != "page" else False


def test_floats_that_are_cast_to_the_caches_dtype_are_no_floats_any_more():
    from bitnet_jax.ops.cache_write import cache_write
    from bitnet_jax.passes.cache_uses import require_opaque_cache

    cache = jax.eval_shape(lambda: KVCache.empty(tiny_spec(), 1, 4, "int8"))
    new = jax.ShapeDtypeStruct((1, 1, *cache.keys[0].shape[2:]), np.float32)
    where = jax.ShapeDtypeStruct((1, 1), np.int32)

    def step(params, cache, new, where):
        keys = cache.keys[0]
        return cache_write(keys, new.astype(keys.dtype)[..., :-4], where)

    with pytest.raises(UsageError, match="writes int8 into the cache, not floats"):
        require_opaque_cache(step, {}, cache, new, where, cache=0, name="m")


def test_a_step_that_reads_the_cache_itself_is_found(tmp_path):
    from bitnet_jax.passes.cache_uses import require_opaque_cache

    spec = tiny_spec()
    cache = jax.eval_shape(lambda: KVCache.empty(spec, 1, 4))

    def step(params, cache, x):
        return x + cache.keys[1].sum() * params["w"]

    w = {"w": jax.ShapeDtypeStruct((), np.float32)}
    with pytest.raises(UsageError, match=r"reads the cache by itself \(.*test_kv.py:\d+ \(step\)"):
        require_opaque_cache(
            step, w, cache, jax.ShapeDtypeStruct((), np.float32), cache=0, name="m"
        )
    require_opaque_cache(
        lambda params, cache, x: (x * params["w"], cache),
        *(w, cache, jax.ShapeDtypeStruct((), np.float32)), cache=0, name="m",
    )  # fmt: skip
