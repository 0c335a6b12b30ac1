"""Flax Linen: modules as their users write them, and their twins written by hand."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

import bitnet_jax as bj
from tests.frameworks.laws import ALL, by_hand, compiled, filled, holds, normal, refused

# Minutes of compiling; of the frameworks, plain JAX, NNX and Haiku run on each change.
pytestmark = pytest.mark.heavy

KEY = jax.random.key(0)


def function_of(module, *args, rngs=None, **options):
    """``fn(params, rest, *args)`` of a module, its parameters and its other collections."""
    shapes = dict(jax.eval_shape(module.init, {"params": KEY, "dropout": KEY}, *args))
    params = filled(shapes.pop("params"))
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)

    def fn(params, rest, *args):
        return module.apply({"params": params, **rest}, *args, rngs=rngs, **options)

    return fn, params, variables


class Block(nn.Module):
    """A pre-norm transformer block; `dot` is what its linears multiply with."""

    dot: Any = None
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x):
        attention = nn.MultiHeadDotProductAttention(
            2,
            qkv_dot_general=self.dot,
            out_dot_general=self.dot,
            dropout_rate=self.dropout,
            deterministic=not self.dropout,
        )
        x = x + attention(nn.LayerNorm()(x))
        hidden = nn.gelu(nn.Dense(16, dot_general=self.dot)(nn.LayerNorm()(x)))
        hidden = nn.Dropout(self.dropout, deterministic=not self.dropout)(hidden)
        return x + nn.Dense(8, dot_general=self.dot)(hidden)


class Carried(nn.Module):
    """`Block` with the signature that `nn.scan` wants."""

    dot: Any = None

    @nn.compact
    def __call__(self, x, _):
        return Block(self.dot)(x), None


class Stacked(nn.Module):
    """Three blocks in one `nn.scan`, each element rematerialized."""

    dot: Any = None
    axis: int = 0
    policy: Any = None

    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Carried, prevent_cse=False, policy=self.policy)
        scan = nn.scan(
            layer, variable_axes={"params": self.axis}, split_rngs={"params": True}, length=3
        )
        return scan(self.dot)(x, None)[0]


BLOCK = {
    f"{name}.kernel"
    for name in (
        *(f"MultiHeadDotProductAttention_0.{part}" for part in ("query", "key", "value", "out")),
        "Dense_0",
        "Dense_1",
    )
}


def test_a_block_equals_its_twin():
    x = normal(2, 5, 8)
    fn, params, rest = function_of(Block(), x)
    twin, _, _ = function_of(Block(by_hand), x)
    holds(fn, params, ALL, rest, x, ternary=BLOCK, twin=twin)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_scanned_remat_stack_equals_its_twin_along_either_axis(axis):
    x = normal(2, 5, 8)
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    fn, params, rest = function_of(Stacked(axis=axis, policy=policy), x)
    twin, _, _ = function_of(Stacked(by_hand, axis, policy), x)
    holds(fn, params, ALL, rest, x, twin=twin)
    quant = bj.pack(fn, params, ALL, rest, x).ternary()
    scales = {q.scale.shape for q in quant.values()}
    assert len(quant) == 6 and scales == {(3,)}


def test_dropout_in_a_block_takes_its_rng_from_the_arguments():
    x = normal(2, 5, 8)
    module = Block(dropout=0.5)
    _, params, _ = function_of(Block(), x)

    def fn(params, key, x):
        return module.apply({"params": params}, x, rngs={"dropout": key})

    holds(fn, params, ALL, jax.random.key(1), x, ternary=BLOCK)
    qat = compiled(bj.ternarize(fn, ALL))
    one, two = (qat(params, jax.random.key(seed), x) for seed in (1, 2))
    assert not np.allclose(one, two)


class Mlp(nn.Module):
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, dtype=self.dtype)(nn.relu(nn.Dense(16, dtype=self.dtype)(x)))


class Tied(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(16, 8)
        return embed.attend(nn.Dense(8)(embed(tokens)))


class Ensemble(nn.Module):
    @nn.compact
    def __call__(self, x):
        members = nn.vmap(
            Mlp, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=3
        )
        return members()(x)


class Shared(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.vmap(
            Mlp, variable_axes={"params": None}, split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        return layer()(x)


class Transposed(nn.Module):
    """A weight stored [out, in], shown to the layer the other way round."""

    @nn.compact
    def __call__(self, x):
        def turn(variables):
            return jax.tree.map(lambda w: w.T if w.ndim == 2 else w, variables)

        return nn.map_variables(nn.Dense, "params", turn, init=True)(8)(x)


class Patches(nn.Module):
    """A ViT's way in: a class token, learned positions, a block, a head."""

    @nn.compact
    def __call__(self, x):
        normal = nn.initializers.normal(0.02)
        x = nn.Dense(8, name="embed")(x)
        token = self.param("class_token", normal, (1, 1, 8))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        x = Block()(x + self.param("positions", normal, (1, 6, 8)))
        return nn.Dense(3, name="head")(x[:, 0])


