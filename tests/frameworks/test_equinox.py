"""Equinox: modules as their users write them, and their twins written by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bitnet_jax as bj
from tests.frameworks.laws import ALL, compiled, holds, normal, refused, same_values
from tests.passes.handwritten import qeinsum

# Minutes of compiling; of the frameworks, plain JAX, NNX and Haiku run on each change.
pytestmark = pytest.mark.heavy

KEY = jax.random.key(0)
X = normal(4, 8)
SEQUENCES = normal(2, 5, 8)


def split(module, call=lambda module, x: jax.vmap(module)(x)):
    """``fn(params, *args)`` of a module, and its parameters."""
    params, static = eqx.partition(module, eqx.is_inexact_array)
    return (lambda params, *args: call(eqx.combine(params, static), *args)), params


def linear(layer, x):
    """An `eqx.nn.Linear` by hand: the weight is [out, in], the layer sees one vector."""
    return qeinsum("ti,oi->to", x, layer.weight) + layer.bias


def mlp(params, x):
    *hidden, last = params.layers
    for layer in hidden:
        x = jax.nn.relu(linear(layer, x))
    return linear(last, x)


def make_mlp(key=KEY):
    return eqx.nn.MLP(8, 8, 16, 1, key=key)


WEIGHTS = ["layers.0.weight", "layers.1.weight"]


def plain(module, x):
    return jax.vmap(module)(x)


def filter_jitted(module, x):
    return eqx.filter_jit(plain)(module, x)


def checkpointed(module, x):
    return eqx.filter_checkpoint(plain)(module, x)


def closure_converted(module, x):
    return eqx.filter_closure_convert(lambda x: plain(module, x), x)(x)


def checked(module, x):
    return plain(module, eqx.error_if(x, jnp.any(x > 1e9), "too large"))


@pytest.mark.parametrize(
    "call",
    [plain, filter_jitted, checkpointed, closure_converted, checked],
    ids=lambda f: f.__name__,
)
def test_an_mlp_equals_its_twin(call):
    fn, params = split(make_mlp(), call)
    holds(fn, params, ALL, X, ternary=WEIGHTS, twin=mlp)


class Deep(eqx.Module):
    """MLPs stacked by `filter_vmap`, run by a scan over their arrays."""

    layers: eqx.nn.MLP

    def __init__(self, key):
        self.layers = eqx.filter_vmap(make_mlp)(jax.random.split(key, 3))

    def scan(self, step, x, arrays):
        return lax.scan(step, x, arrays)[0]

    def __call__(self, x):
        arrays, static = eqx.partition(self.layers, eqx.is_array)

        def step(x, arrays):
            return x + eqx.combine(arrays, static)(x), None

        return self.scan(step, x, arrays)


class DeepCheckpointed(Deep):
    def scan(self, step, x, arrays):
        return eqx.internal.scan(step, x, arrays, kind="checkpointed", checkpoints=2)[0]


def test_stacked_layers_in_a_scan_equal_their_twin():
    def twin(params, x):
        return lax.scan(lambda x, layer: (x + mlp(layer, x), None), x, params.layers)[0]

    fn, params = split(Deep(KEY))
    names = [f"layers.{name}" for name in WEIGHTS]
    holds(fn, params, ALL, X, ternary=names, twin=twin)
    quant = bj.pack(fn, params, ALL, X).ternary()
    assert {q.scale.shape for q in quant.values()} == {(3,)}


def test_an_ensemble_by_filter_vmap_equals_its_twin():
    def call(members, x):
        axes = eqx.if_array(0)
        return eqx.filter_vmap(lambda m, x: jax.vmap(m)(x), in_axes=(axes, None))(members, x)

    fn, params = split(eqx.filter_vmap(make_mlp)(jax.random.split(KEY, 3)), call)
    rules = [bj.Rule("**", stack=(0,))]  # a batch of weights alone are outputs to the dot
    holds(fn, params, rules, X, ternary=WEIGHTS, twin=jax.vmap(mlp, in_axes=(0, None)))


def test_a_checkpointed_scan_is_quantized_and_its_backward_is_its_own():
    """It runs the body again on the weights that it saved, which are float."""
    fn, params = split(DeepCheckpointed(KEY))
    names = [f"layers.{name}" for name in WEIGHTS]
    holds(fn, params, ALL, X, ternary=names)
    usual, same = split(Deep(KEY))
    qats = bj.ternarize(fn, ALL), bj.ternarize(usual, ALL)
    same_values(compiled(qats[0])(params, X), compiled(qats[1])(same, X))


def test_attention_with_rotary_positions():
    rotary = eqx.nn.RotaryPositionalEmbedding(4)

    def turn(q, k, v):
        turned = jax.vmap(rotary, in_axes=1, out_axes=1)
        return turned(q), turned(k), v

    def call(module, x):
        return jax.vmap(lambda x: module(x, x, x, process_heads=turn))(x)

    fn, params = split(eqx.nn.MultiheadAttention(2, 8, key=KEY), call)
    names = [f"{name}_proj.weight" for name in ("key", "output", "query", "value")]
    holds(fn, params, ALL, SEQUENCES, ternary=names)


class Recurrent(eqx.Module):
    cell: eqx.nn.LSTMCell

    def __call__(self, xs):
        zeros = jnp.zeros(6), jnp.zeros(6)
        return lax.scan(lambda state, x: (self.cell(x, state), None), zeros, xs)[0]


def test_a_recurrence():
    fn, params = split(Recurrent(eqx.nn.LSTMCell(8, 6, key=KEY)))
    holds(fn, params, ALL, SEQUENCES, ternary=["cell.weight_hh", "cell.weight_ih"])


class Tied(eqx.Module):
    shared: eqx.nn.Shared

    def __init__(self, key):
        pair = eqx.nn.Embedding(16, 8, key=key), eqx.nn.Linear(8, 16, key=key)
        self.shared = eqx.nn.Shared(pair, lambda pair: pair[1].weight, lambda pair: pair[0].weight)

    def __call__(self, token):
        embedding, output = self.shared()
        return output(embedding(token))


def test_a_shared_embedding_is_one_parameter():
    def twin(params, tokens):
        embedding, output = params.shared.pytree
        return qeinsum("ti,oi->to", embedding.weight[tokens], embedding.weight) + output.bias

    fn, params = split(Tied(KEY))
    tokens = jnp.arange(5)
    holds(fn, params, ALL, tokens, ternary=["shared.pytree.0.weight"], twin=twin)


class Stateful(eqx.Module):
    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        self.linear = eqx.nn.Linear(8, 8, key=key)
        self.norm = eqx.nn.BatchNorm(8, axis_name="batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, state, key):
        x, state = self.norm(self.linear(x), state)
        return self.dropout(x, key=key), state


def test_batch_statistics_are_carried_as_state():
    module, state = eqx.nn.make_with_state(Stateful)(KEY)

    def call(module, state, x, keys):
        axes = (0, None, 0)
        run = jax.vmap(module, axis_name="batch", in_axes=axes, out_axes=(0, None))
        return run(x, state, keys)

    fn, params = split(module, call)
    keys = jax.random.split(KEY, 4)
    holds(fn, params, ALL, state, X, keys, ternary=["linear.weight"])


def test_a_filtered_custom_vjp_keeps_its_own_backward():
    @eqx.filter_custom_vjp
    def clipped(given):
        module, x = given
        return jax.vmap(module)(x)

    @clipped.def_fwd
    def forward(perturbed, given):
        return eqx.filter_vjp(lambda given: jax.vmap(given[0])(given[1]), given)

    @clipped.def_bwd
    def backward(pull, cotangent, perturbed, given):
        return pull(jnp.sign(cotangent))[0]

    fn, params = split(eqx.nn.Linear(8, 8, key=KEY), lambda module, x: clipped((module, x)))
    holds(fn, params, ALL, X, ternary=["weight"])
    grad = jax.grad(lambda p: bj.ternarize(fn, ALL)(p, X).sum())(params)
    np.testing.assert_allclose(grad.bias, 4.0)


def test_a_bounded_loop_follows_its_weight():
    def call(module, x):
        def body(carried):
            step, x = carried
            return step + 1, jnp.tanh(module(x))

        def run(x):
            loop = eqx.internal.while_loop
            return loop(lambda c: c[0] < 3, body, (0, x), max_steps=4, kind="bounded")[1]

        return jax.vmap(run)(x)

    def twin(params, x):
        for _ in range(3):
            x = jnp.tanh(linear(params, x))
        return x

    fn, params = split(eqx.nn.Linear(8, 8, key=KEY), call)
    holds(fn, params, ALL, X, ternary=["weight"], twin=twin)


def test_a_reparametrized_weight_is_refused_at_the_users_own_line():
    fn, params = split(eqx.nn.WeightNorm(eqx.nn.Linear(8, 8, key=KEY)))
    said = refused(fn, params, ALL, X)
    assert "`layer.weight` cannot be quantized" in said and "test_equinox.py" in said


def test_a_gradient_with_respect_to_inputs_is_taken_of_the_ternary_function():
    fn, params = split(eqx.nn.MLP(8, "scalar", 16, 1, key=KEY))
    inside, _ = split(
        eqx.nn.MLP(8, "scalar", 16, 1, key=KEY), lambda m, x: jax.vmap(jax.grad(m))(x)
    )
    said = refused(inside, params, ALL, X, code="transform.derivative_inside")
    assert "jax.grad(bj.ternarize(net, rules))" in said
    grad = jax.grad(lambda x: bj.ternarize(fn, ALL)(params, x).sum())(X)
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0
