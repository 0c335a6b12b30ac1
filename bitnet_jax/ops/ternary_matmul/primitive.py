"""The primitives: what passes and exporters match, and what each platform lowers.

`ternary_matmul_p` takes x [B, M, in], codes [B, OB, IB, 64] and scale [B, ...], and
gives [B, M, out]; `ternary_accumulate_p` takes int8 codes of activations and gives
the int32 sums. B is the stack (experts, scanned layers, a vmapped axis of weights).
Gradients stand at the op's edge, in api.py.
"""

from __future__ import annotations

from types import ModuleType

import jax.numpy as jnp
from jax.extend.core import Primitive

from bitnet_jax.core.jax_compat import result_aval
from bitnet_jax.ops.packed_primitive import CODES, SCALE, TOKENS, install
from bitnet_jax.ops.ternary_matmul import native, reference, xla

ternary_matmul_p = Primitive("ternary_matmul")
ternary_accumulate_p = Primitive("ternary_accumulate")

MODULES: dict[str, ModuleType] = {"native": native, "xla": xla, "reference": reference}


@ternary_matmul_p.def_abstract_eval
def _matmul_aval(x, codes, scale, *, out_features, out_dtype, **_):
    shape = (*x.shape[:2], out_features)
    return result_aval(shape, jnp.dtype(out_dtype), x, codes, scale)


@ternary_accumulate_p.def_abstract_eval
def _accumulate_aval(q, codes, *, out_features, **_):
    return result_aval((*q.shape[:2], out_features), jnp.dtype(jnp.int32), q, codes)


install(ternary_matmul_p, "matmul", MODULES, (TOKENS, CODES, SCALE))
install(ternary_accumulate_p, "accumulate", MODULES, (TOKENS, CODES))