# case: module, inputs
MODULES = {
    "bfloat16": (Mlp(jnp.bfloat16), (normal(4, 8),)),
    "remat": (nn.remat(Mlp)(), (normal(4, 8),)),
    "remat_scan": (nn.remat_scan(Mlp, lengths=(2, 2))(), (normal(4, 8),)),
    "jit": (nn.jit(Mlp)(), (normal(4, 8),)),
    "ensemble by vmap": (Ensemble(), (normal(4, 8),)),
    "shared by vmap": (Shared(), (normal(4, 3, 8),)),
    "map_variables": (Transposed(), (normal(4, 8),)),
    "DenseGeneral": (nn.DenseGeneral((3, 5), axis=(-2, -1)), (normal(3, 2, 4),)),
    "DenseGeneral, batched": (nn.DenseGeneral(5, batch_dims=(0,)), (normal(3, 2, 4),)),
    "Einsum": (nn.Einsum((8, 2, 3), "bi,ihd->bhd"), (normal(4, 8),)),
    "LSTM": (nn.RNN(nn.LSTMCell(6)), (normal(2, 4, 8),)),
    "LSTM, reversed, unrolled": (
        nn.RNN(nn.LSTMCell(6), unroll=2, reverse=True),
        (normal(2, 4, 8),),
    ),
    "SimpleCell": (nn.RNN(nn.SimpleCell(6)), (normal(2, 4, 8),)),
    "tied embedding": (Tied(), (jnp.arange(5),)),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", MODULES)
def test_packed_equals_qat_and_every_ternary_weight_learns(case):
    module, args = MODULES[case]
    fn, params, rest = function_of(module, *args)
    assert holds(fn, params, ALL, rest, *args)


def test_batch_statistics_are_updated_by_the_quantized_activations():
    class Normed(nn.Module):
        dot: Any = None

        @nn.compact
        def __call__(self, x):
            x = nn.Dense(8, dot_general=self.dot)(x)
            x = nn.BatchNorm(use_running_average=False)(x)
            return nn.Dense(4, dot_general=self.dot)(x)

    x = normal(6, 8)
    fn, params, rest = function_of(Normed(), x, mutable=["batch_stats"])
    twin, _, _ = function_of(Normed(by_hand), x, mutable=["batch_stats"])
    holds(fn, params, ALL, rest, x, ternary=["Dense_0.kernel", "Dense_1.kernel"], twin=twin)


def test_intermediates_come_out():
    x = normal(4, 8)
    fn, params, rest = function_of(Mlp(), x, capture_intermediates=True)
    holds(fn, params, ALL, rest, x, ternary=["Dense_0.kernel", "Dense_1.kernel"])


@pytest.mark.parametrize("tree", [dict, freeze])
def test_all_variables_may_be_the_parameters(tree):
    x = normal(4, 8)
    variables = tree(filled(jax.eval_shape(Mlp().init, KEY, x)))
    packed = holds(Mlp().apply, variables, ALL, x)
    assert packed == ["params.Dense_0.kernel", "params.Dense_1.kernel"]


def test_boxed_parameters_keep_their_metadata():
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, None))
    fn, params, rest = function_of(nn.Dense(8, kernel_init=init), normal(4, 8))
    assert holds(fn, params, ALL, rest, normal(4, 8)) == ["kernel"]


