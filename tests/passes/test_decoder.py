"""The transform on the real decoder: goldens, equality of the modes, and its cost."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.ir.program import trace
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.ir.verify import verify
from bitnet_jax.models.families import family_of
from bitnet_jax.models.names import expected
from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.pack_weights import pack_weights
from bitnet_jax.passes.quantize_linears import quantize_linears
from bitnet_jax.passes.transform import ternarize
from tests.tiny import tiny_spec

SPEC = tiny_spec(
    vocab_size=24, hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, num_kv_heads=1
)
FAMILY = family_of("bitnet")


def test_goldens_before_and_after(golden):
    params = FAMILY.init(SPEC, 0)
    tokens = jnp.zeros((1, 3), jnp.int32)
    program = verify(trace(FAMILY.forward(SPEC), params, tokens))
    golden("decoder_before", str(program))
    golden("decoder_qat", str(verify(quantize_linears(program, FAMILY.rules))))
    packed = pack(FAMILY.forward(SPEC), params, FAMILY.rules, tokens)
    golden("decoder_packed", str(verify(pack_weights(program, packed))))


def test_the_modes_agree_to_the_cascade():
    params = FAMILY.init(SPEC, 0)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 24, (4, 9)))
    qat = jax.jit(ternarize(FAMILY.forward(SPEC), FAMILY.rules))(params, tokens)
    packed = pack(FAMILY.forward(SPEC), params, FAMILY.rules, tokens)
    run = jax.jit(ternarize(FAMILY.forward(SPEC), FAMILY.rules, "packed"))(packed, tokens)
    np.testing.assert_allclose(run, qat, atol=2e-6)


def test_transforming_thirty_layers_takes_seconds_at_most():
    spec = ModelSpec(**{**vars(SPEC), "num_layers": 30})
    params = {
        name: jax.ShapeDtypeStruct(row.shape, jnp.float32) for name, row in expected(spec).items()
    }
    program = trace(FAMILY.forward(spec), params, jnp.zeros((1, 3), jnp.int32))
    started = time.perf_counter()
    quantize_linears(program, FAMILY.rules)
    # 0.1 s on a quiet machine; before linears were traced once per shape it was 6 s
    assert time.perf_counter() - started < 3
