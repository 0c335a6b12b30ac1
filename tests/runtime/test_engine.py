"""The engine against the plain forward: every bucket boundary, nothing compiled twice."""

import jax
import numpy as np
import pytest

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.models.families import family_of
from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.transform import ternarize
from bitnet_jax.runtime.engine import Engine, Timing
from bitnet_jax.runtime.sampling import SamplingParams
from bitnet_jax.workflows.parity import compare_logits
from tests.tiny import tiny_spec

SPEC = tiny_spec(
    vocab_size=64, max_positions=600
)  # no power of two, and more than the longest piece of a prompt


@pytest.fixture(scope="module")
def params():
    return family_of("bitnet").init(SPEC, 0)


@pytest.fixture(scope="module")
def engine(params):
    family = family_of("bitnet")
    packed = pack(family.forward(SPEC), params, family.rules, np.zeros((1, 2), np.int32))
    return Engine(SPEC, packed)


def tokens(length, seed=0):
    return np.random.default_rng(seed).integers(0, 64, length).astype(np.int32)


def test_logits_equal_the_training_forward(engine, params):
    family = family_of("bitnet")
    ids = tokens(40).reshape(2, 20)
    want = jax.jit(ternarize(family.forward(SPEC), family.rules))(params, ids)
    # by the parity rules: one flipped code shows from its token on (docs/decisions/0002)
    assert compare_logits(want, engine.logits(ids)).holds


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint32])
def test_any_integer_dtype(engine, dtype):
    ids = tokens(10).reshape(1, 10)
    np.testing.assert_array_equal(engine.logits(ids.astype(dtype)), engine.logits(ids))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("length", [1, 15, 16, 17, 64, 65, 256, 257, 512, 513, 590, 599])
def test_prefill_and_decode_equal_the_whole_sequence_at_every_boundary(engine, length):
    ids = tokens(length)
    budget = min(4, SPEC.max_positions - length)
    made = list(engine.generate(ids, SamplingParams(max_tokens=budget)))
    whole = engine.logits(np.concatenate([ids, np.asarray(made[:-1], int)])[None])[0]
    assert made == whole[length - 1 :].argmax(-1).tolist()


def test_the_context_ends_the_generation(engine):
    made = list(engine.generate(tokens(596), SamplingParams(max_tokens=50)))
    assert len(made) == 4
    with pytest.raises(UsageError, match="fill the context"):
        next(engine.generate(tokens(600), SamplingParams()))
    with pytest.raises(UsageError, match="601 tokens"):
        next(engine.generate(tokens(601), SamplingParams()))


def test_no_prompt_compiles_anew_within_its_bucket(engine):
    for length in (20, 40, 60):
        list(engine.generate(tokens(length), SamplingParams(max_tokens=3)))
    before = dict(engine._compiled)
    for length in range(17, 64, 5):
        list(engine.generate(tokens(length), SamplingParams(max_tokens=2 + length % 3)))
    assert engine._compiled.keys() == before.keys()


def test_jax_compiles_nothing_for_a_prompt_of_a_known_bucket(engine, caplog):
    list(engine.generate(tokens(20), SamplingParams(max_tokens=3)))
    with caplog.at_level("WARNING"), jax.log_compiles(True):
        list(engine.generate(tokens(41), SamplingParams(max_tokens=3)))
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("length", [1, 16, 65, 599])
def test_warm_up_compiles_all_that_a_generation_needs(params, engine, length):
    fresh = Engine(SPEC, engine.packed)
    fresh.warm_up(length, SamplingParams(max_tokens=3))
    before = set(fresh._compiled)
    list(fresh.generate(tokens(length), SamplingParams(max_tokens=min(3, 600 - length))))
    assert set(fresh._compiled) == before


def test_a_model_that_gives_no_numbers_gives_no_text(params, engine):
    broken = dict(engine.packed.leaves) | {"norm": np.full(32, np.nan, np.float32)}
    model = Engine(SPEC, type(engine.packed)(broken, engine.packed.names, engine.packed.tree))
    with pytest.raises(BadData, match="NaN or infinite"):
        next(model.generate(tokens(8), SamplingParams()))


def test_equal_seeds_give_equal_tokens_and_others_do_not(engine):
    def run(seed):
        params = SamplingParams(temperature=1.0, seed=seed, max_tokens=24)
        return list(engine.generate(tokens(8), params))

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_timing_counts_what_it_timed(engine):
    timing = Timing()
    list(engine.generate(tokens(9), SamplingParams(max_tokens=5), timing))
    assert (timing.prompt_tokens, timing.decode_tokens) == (9, 4)
    assert timing.prefill_seconds > 0 and timing.decode_tokens_per_second > 0


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (np.zeros((2, 0), int), UsageError, "not integers"),
        (np.zeros(3, int), UsageError, "not integers"),
        (np.zeros((1, 3)), UsageError, "float64"),
        (np.array([[1, 64]]), BadData, "token 64 is outside the vocabulary of 64"),
        (np.array([[1, -1]]), BadData, "token -1"),
        (np.zeros((1, 601), int), UsageError, "context is 600"),
    ],
)
def test_bad_tokens_are_refused(engine, wrong, error, says):
    with pytest.raises(error, match=says):
        engine.logits(wrong)


def test_the_receipt_is_read_off_the_executable(engine):
    receipt = engine.receipt()
    packed = engine.packed.ternary().values()
    assert receipt.weight_bytes == sum(tensor.nbytes for tensor in packed)
    assert receipt.kernel.startswith("native")
    # q, k and v; o; gate and up; down
    assert receipt.kernel_calls == 4 * SPEC.num_layers
    assert len(receipt.hlo_sha256) == 64


def test_a_named_implementation_runs_or_raises(engine):
    by_xla = Engine(SPEC, engine.packed, "xla")
    ids = tokens(12)[None]
    assert compare_logits(engine.logits(ids), by_xla.logits(ids)).holds
    assert by_xla.receipt().kernel == "xla"
    assert by_xla.receipt().kernel_calls == 0
    with pytest.raises(UsageError, match="no implementation `cuda`"):
        Engine(SPEC, engine.packed, "cuda").logits(ids)