class Branches(nn.Module):
    """Both ways of a `nn.cond`, or three of a `nn.switch`."""

    ways: int = 2

    @nn.compact
    def __call__(self, x):
        layers = [nn.Dense(8, name=f"way{i}") for i in range(self.ways)]
        if self.is_initializing():
            return sum(layer(x) for layer in layers)
        calls = [lambda _, x, layer=layer: layer(x) for layer in layers]
        if self.ways == 2:
            return nn.cond(x.sum() > 0, *calls, self, x)
        return nn.switch((x.sum() > 0).astype(int), calls, self, x)


@pytest.mark.parametrize("ways", [2, 3])
def test_lifted_branches(ways):
    x = normal(4, 8)
    fn, params, rest = function_of(Branches(ways), x)
    names = [f"way{i}.kernel" for i in range(ways)]
    packed = bj.pack(fn, params, ALL, rest, x)
    assert sorted(packed.ternary()) == names
    qat, run = compiled(bj.ternarize(fn, ALL)), compiled(bj.ternarize(fn, ALL, mode="packed"))
    for sign in (1, -1):
        np.testing.assert_array_equal(qat(params, rest, sign * x), run(packed, rest, sign * x))
    assert not np.allclose(qat(params, rest, x), -qat(params, rest, -x), atol=1e-3)


class SignGradient(nn.Module):
    """`nn.custom_vjp` with a forward rule that holds the product."""

    @nn.compact
    def __call__(self, x):
        def forward(module, x):
            return nn.vjp(lambda module, x: module(x), module, x)

        def backward(pull, cotangent):
            of_params, of_x = pull(cotangent)
            return jax.tree.map(jnp.sign, of_params), of_x

        call = nn.custom_vjp(lambda module, x: module(x), forward, backward)
        return call(nn.Dense(8), x)


def test_a_lifted_custom_vjp_keeps_its_own_backward():
    x = normal(4, 8)
    fn, params, rest = function_of(SignGradient(), x)
    plain, plain_params, _ = function_of(nn.Sequential([nn.Dense(8)]), x)
    plain_params = {"layers_0": params["Dense_0"]}
    got, want = bj.ternarize(fn, ALL)(params, rest, x), bj.ternarize(plain, ALL)
    np.testing.assert_array_equal(got, want(plain_params, rest, x))
    grad = jax.grad(lambda p: bj.ternarize(fn, ALL)(p, rest, x).sum())(params)
    assert set(np.unique(grad["Dense_0"]["kernel"])) <= {-1.0, 0.0, 1.0}


def test_a_vision_transformer_with_what_only_stands_beside_its_products_kept():
    x = normal(2, 5, 12)
    fn, params, rest = function_of(Patches(), x)
    kept = [bj.Rule("class_token", use="*", to="keep"), bj.Rule("positions", use="*", to="keep")]
    packed = holds(fn, params, [*kept, *ALL], rest, x)
    assert len(packed) == 8 and {"embed.kernel", "head.kernel"} <= set(packed)


@pytest.mark.parametrize("wrap", [nn.WeightNorm, nn.SpectralNorm])
def test_a_reparametrized_weight_is_refused_by_name(wrap):
    class Wrapped(nn.Module):
        @nn.compact
        def __call__(self, x):
            options = {} if wrap is nn.WeightNorm else {"update_stats": False}
            return wrap(nn.Dense(8))(x, **options)

    x = normal(4, 8)
    fn, params, rest = function_of(Wrapped(), x)
    said = refused(fn, params, ALL, rest, x)
    assert "kernel` cannot be quantized" in said
    assert "test_linen.py" in said and "scale what it multiplies" in said


def test_state_that_holds_the_parameters_as_well_is_refused_with_what_to_do():
    x = normal(4, 8)
    fn, params, rest = function_of(Mlp(), x, mutable=True)
    said = refused(fn, params, ALL, rest, x)
    assert "the function's result" in said and "the mutated collections" in said
