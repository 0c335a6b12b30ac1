"""A program run equation by equation: what the engine computes, no more held than is needed."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.formats.checkpoint import Source, checkpoint_of
from bitnet_jax.formats.create import create
from bitnet_jax.models.families import fresh_params
from bitnet_jax.quant.ternary import from_trits, ternarize
from bitnet_jax.runtime import stepwise
from bitnet_jax.runtime.model import Model
from bitnet_jax.runtime.stepwise import Stepwise, form_of, narrow_floats
from tests.tiny import tiny_spec

TOKENS = np.random.default_rng(0).integers(0, 48, (1, 16), np.int32)


def made(**changes):
    """A checkpoint of fresh weights, in memory."""
    spec = tiny_spec(**changes)
    params = {}
    for name, value in fresh_params(spec, 0).items():
        value = np.asarray(value)
        ternary = name.endswith("_proj")
        params[name] = from_trits(*ternarize(value)) if ternary else value.astype(jnp.bfloat16)
    return checkpoint_of(spec, params, None, Source("m", "memory", "packed"))


def forms(checkpoint):
    return {name: form_of(value) for name, value in checkpoint.tensors()}


def run(checkpoint, tokens=TOKENS, narrow=None):
    found = forms(checkpoint)
    return Stepwise(checkpoint, found, narrow_floats(found) if narrow is None else narrow, tokens)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("piece", [1 << 30, 1 << 10], ids=["whole tables", "in pieces"])
def test_as_the_engine(tied, piece, monkeypatch):
    monkeypatch.setattr(stepwise, "PIECE_BYTES", piece)
    checkpoint = made(tie_embeddings=tied)
    step = run(checkpoint)
    assert bool(step._in_pieces) == (piece < 1 << 30)
    check_as_the_engine(step.run(), checkpoint, TOKENS)


def check_as_the_engine(logits, checkpoint, tokens):
    """XLA contracts the products of a rotary embedding by what else it compiles with them: a last
    bit. All else is the same, so no code flips on so few tokens."""
    reference = Model(checkpoint).logits(tokens)
    assert np.abs(logits - reference).max() <= 2e-7 * np.abs(reference).max()


def test_floats_that_are_widened_give_the_same():
    checkpoint = made()
    assert np.array_equal(run(checkpoint, narrow=frozenset()).run(), run(checkpoint).run())


def test_a_parameter_is_read_once_and_let_go(monkeypatch):
    checkpoint, reads, most = made(num_layers=4), [], 0

    def counted(name):
        reads.append(name)
        return checkpoint.entries[name].read()

    monkeypatch.setattr(type(checkpoint), "read", lambda self, name: counted(name))
    step = run(checkpoint)
    reads.clear()
    for eqn in step.equations:
        operands = step.operands(eqn)
        held = sum(var in step._values for var in step._leaves)
        most = max(most, held)
        step.put(eqn, stepwise.apply(eqn, operands))
    assert sorted(reads) == sorted(checkpoint.entries)
    assert most < len(step._leaves) / 3  # the tied table, and one operation's
    assert set(step._values) == set(step.program.jaxpr.jaxpr.outvars)


def test_a_tensor_that_changed_its_form_between_two_reads_is_told():
    checkpoint = made()
    found = forms(checkpoint)
    name = "layers.0.mlp.up_proj"
    found[name] = replace(found[name], scale_dtype="float16")
    step = Stepwise(checkpoint, found, frozenset(), TOKENS)
    with pytest.raises(Exception, match=r"read twice in two forms"):
        step.run()


def test_the_names_of_what_an_operation_multiplies():
    step = run(made())
    named = [step.parameters_of(eqn) for eqn in step.equations]
    assert ["layers.0.input_layernorm", *(f"layers.0.self_attn.{x}_proj" for x in "qkv")] in named
    assert named[-1] == ["embed_tokens"]


@pytest.mark.heavy
def test_a_real_shape_by_its_own_vocabulary():
    checkpoint = create("bitnet-2b-4t", layers=1)
    tokens = np.random.default_rng(1).integers(0, checkpoint.spec.vocab_size, (1, 5), np.int32)
    check_as_the_engine(run(checkpoint, tokens).run(), checkpoint, tokens)
