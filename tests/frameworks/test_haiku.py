"""Haiku: functions as their users write them, and their twins written by hand."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitnet_jax as bj
from tests.frameworks.laws import ALL, compiled, filled, holds, normal, refused
from tests.passes.handwritten import qeinsum

# `make test` runs the page of this framework or model (tests/docs).
pytestmark = pytest.mark.heavy

KEY = jax.random.key(0)
X = normal(4, 8)
TIME_MAJOR = normal(5, 2, 8)


def function_of(f, *args, rng=None):
    """``fn(params, state, *args)`` of a Haiku function, its parameters and state."""
    model = hk.transform_with_state(f)
    params, state = jax.eval_shape(model.init, KEY, *args)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    return (
        (lambda params, state, *args: model.apply(params, state, rng, *args)),
        filled(params),
        state,
    )


def linear(x, p):
    return qeinsum("ti,io->to", x, p["w"]) + p["b"]


def mlp(x):
    return hk.nets.MLP([16, 8])(x)


def remat(x):
    return hk.remat(hk.nets.MLP([16, 8], name="mlp"))(x)


def vmapped(x):
    return hk.vmap(hk.nets.MLP([16, 8], name="mlp"), split_rng=False)(x)


@pytest.mark.parametrize("f", [mlp, remat, vmapped], ids=lambda f: f.__name__)
def test_an_mlp_equals_its_twin(f):
    def twin(params, state, x):
        x = jax.nn.relu(linear(x, params["mlp/~/linear_0"]))
        return linear(x, params["mlp/~/linear_1"]), state

    names = ["mlp/~/linear_0.w", "mlp/~/linear_1.w"]
    fn, params, state = function_of(f, X)
    holds(fn, params, ALL, state, X, ternary=names, twin=twin)


def residual(x):
    return x + hk.Linear(8)(jax.nn.relu(hk.Linear(16)(x)))


def layers(x):
    return hk.layer_stack(4)(residual)(x)


def layers_rematerialized_two_at_once(x):
    return hk.layer_stack(4, unroll=2)(hk.remat(residual))(x)


@pytest.mark.parametrize("f", [layers, layers_rematerialized_two_at_once], ids=lambda f: f.__name__)
def test_a_layer_stack_equals_its_twin_with_a_scale_per_layer(f):
    fn, params, state = function_of(f, X)
    last, first = sorted(params)  # Python makes the outer layer first

    def twin(params, state, x):
        def step(x, p):
            return x + linear(jax.nn.relu(linear(x, p[first])), p[last]), None

        return jax.lax.scan(step, x, params)[0], state

    holds(fn, params, ALL, state, X, ternary=[f"{first}.w", f"{last}.w"], twin=twin)
    quant = bj.pack(fn, params, ALL, state, X).ternary()
    assert {q.scale.shape for q in quant.values()} == {(4,)}


def test_attention_by_path():
    def f(x):
        init = hk.initializers.VarianceScaling(1.0)
        return hk.MultiHeadAttention(2, 4, w_init=init)(x, x, x)

    x = normal(2, 5, 8)
    fn, params, state = function_of(f, x)
    names = [f"multi_head_attention/{n}.w" for n in ("key", "linear", "query", "value")]
    holds(fn, params, ALL, state, x, ternary=names)
    rules = [bj.Rule("*/linear.w", to="keep"), *ALL]
    packed = bj.pack(fn, params, rules, state, x)
    assert sorted(packed.ternary()) == [n for n in names if "linear" not in n]


def test_batch_statistics_go_out_as_state_and_a_scale_of_one_row_is_no_matrix():
    def f(x):
        x = hk.BatchNorm(True, True, 0.9)(hk.Linear(8)(x), is_training=True)
        return hk.Linear(4)(jax.nn.relu(x))

    fn, params, state = function_of(f, X)
    assert params["batch_norm"]["scale"].shape == (1, 8)
    holds(fn, params, [bj.Rule("**")], state, X, ternary=["linear.w", "linear_1.w"])
    _, after = compiled(bj.ternarize(fn, ALL))(params, state, X)
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), state, after)
    assert all(jax.tree.leaves(changed))


def test_dropout_takes_its_key_from_the_arguments():
    def f(x):
        return hk.nets.MLP([16, 8])(x, dropout_rate=0.5, rng=hk.next_rng_key())

    model = hk.transform(f)
    params = filled(jax.eval_shape(model.init, KEY, X))
    packed = holds(model.apply, params, ALL, KEY, X)
    assert packed == ["mlp/~/linear_0.w", "mlp/~/linear_1.w"]


CELLS = {"LSTM": 1, "GRU": 2, "VanillaRNN": 2}


@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrence_by_dynamic_unroll(cell):
    def f(x):
        core = getattr(hk, cell)(6)
        return hk.dynamic_unroll(core, x, core.initial_state(2))[0]

    fn, params, state = function_of(f, TIME_MAJOR)
    assert len(holds(fn, params, ALL, state, TIME_MAJOR)) == CELLS[cell]


def test_lifted_control_flow_shares_its_layer():
    def f(x):
        layer, other = hk.Linear(8, name="layer"), hk.Linear(8, name="other")
        if hk.running_init():
            return layer(x) + other(x)
        x = hk.scan(lambda x, _: (jnp.tanh(layer(x)), None), x, None, length=2)[0]
        x = hk.fori_loop(0, 2, lambda _, x: jnp.tanh(layer(x)), x)
        return hk.cond(x.sum() > 1e6, layer, other, x)

    def twin(params, state, x):
        for _ in range(4):
            x = jnp.tanh(linear(x, params["layer"]))
        return linear(x, params["other"]), state

    fn, params, state = function_of(f, X)
    holds(fn, params, ALL, state, X, ternary=["layer.w", "other.w"], twin=twin)


def test_a_tied_embedding_and_a_bare_parameter():
    def f(tokens):
        embed = hk.Embed(16, 8)
        w = hk.get_parameter("w", (8, 8), init=jnp.zeros)
        return jnp.dot(embed(tokens), w) @ embed.embeddings.T

    def twin(params, state, tokens):
        table = params["embed"]["embeddings"]
        x = qeinsum("ti,io->to", table[tokens], params["~"]["w"])
        return qeinsum("ti,oi->to", x, table), state

    tokens = jnp.arange(5)
    fn, params, state = function_of(f, tokens)
    holds(fn, params, ALL, state, tokens, ternary=["embed.embeddings", "~.w"], twin=twin)


def test_a_cast_by_a_getter_is_followed():
    def f(x):
        def cast(next_getter, value, context):
            return next_getter(value.astype(jnp.bfloat16))

        with hk.custom_getter(cast):
            return hk.Linear(4)(x.astype(jnp.bfloat16))

    fn, params, state = function_of(f, X)
    holds(fn, params, ALL, state, X, ternary=["linear.w"])


def test_a_network_of_convolutions_keeps_them_by_one_rule():
    def f(x):
        return hk.Linear(4)(hk.Conv2D(8, 3)(x).mean((1, 2)))

    images = normal(1, 5, 5, 3)
    fn, params, state = function_of(f, images)
    with pytest.warns(bj.KeptFloatWarning, match=r"`conv2_d.w` \(first at .*test_haiku.py"):
        bj.pack(fn, params, ALL, state, images)
    rules = [bj.Rule("**conv2_d*.**", use="*", to="keep"), *ALL]
    holds(fn, params, rules, state, images, ternary=["linear.w"])


def test_a_normed_weight_is_refused_at_the_users_own_line():
    def f(x):
        return x @ hk.SpectralNorm()(hk.get_parameter("w", (8, 4), init=jnp.ones))

    fn, params, state = function_of(f, X)
    said = refused(fn, params, ALL, state, X)
    assert "`~.w` cannot be quantized" in said and "test_haiku.py" in said
