"""Flax NNX: modules as their users write them, split and merged, and their twins by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import bitnet_jax as bj
from tests.frameworks.laws import ALL, by_hand, compiled, holds, normal, refused
from tests.thin import mostly_heavy

X = normal(2, 5, 8)


def split(module):
    """``fn(params, rest, *args)`` of a module, its parameters and the rest of its state."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def fn(params, rest, *args):
        # a copy: the twin is differentiated by JAX, and Flax refuses variables from outside that
        return nnx.merge(graph, params, rest, copy=True)(*args)

    return fn, params, rest


def twins(make):
    """The same for a module and for its twin, which have the same parameters."""
    fn, params, rest = split(make(lax.dot_general))
    twin, _, _ = split(make(by_hand))
    return fn, twin, params, rest


class Block(nnx.Module):
    """A pre-norm transformer block; `dot` is what its linears multiply with."""

    def __init__(self, dot, rngs, dropout=0.0):
        self.norms = nnx.List([nnx.LayerNorm(8, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(
            2, 8, qkv_dot_general=dot, out_dot_general=dot, decode=False, rngs=rngs
        )
        self.up = nnx.Linear(8, 16, dot_general=dot, rngs=rngs)
        self.down = nnx.Linear(16, 8, dot_general=dot, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norms[0](x))
        return x + self.dropout(self.down(nnx.gelu(self.up(self.norms[1](x)))))


def stacked(dot, make=Block, layers=3):
    @nnx.split_rngs(splits=layers)
    @nnx.vmap(in_axes=0, out_axes=0)
    def create(rngs):
        return make(dot, rngs)

    return create(nnx.Rngs(0))


class Stack(nnx.Module):
    """Layers made by `nnx.vmap`, run by `nnx.scan`, each rematerialized."""

    def __init__(self, dot):
        self.layers = stacked(dot)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        @nnx.remat
        def run(x, layer):
            return layer(x)

        return run(x, self.layers)


class Dense(nnx.Module):
    def __init__(self, dot, rngs):
        self.linear = nnx.Linear(8, 8, dot_general=dot, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.linear(x))


class Remat(Dense):
    @nnx.remat
    def __call__(self, x):
        return jnp.sin(self.linear(x))


class Ensemble(nnx.Module):
    def __init__(self, dot):
        self.members = stacked(dot, Dense)

    def __call__(self, x):
        return nnx.vmap(lambda member, x: member(x), in_axes=(0, None))(self.members, x)


class Looped(Dense):
    """One layer three times: the weight is a `fori_loop`'s carry."""

    def __call__(self, x):
        def body(_, carried):
            linear, x = carried
            return linear, jnp.tanh(linear(x))

        return nnx.fori_loop(0, 3, body, (self.linear, x))[1]


class Branches(nnx.Module):
    def __init__(self, dot):
        self.ways = nnx.List([Dense(dot, nnx.Rngs(seed)) for seed in (0, 1)])

    def __call__(self, x):
        taken = [lambda m, x: m.ways[0](x), lambda m, x: m.ways[1](x)]
        return nnx.cond(x.sum() > 0, *taken, self, x) + nnx.cond(x.sum() < 0, *taken, self, x)


class Tied(nnx.Module):
    def __init__(self, dot):
        self.embed = nnx.Embed(16, 8, rngs=nnx.Rngs(0))
        self.linear = nnx.Linear(8, 8, dot_general=dot, rngs=nnx.Rngs(1))

    def __call__(self, tokens):
        return self.embed.attend(self.linear(self.embed(tokens)))


BLOCK = {
    *(f"attention.{name}.kernel" for name in ("query", "key", "value", "out")),
    "up.kernel",
    "down.kernel",
}
# case: of a dot_general the module, its inputs, what is packed
MODULES = {
    "Linear": (lambda dot: nnx.Linear(8, 4, dot_general=dot, rngs=nnx.Rngs(0)), X, {"kernel"}),
    "block": (lambda dot: Block(dot, nnx.Rngs(0)), X, BLOCK),
    "scan over remat": (Stack, X, {f"layers.{name}" for name in BLOCK}),
    "remat on a method": (lambda dot: Remat(dot, nnx.Rngs(0)), X, {"linear.kernel"}),
    "fori_loop": (lambda dot: Looped(dot, nnx.Rngs(0)), X, {"linear.kernel"}),
    "cond": (Branches, X, {"ways.0.linear.kernel", "ways.1.linear.kernel"}),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", mostly_heavy(MODULES, set(MODULES) - {"scan over remat"}))
def test_a_module_equals_its_twin(case):
    make, x, ternary = MODULES[case]
    fn, twin, params, rest = twins(make)
    holds(fn, params, ALL, rest, x, ternary=ternary, twin=twin)


def test_an_ensemble_by_vmap_equals_its_twin_with_a_scale_per_member():
    """A batch of weights alone are outputs to the dot: only a rule can say that it is a stack."""
    fn, twin, params, rest = twins(Ensemble)
    rules = [bj.Rule("**", stack=(0,))]
    holds(fn, params, rules, rest, X, ternary=["members.linear.kernel"], twin=twin)


def test_stacked_layers_have_a_scale_each():
    fn, params, rest = split(Stack(lax.dot_general))
    packed = bj.pack(fn, params, ALL, rest, X).ternary()
    assert {quant.scale.shape for quant in packed.values()} == {(3,)}


def test_a_recurrence():
    fn, params, rest = split(nnx.RNN(nnx.OptimizedLSTMCell(8, 6, rngs=nnx.Rngs(0))))
    assert len(holds(fn, params, ALL, rest, X)) == 2


def test_a_tied_embedding_is_looked_up_in_float_and_multiplied_ternary():
    fn, params, rest = split(Tied(lax.dot_general))
    names = ["embed.embedding", "linear.kernel"]
    holds(fn, params, ALL, rest, jnp.arange(5), ternary=names)


class Stateful(nnx.Module):
    def __init__(self, dot):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(8, 16, dot_general=dot, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(16, 4, dot_general=dot, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def stateful(dot):
    """Batch statistics and dropout's counter come in with `rest` and go out changed."""
    graph, params, rest = nnx.split(Stateful(dot), nnx.Param, ...)

    def fn(params, rest, x):
        module = nnx.merge(graph, params, rest, copy=True)
        return module(x), nnx.state(module, nnx.Not(nnx.Param))

    return fn, params, rest


def test_dropout_and_batch_statistics_are_carried_as_state():
    fn, params, rest = stateful(lax.dot_general)
    twin, _, _ = stateful(by_hand)
    names = ["first.kernel", "last.kernel"]
    holds(fn, params, ALL, rest, X, ternary=names, twin=twin)
    qat = compiled(bj.ternarize(fn, ALL))
    first, once = qat(params, rest, X)
    second, twice = qat(params, once, X)
    assert not np.allclose(first, second)
    for old, new in ((rest, once), (once, twice)):
        assert not np.allclose(old["norm"]["mean"][...], new["norm"]["mean"][...])


def test_the_module_itself_or_all_its_state_may_be_the_parameters():
    module = Block(lax.dot_general, nnx.Rngs(0))
    graph, state = nnx.split(module)
    assert set(holds(lambda state, x: nnx.merge(graph, state)(x), state, ALL, X)) == BLOCK
    packed = bj.pack(lambda module, x: module(x), module, ALL, X)
    assert set(packed.ternary()) == BLOCK


def test_state_that_holds_the_parameters_as_well_is_refused_with_what_to_do():
    graph, params, rest = nnx.split(Stateful(lax.dot_general), nnx.Param, ...)

    def fn(params, rest, x):
        module = nnx.merge(graph, params, rest)
        return module(x), nnx.state(module)

    said = refused(fn, params, ALL, rest, X)
    assert "the function's result" in said and "nnx.state(m, nnx.BatchStat)" in said


def test_an_error_names_the_users_line_not_the_librarys():
    fn, params, rest = split(nnx.WeightNorm(nnx.Linear(8, 8, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0)))
    said = refused(fn, params, ALL, rest, X)
    assert "layer_instance.kernel" in said and "test_nnx.py" in said


def test_a_convolution_named_by_itself_names_its_kernel():
    fn, params, rest = split(nnx.Conv(8, 4, (3,), rngs=nnx.Rngs(0)))
    said = refused(fn, params, ALL, rest, X, code="quant.rule_unused")
    assert "`kernel` is a convolution's" in said and "test_nnx.py" in said


def test_training_with_an_optimizer_moves_the_ternary_loss():
    """The loop that a user writes: value_and_grad of the ternary function, in a jit."""
    fn, params, rest = split(Block(lax.dot_general, nnx.Rngs(0)))
    qat = bj.ternarize(fn, ALL)

    @jax.jit
    def step(params):
        loss, grads = jax.value_and_grad(lambda p: (qat(p, rest, X) ** 2).mean())(params)
        return loss, jax.tree.map(lambda p, g: p - 0.02 * g, params, grads)

    losses = []
    for _ in range(4):
        loss, params = step(params)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
