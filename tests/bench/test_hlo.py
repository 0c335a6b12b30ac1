from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.bench.hlo import largest_buffer, parse, unpacked
from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.transform import ternarize
from bitnet_jax.quant.rules import Rule

SHAPE = (96, 64)


def compiled(fn, *args):
    return jax.jit(fn).lower(*args).compile()


@pytest.fixture(scope="module")
def packed():
    weights = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    return pack(plain, {"w": weights}, [Rule("w")], jnp.ones((2, SHAPE[1])))


def plain(params, x):
    return x @ params["w"].T


def test_a_packed_product_unpacks_nothing(packed):
    run = ternarize(plain, [Rule("w")], "packed")
    module = parse(compiled(run, packed, jnp.ones((2, SHAPE[1]))).as_text())
    calls = [line.target for line in module.run() if line.opcode == "custom-call"]
    # A second library in the process has a number after its name.
    assert [name.partition(".")[0] for name in calls] == ["bitnet_ternary_matmul"]
    assert unpacked(module, SHAPE[0] * SHAPE[1]) == []


def test_a_weight_that_is_made_float_again_is_found(packed):
    def silent(params, x):
        # As somebody would do it who does not want to be seen: two bits to floats, then a product.
        trits = (params["w"].codes[..., None] >> jnp.arange(0, 8, 2, dtype=jnp.uint8)) & 3
        weights = trits.astype(jnp.float32).reshape(-1, SHAPE[1]) - 1
        return jnp.dot(x, jax.lax.optimization_barrier(weights).T) * params["w"].scale

    module = parse(compiled(silent, packed.leaves, jnp.ones((2, SHAPE[1]))).as_text())
    found = unpacked(module, SHAPE[0] * SHAPE[1])
    assert found and all(row["dtype"] == "f32" for row in found)


def test_an_activation_of_the_same_size_is_no_weight(packed):
    run = ternarize(plain, [Rule("w")], "packed")
    module = parse(compiled(run, packed, jnp.ones((SHAPE[0], SHAPE[1]))).as_text())
    assert unpacked(module, SHAPE[0] * SHAPE[1]) == []


def test_a_module_that_takes_nothing_packed_proves_nothing():
    module = parse(compiled(plain, {"w": jnp.ones(SHAPE)}, jnp.ones((2, SHAPE[1]))).as_text())
    assert unpacked(module, 1) is None
    assert unpacked(parse(""), 1) is None


def test_the_largest_buffer_is_read_off_the_assignment():
    def fn(x):
        return jax.lax.optimization_barrier(jnp.outer(x, x)) @ x

    analysis = compiled(fn, jnp.ones(1000)).memory_analysis()
    assert largest_buffer(analysis.serialized_buffer_assignment_proto) == 4_000_000
    assert largest_buffer(b"") is None


def test_a_loops_body_is_part_of_what_runs():
    def fn(x):
        return jax.lax.fori_loop(0, 3, lambda i, y: jnp.sin(y) + i, x)

    module = parse(compiled(fn, jnp.ones(8)).as_text())
    opcodes = {line.opcode for line in module.run()}
    assert "while" in opcodes and "parameter" in opcodes
    assert len(list(module.run())) > len(module.computations[module.entry])
