"""The laws that every family keeps, over every row of the table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import CannotCreate
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import FORMATS, save_checkpoint
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.names import expected, from_huggingface, to_huggingface
from bitnet_jax.passes.transform import ternarize
from bitnet_jax.quant.digest import digest
from bitnet_jax.runtime.sampling import SamplingParams
from bitnet_jax.workflows.parity import compare_logits
from bitnet_jax.workflows.receipt import live_digest
from tests.suites.families import EACH_KIND, EVERY_ROW, ROWS

# Every form that a ternary model is written in. (`float` is for models that are not; the blocks
# of GGUF are wider than these models are: tests/formats/test_gguf.py has them.)
ENCODINGS = [
    (name, encoding)
    for name, row in FORMATS.items()
    for encoding in (("f32", "f16") if name == "gguf" else row.encodings)
    if encoding != "float" and not row.lowered
]


def has_no_gguf(row, family) -> str | None:
    """What of the error says why a model cannot be a GGUF file; None where it can."""
    if family.gguf is None:
        return "is not one that is written in GGUF"
    return family.gguf.refuses(row.spec)


@pytest.fixture
def family(row, tmp_path):
    with row.loaded(tmp_path) as family:
        yield family


def test_the_names_of_the_rows_tell_them_apart():
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.heavy
@EVERY_ROW
def test_init_gives_the_names_and_shapes_of_the_table(row, family):
    found = {name: value.shape for name, value in row.params().items()}
    assert found == {name: item.shape for name, item in expected(row.spec).items()}
    assert digest(row.packed().ternary()) == live_digest(row.params(), row.spec)


@EACH_KIND
def test_another_seed_gives_other_parameters(row, family):
    again, other = family.init(row.spec, 1), family.init(row.spec, 2)
    matrices = [name for name, item in expected(row.spec).items() if item.ternary]
    for name in matrices:
        np.testing.assert_array_equal(row.params()[name], again[name])
        assert (np.asarray(other[name]) != np.asarray(again[name])).any()


@EVERY_ROW
def test_every_name_goes_to_hugging_face_and_back(row, family):
    items = expected(row.spec).values()
    theirs = [item.huggingface for item in items if not (item.rows and item.rows[0])]
    assert len(set(theirs)) == len(theirs)
    for item in items:
        assert to_huggingface(family.name, item.name) == item.huggingface
        back = from_huggingface(family.name, item.huggingface)
        if item.rows is None:
            assert back == item.name
        else:  # the first of the parts
            parts = [other for other in items if other.huggingface == item.huggingface]
            assert back == parts[0].name
            assert [part.rows[0] for part in parts[1:]] == [part.rows[1] for part in parts[:-1]]
            assert parts[-1].rows[1] == item.file_shape[0]


@EVERY_ROW
def test_a_spec_goes_through_json_and_back(row, family):
    again = ModelSpec.from_json(row.spec.to_json())
    assert again == row.spec and hash(again) == hash(row.spec)
    assert ("extra" in row.spec.to_json()) == bool(family.extra)


@pytest.mark.sampled(3)
@EACH_KIND
def test_step_by_step_through_the_cache_equals_the_whole_sequence(row, family):
    tokens = jnp.asarray(row.tokens(2, 9))
    whole = jax.jit(family.forward(row.spec))(row.params(), tokens)
    step = jax.jit(family.step(row.spec))
    cache = family.cache(row.spec, 2, 16)
    # Rows of unlike length, the shorter padded: what it is padded with must not be seen.
    first, last = tokens[:, :5], jnp.asarray([4, 2])
    logits, cache = step(row.params(), first.at[1, 3:].set(0), cache, jnp.zeros(2, int), last)
    for _ in range(4):
        for index in range(2):
            place = int(last[index])
            # The float attention adds the cache's empty places too, in another order.
            want = whole[index, place]
            atol = 2e-6 * max(1, float(np.abs(want).max()))
            np.testing.assert_allclose(logits[index], want, atol=atol)
        last = last + 1
        one = jnp.take_along_axis(tokens, last[:, None], axis=1)
        logits, cache = step(row.params(), one, cache, last, jnp.zeros(2, int))


@pytest.mark.sampled(3)
@EVERY_ROW
def test_the_packed_model_computes_what_training_computed(row, family):
    # Rule (b) of the parity rules (docs/decisions/0002) is measured on rows of 2 tokens: the
    # products are equal to the bit, but the float parts are three compilations, and a last bit
    # there may flip a code, which reaches every later token of its row.
    tokens = jnp.asarray(row.tokens(12, 2))
    qat = jax.jit(ternarize(family.forward(row.spec), family.rules, "qat"))
    run = jax.jit(ternarize(family.forward(row.spec), family.rules, "packed"))
    want, found = qat(row.params(), tokens), run(row.packed(), tokens)
    assert compare_logits(want, found).holds
    assert compare_logits(want, row.engine().logits(tokens)).holds


@pytest.mark.sampled(3)
@EACH_KIND
def test_training_moves_every_parameter(row, family):
    tokens = jnp.asarray(row.tokens())
    qat = ternarize(family.forward(row.spec), family.rules, "qat")

    def loss(params):
        logits = qat(params, tokens[:, :-1], lam=1.0)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1).mean()

    # Away from the start, where zero biases and ones make some gradients vanish.
    keys = jax.random.split(jax.random.key(3), len(row.params()))
    params = {
        name: value + 0.05 * jax.random.normal(key, value.shape)
        for key, (name, value) in zip(keys, row.params().items(), strict=True)
    }
    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, name


@pytest.mark.sampled(3)
@EACH_KIND
def test_generation_takes_the_likeliest_token_of_the_whole_sequence(row, family):
    engine = row.engine()
    prompt = row.tokens(1, 5)[0]
    made = list(engine.generate(prompt, SamplingParams(max_tokens=6)))
    whole = engine.logits(np.concatenate([prompt, made[:-1]])[None])[0]
    assert made == whole[len(prompt) - 1 :].argmax(-1).tolist()


@pytest.mark.sampled(3)
@EACH_KIND
def test_the_context_can_be_filled_to_its_last_position(row, family):
    engine = row.engine()
    length = row.spec.max_positions
    ids = row.tokens(1, length)
    assert np.isfinite(engine.logits(ids)).all()
    assert len(list(engine.generate(ids[0, :-2], SamplingParams(max_tokens=9)))) == 2


def refusal(row, family, format, encoding):
    """What a row cannot be written as, in the words of the error; None where it can."""
    if format == "gguf":
        return has_no_gguf(row, family)
    items = list(expected(row.spec).values())
    uneven = any(item.file_shape[0] % 4 for item in items if item.ternary)
    biased = any(name.name.endswith("_proj.bias") for name in items)
    if encoding == "dequantized" and row.spec.extra.get("linear_norms"):
        return "cannot say extra"  # plain floats have no quantization_config
    if encoding == "dequantized":
        return "quantizes what it loads" if family.huggingface.masters else None
    if any(item.rows for item in items) and format in ("huggingface", "safetensors"):
        return "one matrix"
    if encoding == "autobitlinear" and biased:
        return "multiplies that by the scale"
    return "no multiple of 4" if uneven and encoding in ("autobitlinear", "bitlinear") else None


@pytest.mark.sampled(4)
@EVERY_ROW
@pytest.mark.parametrize(("format", "encoding"), ENCODINGS, ids="-".join)
def test_every_format_holds_the_same_model(row, family, format, encoding, tmp_path):
    model = row.checkpoint()
    refused = refusal(row, family, format, encoding)
    if refused:
        with pytest.raises(CannotCreate, match=refused):
            save_checkpoint(model, tmp_path / "out", format=format, encoding=encoding)
        return
    save_checkpoint(model, tmp_path / "out", format=format, encoding=encoding)
    again = open_checkpoint(tmp_path / "out")
    assert again.spec == row.spec
    assert again.digest() == model.digest()
    for name, entry in model.entries.items():
        assert again.entries[name].shape == entry.shape
        if entry.ternary:  # the digest holds the matrix as [out, in]; here it may be [in, out]
            assert again.read(name).in_axes == entry.read().in_axes
        else:
            np.testing.assert_array_equal(again.read(name), entry.read())
    if encoding == "latent":
        for name, value in again.latent().items():
            np.testing.assert_array_equal(value, row.params()[name])


@EVERY_ROW
def test_there_and_back_gives_the_same_bytes(row, family, tmp_path):
    first, there, back = (tmp_path / name for name in ("a.bitnet", "b.hf", "c.bitnet"))
    save_checkpoint(row.checkpoint(), first)
    fused = any(item.rows for item in expected(row.spec).values())
    encoding = "dequantized" if fused else "packed"
    save_checkpoint(open_checkpoint(first), there, format="huggingface", encoding=encoding)
    save_checkpoint(open_checkpoint(there), back)
    assert open_checkpoint(back).digest() == open_checkpoint(first).digest()
    again = tmp_path / "d.bitnet"
    save_checkpoint(open_checkpoint(back), again)
    assert again.read_bytes() == back.read_bytes()


@EVERY_ROW
def test_the_doctor_finds_nothing_in_a_file_of_it(row, family, tmp_path):
    save_checkpoint(row.checkpoint(), tmp_path / "m.bitnet")
    findings = bj.validate(tmp_path / "m.bitnet")["findings"]
    assert not [finding for finding in findings if finding["severity"] == "error"]
    record = bj.inspect(tmp_path / "m.bitnet")
    assert record["architecture"]["family"] == family.name
    engines = {engine["engine"]: engine["how"] for engine in record["runs_in"]}
    assert engines["bitnet-jax"] == "exactly"


@pytest.mark.sampled(3)
@EACH_KIND
def test_text_goes_in_and_comes_out(row, family, tmp_path):
    save_checkpoint(row.checkpoint(), tmp_path / "m.bitnet")
    model = bj.load(tmp_path / "m.bitnet")
    np.testing.assert_array_equal(model.logits(row.tokens()), row.engine().logits(row.tokens()))
    made = model.generate("the ", max_tokens=5)
    assert 1 <= len(made.tokens) <= 5 and made.kernel != "none"
