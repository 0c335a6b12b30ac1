"""The graph that is written: its nodes, its names, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from jax import lax

import bitnet_jax as bj
from bitnet_jax.core.errors import CannotCreate, UsageError
from bitnet_jax.export.function import export_onnx
from bitnet_jax.export.onnx import Port, lower
from bitnet_jax.export.profiles import PROFILES
from bitnet_jax.ir.program import trace
from bitnet_jax.quant.tensor import from_codes
from tests.frameworks.laws import normal


def mlp(params, x):
    return jax.nn.relu(x @ params["up"] + params["bias"]) @ params["down"]


PARAMS = {"up": normal(32, 48), "bias": normal(48), "down": normal(48, 32, seed=1)}
RULES = [bj.Rule("up"), bj.Rule("down")]
X = normal(3, 32, seed=2)


def written(tmp_path, fn=mlp, params=PARAMS, *args, name="model.onnx", **options):
    path = tmp_path / name
    export_onnx(fn, params, *(args or (X,)), path=path, **options)
    onnx.checker.check_model(str(path), full_check=True)
    return onnx.load(path, load_external_data=False)


def nodes(model):
    return [node.op_type for node in model.graph.node]


PRODUCT = [
    "Abs", "ReduceMax", "Max", "Div", "Mul", "Round", "Clip", "Cast", "Mul",
    "MatMulInteger", "Cast", "Mul", "Mul",
]  # fmt: skip


def without_shapes(model):
    return [op for op in nodes(model) if op not in ("Reshape", "Unsqueeze", "Squeeze")]


def test_a_ternary_product_is_the_numerics_contract_node_by_node(tmp_path):
    packed = bj.pack(mlp, PARAMS, RULES, X)
    model = written(tmp_path, mlp, packed)
    assert without_shapes(model) == [*PRODUCT, "Add", "Max", *PRODUCT]
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"up.codes", "up.scale", "down.codes", "down.scale", "bias"} <= names
    assert [port.name for port in model.graph.input] == ["x"]
    assert [port.name for port in model.graph.output] == ["output"]


def test_two_products_of_one_input_round_it_once(tmp_path):
    def fn(params, x):
        return x @ params["a"], x @ params["b"]

    params = {"a": normal(32, 16), "b": normal(32, 48)}
    model = written(tmp_path, fn, bj.pack(fn, params, [bj.Rule("**")], X))
    assert nodes(model).count("Round") == 1
    assert nodes(model).count("MatMulInteger") == 2


def test_inference_has_one_node_for_a_product(tmp_path):
    model = written(tmp_path, mlp, bj.pack(mlp, PARAMS, RULES, X), profile="inference")
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert {node.domain for node in products} == {"com.microsoft"} and len(products) == 2
    assert without_shapes(model) == ["MatMulNBits", "Mul", "Add", "Max", "MatMulNBits", "Mul"]
    assert {entry.domain for entry in model.opset_import} == {"", "com.microsoft"}


def test_a_float_function_needs_no_packing(tmp_path):
    assert without_shapes(written(tmp_path)) == ["MatMul", "Add", "Max", "MatMul"]


def test_what_nobody_needs_is_not_written(tmp_path):
    def fn(params, x):
        unused = jnp.sin(x) @ params["up"]
        return x + 0 * 1, unused.shape[0] + x[0, 0]

    model = written(tmp_path, fn)
    assert "Sin" not in nodes(model) and not any(t.name == "up" for t in model.graph.initializer)


def test_bytes_are_multiplied_by_matmulinteger_and_never_by_gemm(tmp_path):
    """An int8 Gemm or MatMul is no ONNX: the checker that took this file would not take it."""

    def fn(params, x):
        dims = (((1,), (1,)), ((), ()))
        q = x.astype(jnp.int8)
        return lax.dot_general(q, params["w"], dims, preferred_element_type=jnp.int32)

    params = {"w": jnp.ones((5, 32), jnp.int8)}
    model = written(tmp_path, fn, params)
    assert "MatMulInteger" in nodes(model) and not {"Gemm", "MatMul"} & set(nodes(model))


def test_the_decoders_ops_are_operators_of_onnx(tmp_path):
    from bitnet_jax.ops.attention import attention
    from bitnet_jax.ops.gated_activation import gated_activation
    from bitnet_jax.ops.rms_norm import rms_norm
    from bitnet_jax.ops.rotary import rotary

    def fn(params, x, positions):
        q = rotary(x, positions, theta=1e4)
        y = attention(q, q, x, positions).reshape(2, 5, 16)
        return gated_activation(y, rms_norm(y, params["w"], eps=1e-5), kind="relu2")

    x, positions = normal(2, 5, 2, 8), jnp.tile(jnp.arange(5, dtype=jnp.int32), (2, 1))
    found = nodes(written(tmp_path, fn, {"w": normal(16)}, x, positions))
    for op in ("RotaryEmbedding", "Attention", "RMSNormalization", "Relu"):
        assert found.count(op) == 1


# ---------------------------------------------------------------------------------- names, sizes
def test_an_input_with_a_parameters_name_says_what_it_is(tmp_path):
    def fn(params, up):
        return up @ params["up"]

    (port,) = written(tmp_path, fn).graph.input
    assert port.name == "input.up"


def test_names_may_be_given_and_must_fit(tmp_path):
    model = written(tmp_path, inputs=["features"], outputs=["scores"])
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("features", "scores")
    for wrong in (["a", "b"], ["up"]):
        with pytest.raises(UsageError) as caught:
            export_onnx(mlp, PARAMS, X, path=tmp_path / "other.onnx", inputs=wrong)
        assert caught.value.code == "export.names"
    assert not (tmp_path / "other.onnx").exists()


def test_an_open_size_is_named_as_its_symbol(tmp_path):
    (batch,) = jax.export.symbolic_shape("batch")
    model = written(tmp_path, mlp, PARAMS, jax.ShapeDtypeStruct((batch, 32), jnp.float32))
    (port,) = model.graph.input
    assert [d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim] == ["batch", 32]


def test_a_symbol_that_is_no_inputs_own_size_is_refused_by_name(tmp_path):
    (batch,) = jax.export.symbolic_shape("batch")

    def fn(params, x):
        return x.reshape(-1, 4) + jnp.arange(batch)[0]

    with pytest.raises(UsageError) as caught:
        shape = jax.ShapeDtypeStruct((2 * batch, 4), jnp.float32)
        export_onnx(fn, {}, shape, path=tmp_path / "m.onnx")
    assert caught.value.code == "export.symbol" and "`batch`" in str(caught.value)


# ---------------------------------------------------------------------------------- refusals
def test_an_unknown_primitive_is_named_with_the_users_line(tmp_path):
    def fn(params, x):
        return lax.lgamma(x)

    with pytest.raises(UsageError) as caught:
        export_onnx(fn, {}, X, path=tmp_path / "m.onnx")
    assert caught.value.code == "export.primitive"
    assert "`lgamma`" in str(caught.value) and "test_graph.py:" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_form_that_has_no_rule_is_named_with_the_users_line(tmp_path):
    def fn(params, x):
        return lax.sort((x, x), num_keys=2)

    with pytest.raises(UsageError) as caught:
        export_onnx(fn, {}, X, path=tmp_path / "m.onnx")
    assert caught.value.code == "export.form" and "test_graph.py:" in str(caught.value)


def test_a_random_key_is_refused_by_its_dtype(tmp_path):
    def fn(params, x, key):
        return x + jax.random.normal(key, x.shape)

    with pytest.raises(UsageError) as caught:
        export_onnx(fn, {}, X, jax.random.key(0), path=tmp_path / "m.onnx")
    assert caught.value.code == "export.dtype" and "`key`" in str(caught.value)


def test_an_unknown_profile_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(UsageError) as caught:
        export_onnx(mlp, PARAMS, X, path=tmp_path / "m.onnx", profile="portble")
    assert caught.value.code == "export.profile" and "portable" in caught.value.hint


def test_packed_codes_that_reach_another_op_are_refused(tmp_path):
    params = {"up": from_codes(np.ones((48, 32), np.int8), np.float32(1))}

    def fn(params, x):
        return params["up"].codes.astype(jnp.float32).sum() + x

    with pytest.raises(UsageError) as caught:
        lower(trace(fn, params, X), params, PROFILES["portable"], [Port("x")], [Port("y")])
    assert caught.value.code == "export.codes_use" and "`up`" in str(caught.value)
    assert "test_graph.py:" in str(caught.value)


# ---------------------------------------------------------------------------------- files
def test_what_stands_there_is_left_alone(tmp_path):
    written(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(before) == {"model.onnx", "model.onnx.data"}
    with pytest.raises(CannotCreate):
        export_onnx(mlp, PARAMS, X, path=tmp_path / "model.onnx")
    (tmp_path / "model.onnx").unlink()  # the data alone stop it too
    with pytest.raises(CannotCreate):
        export_onnx(mlp, PARAMS, X, path=tmp_path / "model.onnx")
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx.data"}
    written(tmp_path, force=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_data_are_aligned_and_no_byte_stands_twice(tmp_path):
    sizes = {"up": (32, 1 << 14), "bias": (1 << 14,), "down": (1 << 14, 3)}
    params = {name: np.ones(size, np.float32) for name, size in sizes.items()}
    model = written(tmp_path, mlp, params)
    places = []
    for tensor in model.graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if not where:
            assert len(tensor.raw_data) < 4096
            continue
        assert where["location"] == "model.onnx.data"
        offset, length = int(where["offset"]), int(where["length"])
        assert offset % (1 << 16 if length >= 1 << 20 else 64) == 0
        places.append((offset, offset + length))
    ends = sorted(places)
    assert all(end <= start for (_, end), (start, _) in zip(ends, ends[1:], strict=False))
    assert ends[-1][1] == (tmp_path / "model.onnx.data").stat().st_size


def test_a_large_constant_goes_where_the_parameters_are(tmp_path):
    table = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    model = written(tmp_path, lambda params, x: x @ table, {})
    (tensor,) = [t for t in model.graph.initializer if list(t.dims) == [32, 64]]
    assert tensor.data_location == onnx.TensorProto.EXTERNAL
    assert (tmp_path / "model.onnx").stat().st_size < 2000


def test_a_failure_on_the_way_leaves_nothing(tmp_path, monkeypatch):
    from bitnet_jax.export import function

    def broken(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(function, "reopen", broken)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(mlp, PARAMS, X, path=tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
