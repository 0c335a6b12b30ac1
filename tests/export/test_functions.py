"""Ternarized functions that are no decoders, as ONNX Runtime computes them."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

import bitnet_jax as bj
from bitnet_jax.export.function import export_onnx
from bitnet_jax.export.measure import session
from tests.export.running import agrees, exported, feeds
from tests.frameworks import test_convnet as convnet
from tests.frameworks import test_encoder as encoder
from tests.frameworks import test_equinox as equinox
from tests.frameworks import test_haiku as haiku
from tests.frameworks import test_mixer as mixer
from tests.frameworks import test_moe as moe
from tests.frameworks import test_nnx as nnx
from tests.frameworks.laws import ALL, normal

pytestmark = pytest.mark.heavy

# Where a code of an activation lies on a half, two orders of a float sum before it choose two
# codes: one step of 127 of one term. None of these functions has such a code.
CODES = 2e-5


def nnx_module(case):
    make, x, _ = nnx.MODULES[case]
    fn, params, rest = nnx.split(make(jax.lax.dot_general))
    return (lambda params, x: fn(params, rest, x)), params, ALL, x


def equinox_module(module, x):
    fn, params = equinox.split(module, lambda module, x: jax.vmap(module)(x))
    return fn, params, ALL, x


def tied(scale, use):
    return lambda: (
        encoder.FN, encoder.PARAMS, [bj.Rule("words", use="*", scale=scale), *ALL], *encoder.ARGS,
    )  # fmt: skip


def of_kind(kind, scale="row"):
    def fn(params, x):
        return jax.nn.gelu(x @ params["up"]) @ params["down"]

    params = {"up": normal(96, 48), "down": normal(48, 96, seed=1)}
    rules = [bj.Rule("**", to=kind, scale=scale)]
    return lambda: (fn, params, rules, normal(2, 5, 96, seed=2))


# name -> function, parameters, rules, arguments
FUNCTIONS = {
    "mlp of flax nnx": lambda: nnx_module("Linear"),
    "block of flax nnx": lambda: nnx_module("block"),
    "scan over remat of flax nnx": lambda: nnx_module("scan over remat"),
    "branches of flax nnx": lambda: nnx_module("cond"),
    "loop of flax nnx": lambda: nnx_module("fori_loop"),
    "mlp of equinox": lambda: equinox_module(equinox.make_mlp(), equinox.X),
    "stack in a scan of equinox": lambda: equinox_module(equinox.Deep(equinox.KEY), equinox.X),
    "encoder": lambda: (encoder.FN, encoder.PARAMS, ALL, *encoder.ARGS),
    "encoder, its table looked up ternary": tied("tensor", "*"),
    "encoder, its table looked up by rows": tied("row", "*"),
    "convnet": lambda: (convnet.FN, convnet.PARAMS, convnet.KEPT, convnet.IMAGES),
    "mixer": lambda: (
        functools.partial(mixer.mixer, jnp.einsum),
        mixer.PARAMS, [mixer.KEPT, bj.Rule("**")], mixer.IMAGES,
    ),
    "int8 weights": of_kind("int8"),
    "int6 weights": of_kind("int6", "tensor"),
    "int4 weights": of_kind("int4", "group-48"),
    "ternary weights by groups": of_kind("ternary", "group-16"),
    "ternary weights by groups of no block": of_kind("ternary", "group-48"),
}  # fmt: skip


@pytest.mark.parametrize("case", FUNCTIONS)
def test_it_computes_what_the_packed_function_does(tmp_path, case):
    fn, params, rules, *args = FUNCTIONS[case]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bj.KeptFloatWarning)
        packed = bj.pack(fn, params, rules, *args)
    want = jax.jit(bj.ternarize(fn, rules, mode="packed"))(packed, *args)
    # Profiles differ in how codes are stored: the decoders' tests have each.
    profile = "size" if len(case) % 2 else "portable"
    agrees(
        tmp_path, fn, packed, *args, want=jax.tree.leaves(want), profile=profile, tolerance=CODES
    )


@pytest.mark.parametrize("case", ["mlp of equinox", "scan over remat of flax nnx"])
def test_the_quantized_training_function_is_exported_from_its_float_parameters(tmp_path, case):
    fn, params, rules, *args = FUNCTIONS[case]()
    agrees(tmp_path, bj.ternarize(fn, rules), params, *args, tolerance=CODES)


@pytest.mark.parametrize("case", ["ternary weights by groups", "int8 weights", "encoder"])
def test_inference_takes_its_kernels_where_they_fit(tmp_path, case):
    fn, params, rules, *args = FUNCTIONS[case]()
    packed = bj.pack(fn, params, rules, *args)
    want = jax.jit(bj.ternarize(fn, rules, mode="packed"))(packed, *args)
    running = agrees(
        tmp_path, fn, packed, *args,
        want=jax.tree.leaves(want), profile="inference", tolerance=0.1,
    )  # fmt: skip
    assert running is not None
    ops = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert ("MatMulNBits" in ops) == (case != "int8 weights")


def test_open_sizes_stay_open(tmp_path):
    fn, params, rules, *args = FUNCTIONS["encoder"]()
    packed = bj.pack(fn, params, rules, *args)
    (batch,) = jax.export.symbolic_shape("batch")
    sizes = [jax.ShapeDtypeStruct((batch, *arg.shape[1:]), arg.dtype) for arg in args]
    running = exported(tmp_path, fn, packed, sizes=sizes)
    run = jax.jit(bj.ternarize(fn, rules, mode="packed"))
    for count in (1, 2, 5):
        some = [jnp.concatenate([arg] * 3)[:count] for arg in args]
        got = running.run(None, feeds(running, some))
        for result, want in zip(got, run(packed, *some), strict=True):
            np.testing.assert_allclose(result, want, rtol=0, atol=CODES * np.abs(want).max())


def test_sizes_that_are_sums_and_products_of_open_ones(tmp_path):
    a, b = jax.export.symbolic_shape("a, b")

    def fn(params, x, y):
        joined = jnp.concatenate([x, y])
        flat = joined.reshape(-1)
        counted = jnp.arange(flat.shape[0]) + flat.shape[0] // 3 + flat.shape[0] % 4
        return joined @ params["w"], flat * counted, jnp.pad(x, ((0, y.shape[0]), (1, 1)))

    params = {"w": normal(4, 3)}
    shapes = [jax.ShapeDtypeStruct((size, 4), jnp.float32) for size in (a, b)]
    path = tmp_path / "model.onnx"
    export_onnx(fn, params, *shapes, path=path)
    running = session(path)
    for rows in ((1, 1), (3, 2), (7, 12)):
        args = [normal(count, 4, seed=count) for count in rows]
        results = running.run(None, feeds(running, args))
        for got, want in zip(results, fn(params, *args), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-5)


def test_experts_are_multiplied_by_the_part_of_the_stack_that_is_theirs(tmp_path):
    for way in ("by_capacity", "dense", "scanned"):
        fn = functools.partial(getattr(moe, way), jnp.einsum)
        rules = [moe.ROUTER, bj.Rule("**")]
        packed = bj.pack(fn, moe.PARAMS, rules, moe.X)
        want = jax.jit(bj.ternarize(fn, rules, mode="packed"))(packed, moe.X)
        agrees(tmp_path, fn, packed, moe.X, want=jax.tree.leaves(want), tolerance=CODES)


def test_a_model_of_haiku(tmp_path):
    fn, params, state = haiku.function_of(haiku.mlp, haiku.X)
    packed = bj.pack(fn, params, ALL, state, haiku.X)
    want = jax.jit(bj.ternarize(fn, ALL, mode="packed"))(packed, state, haiku.X)
    agrees(tmp_path, fn, packed, state, haiku.X, want=jax.tree.leaves(want), tolerance=CODES)
