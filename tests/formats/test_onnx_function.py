"""`from_onnx`: graphs as functions; the graphs of the exporters are in test_onnx_exporters.py."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h

import bitnet_jax as bj
from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.quant.ternary import absmean_scale, trits_of

FOLDER = Path(__file__).parent / "onnx_graphs"
LIGHT = ("optimum_qwen2_causal", "optimum_resnet")


def graph(path, nodes, inputs, outputs, weights=None, opset=21, domains=(), functions=()):
    """Writes a model of `nodes`; inputs and outputs are name -> (type, shape)."""
    made = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [h.make_tensor_value_info(n, t, s) for n, (t, s) in outputs.items()],
        [onnx.numpy_helper.from_array(v, n) for n, v in (weights or {}).items()],
    )
    imports = [h.make_opsetid("", opset), *(h.make_opsetid(d, 1) for d in domains)]
    model = h.make_model(made, opset_imports=imports, ir_version=10, functions=list(functions))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def expected():
    return np.load(FOLDER / "expected.npz")


def of_graph(expected, name, part):
    prefix = f"{name}/{part}/"
    return {k.removeprefix(prefix): expected[k] for k in expected if k.startswith(prefix)}


def largest_difference(fn, params, inputs, outputs):
    made = jax.jit(fn)(params, inputs)
    made = {fn.outputs[0]: made} if len(fn.outputs) == 1 else made
    assert made.keys() == outputs.keys()
    for name, value in outputs.items():
        assert made[name].shape == value.shape
    return max(float(np.abs(np.asarray(made[name]) - outputs[name]).max()) for name in outputs)


@pytest.mark.parametrize("name", LIGHT)
def test_a_graph_of_optimum_is_within_1e_5_of_onnx_runtime(name, expected):
    fn, params = bj.from_onnx(FOLDER / f"{name}.onnx")
    inputs, outputs = (of_graph(expected, name, part) for part in ("in", "out"))
    assert largest_difference(fn, params, inputs, outputs) <= 1e-5


@pytest.fixture
def two_layers(tmp_path, rng):
    """x @ a, relu, Gemm with b turned and a bias; the batch is free."""
    weights = {
        "a": rng.standard_normal((32, 48)).astype("f4"),
        "b": rng.standard_normal((16, 48)).astype("f4"),
        "c": rng.standard_normal(16).astype("f4"),
    }
    nodes = [
        h.make_node("MatMul", ["x", "a"], ["t"], "first"),
        h.make_node("Relu", ["t"], ["u"]),
        h.make_node("Gemm", ["u", "b", "c"], ["y"], "second", transB=1),
    ]
    path = graph(
        tmp_path / "m.onnx",
        nodes,
        {"x": (T.FLOAT, ["batch", 32])},
        {"y": (T.FLOAT, ["batch", 16])},
        weights,
    )
    return path, weights


def quantized(x, w):
    """The numerics contract in numpy: x [rows, in] by the ternary form of w [out, in]."""
    scale = np.asarray(absmean_scale(w), np.float32)
    trits = np.asarray(trits_of(w, scale), np.int32)
    a = np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-5))
    codes = np.clip(np.rint(x * (np.float32(127) / a)), -128, 127).astype(np.int32)
    return (codes @ trits.T).astype(np.float32) * (scale * (a * np.float32(1 / 127)))


def test_an_imported_graph_is_made_ternary_like_one_written_by_hand(two_layers, rng):
    path, weights = two_layers
    fn, params = bj.from_onnx(path)
    rules = [bj.Rule("a", use="dot", to="ternary"), bj.Rule("b", use="dot", to="ternary")]
    x = rng.standard_normal((5, 32)).astype("f4")
    packed = bj.pack(fn, params, rules, *fn.example(batch=5))
    run = jax.jit(bj.ternarize(fn, rules, mode="packed"))
    wanted = quantized(np.maximum(quantized(x, weights["a"].T), 0), weights["b"]) + weights["c"]
    np.testing.assert_allclose(run(packed, x), wanted, rtol=1e-6, atol=1e-6)
    assert set(packed.quants()) == {"a", "b"}
    qat = jax.jit(bj.ternarize(fn, rules))
    np.testing.assert_array_equal(qat(params, x), run(packed, x))
    grads = jax.grad(lambda p: bj.ternarize(fn, rules)(p, x).sum())(params)
    assert all(np.abs(grads[name]).max() > 0 for name in "abc")
    assert "a" in str(bj.explain(fn, params, rules, *fn.example(batch=5)))


def test_parameters_are_the_initializers_and_inputs_have_names(two_layers):
    path, weights = two_layers
    fn, params = bj.from_onnx(path)
    assert {name: value.shape for name, value in params.items()} == {
        name: value.shape for name, value in weights.items()
    }
    assert [(i.name, i.shape) for i in fn.inputs] == [("x", ("batch", 32))]
    assert fn.outputs == ("y",)
    x = np.ones((2, 32), np.float32)
    for made in (fn(params, x=x), fn(params, {"x": x})):
        np.testing.assert_array_equal(made, fn(params, x))


@pytest.mark.parametrize(
    "args, named, words",
    [
        ((), {}, "lacking: x"),
        ((np.ones((2, 32), "f4"),) * 2, {}, "2 were given"),
        ((), {"z": np.ones((2, 32), "f4")}, "unknown: z"),
        ((np.ones((2, 31), "f4"),), {}, r"float32\[2, 31\]"),
        ((np.ones((2, 32), "i4"),), {}, r"int32\[2, 32\]"),
    ],
)
def test_inputs_that_are_not_the_graphs_are_named(two_layers, args, named, words):
    fn, params = bj.from_onnx(two_layers[0])
    with pytest.raises(UsageError, match=words) as caught:
        fn(params, *args, **named)
    assert caught.value.code == "onnx.inputs"


def test_an_example_needs_the_free_sizes(two_layers):
    fn, _ = bj.from_onnx(two_layers[0])
    assert fn.example(batch=3)[0].shape == (3, 32)
    with pytest.raises(UsageError, match="batch=1"):
        fn.example()


def test_an_unknown_operator_is_named_with_its_domain_and_node(tmp_path):
    path = graph(
        tmp_path / "m.onnx",
        [h.make_node("Sparkle", ["x"], ["y"], "the/node", domain="org.example")],
        {"x": (T.FLOAT, [2])},
        {"y": (T.FLOAT, [2])},
        domains=["org.example"],
    )
    with pytest.raises(BadData) as caught:
        bj.from_onnx(path)
    assert caught.value.code == "onnx.unknown_op"
    for word in ("Sparkle", "org.example", "the/node"):
        assert word in caught.value.message


def test_an_operator_of_a_later_opset_says_since_when(tmp_path):
    path = graph(
        tmp_path / "m.onnx",
        [h.make_node("Gelu", ["x"], ["y"])],
        {"x": (T.FLOAT, [2])},
        {"y": (T.FLOAT, [2])},
        opset=13,
    )
    with pytest.raises(BadData, match="known from opset 20 on, and the model is of 13"):
        bj.from_onnx(path)


def test_softmax_means_what_its_opset_says(tmp_path, rng):
    x = rng.standard_normal((2, 3, 4)).astype("f4")
    made = {}
    for opset in (11, 13):
        path = graph(
            tmp_path / f"{opset}.onnx",
            [h.make_node("Softmax", ["x"], ["y"], axis=1)],
            {"x": (T.FLOAT, [2, 3, 4])},
            {"y": (T.FLOAT, [2, 3, 4])},
            opset=opset,
        )
        made[opset] = bj.from_onnx(path)[0]({}, x)
    np.testing.assert_allclose(made[11].sum((1, 2)), 1, rtol=1e-6)
    np.testing.assert_allclose(made[13].sum(1), 1, rtol=1e-6)


def test_shape_arithmetic_is_known_while_tracing(tmp_path):
    """Shape, Gather, Concat, Reshape: what exporters make of ``x.view(batch, -1)``."""
    nodes = [
        h.make_node("Shape", ["x"], ["s"]),
        h.make_node("Gather", ["s", "zero"], ["b"]),
        h.make_node("Concat", ["b", "rest"], ["to"], axis=0),
        h.make_node("Reshape", ["x", "to"], ["y"]),
    ]
    weights = {"zero": np.array([0]), "rest": np.array([-1])}
    path = graph(
        tmp_path / "m.onnx", nodes, {"x": (T.FLOAT, ["b", "c", 2])}, {"y": (T.FLOAT, None)}, weights
    )
    fn, params = bj.from_onnx(path)
    assert not params
    assert jax.jit(fn)(params, np.zeros((3, 4, 2), "f4")).shape == (3, 8)


def test_an_input_that_decides_a_shape_can_be_bound(tmp_path):
    nodes = [h.make_node("Expand", ["x", "n"], ["y"], "grow")]
    path = graph(
        tmp_path / "m.onnx",
        nodes,
        {"x": (T.FLOAT, [1]), "n": (T.INT64, [1])},
        {"y": (T.FLOAT, None)},
    )
    fn, params = bj.from_onnx(path)
    with pytest.raises(BadData, match="grow") as caught:
        jax.jit(fn)(params, np.ones(1, "f4"), np.array([3]))
    assert caught.value.code == "onnx.dynamic"
    fn, params = bj.from_onnx(path, bind={"n": [3]})
    assert [item.name for item in fn.inputs] == ["x"]
    assert jax.jit(fn)(params, np.ones(1, "f4")).shape == (3,)
    with pytest.raises(UsageError, match="no input `m`"):
        bj.from_onnx(path, bind={"m": 1})


def test_a_branch_that_only_values_decide_is_traced_both_ways(tmp_path):
    branches = {
        key: h.make_graph(
            [h.make_node(op, ["x"], ["out"])], key, [], [h.make_tensor_value_info("out", 1, [2])]
        )
        for key, op in (("then_branch", "Neg"), ("else_branch", "Exp"))
    }
    nodes = [
        h.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        h.make_node("Greater", ["s", "zero"], ["more"]),
        h.make_node("If", ["more"], ["y"], **branches),
    ]
    path = graph(
        tmp_path / "m.onnx",
        nodes,
        {"x": (T.FLOAT, [2])},
        {"y": (T.FLOAT, [2])},
        {"zero": np.float32(0).reshape(())},
    )
    fn, params = bj.from_onnx(path)
    run = jax.jit(fn)
    np.testing.assert_array_equal(run(params, jnp.array([1.0, 2.0])), [-1, -2])
    np.testing.assert_allclose(run(params, jnp.array([0.0, -1.0])), np.exp([0.0, -1.0]), rtol=1e-6)


@pytest.mark.parametrize("kind", ["QDQ", "4 bits"])
def test_quantized_weights_stay_codes_or_become_floats(kind, tmp_path, rng):
    codes = rng.integers(0, 255, (16, 2, 8), dtype="u1")
    if kind == "QDQ":
        nodes = [
            h.make_node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=1),
            h.make_node("MatMul", ["x", "f"], ["y"]),
        ]
        weights = {
            "w": rng.integers(-128, 127, (32, 16), dtype="i1"),
            "s": rng.uniform(0.1, 1, 16).astype("f4"),
            "z": np.zeros(16, "i1"),
        }
    else:
        nodes = [
            h.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
                        K=32, N=16, bits=4, block_size=16)
        ]  # fmt: skip
        weights = {"w": codes, "s": rng.uniform(0.1, 1, (16, 2)).astype("f4")}
    path = graph(
        tmp_path / "m.onnx",
        nodes,
        {"x": (T.FLOAT, [4, 32])},
        {"y": (T.FLOAT, [4, 16])},
        weights,
        domains=["com.microsoft"],
    )
    x = rng.standard_normal((4, 32)).astype("f4")
    fn, params = bj.from_onnx(path)
    assert params["w"].dtype in (jnp.int8, jnp.uint8)
    floats, made = bj.from_onnx(path, dequantize=True)
    assert list(made) == ["w"] and made["w"].dtype == jnp.float32
    np.testing.assert_allclose(floats(made, x), fn(params, x), rtol=1e-5, atol=1e-5)
    rules = [bj.Rule("w", to="ternary")]
    packed = bj.pack(floats, made, rules, *floats.example())
    w = np.asarray(made["w"])
    wanted = quantized(x, w if kind == "4 bits" else w.T)
    run = bj.ternarize(floats, rules, mode="packed")
    np.testing.assert_allclose(run(packed, x), wanted, rtol=1e-6, atol=1e-6)


def test_a_number_too_large_for_32_bits_is_told(tmp_path):
    path = graph(
        tmp_path / "m.onnx",
        [h.make_node("Add", ["x", "big"], ["y"])],
        {"x": (T.INT64, [1])},
        {"y": (T.INT64, [1])},
        {"big": np.array([1 << 40])},
    )
    fn, params = bj.from_onnx(path)
    with pytest.raises(BadData, match="jax_enable_x64") as caught:
        fn(params, np.array([1]))
    assert caught.value.code == "onnx.int64"


@pytest.mark.parametrize("size", [1 << 40, -1])
def test_an_absurd_array_is_not_made(size, tmp_path):
    path = graph(
        tmp_path / "m.onnx",
        [h.make_node("ConstantOfShape", ["n"], ["y"], "bomb")],
        {},
        {"y": (T.FLOAT, None)},
        {"n": np.array([size])},
    )
    fn, params = bj.from_onnx(path)
    with pytest.raises(BadData, match="bomb") as caught:
        fn(params)
    assert caught.value.code == "onnx.limits"


def test_a_division_that_decides_a_code_is_rounded_once(tmp_path):
    """XLA divides by one number with its inverse: -127.5 where the quotient is -127.49999."""
    path = graph(
        tmp_path / "m.onnx",
        [h.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])],
        {"x": (T.FLOAT, [6])},
        {"y": (T.UINT8, [6]), "s": (T.FLOAT, []), "z": (T.UINT8, [])},
    )
    fn, params = bj.from_onnx(path)
    made = jax.jit(fn)(params, np.float32([0, 2, -3, -2.5, 1.34, 0.5]))
    np.testing.assert_array_equal(made["y"], [153, 255, 0, 26, 221, 179])
