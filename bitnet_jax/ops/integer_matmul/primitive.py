"""The primitive: what passes and exporters match, and what each platform lowers.

`integer_matmul_p` takes x [B, M, in], codes [B, ...], scale [B, ...] and, where the
activations' statistic is given, peak [B, M, 1]; it gives [B, M, out]. B is the stack
(experts, scanned layers, a vmapped axis of weights). A faster form is a module with a
function `matmul` in `MODULES` and a name in `select.TABLE`. Gradients stand at the op's
edge, in `packed_product.py`.
"""

from __future__ import annotations

from types import ModuleType

import jax.numpy as jnp
from jax.extend.core import Primitive

from bitnet_jax.core.jax_compat import result_aval
from bitnet_jax.ops.integer_matmul import native, reference, xla
from bitnet_jax.ops.packed_primitive import CODES, SCALE, TOKENS, install

integer_matmul_p = Primitive("integer_matmul")

MODULES: dict[str, ModuleType] = {"native": native, "xla": xla, "reference": reference}


@integer_matmul_p.def_abstract_eval
def _matmul_aval(x, codes, scale, *peak, out_features, out_dtype, **_):
    shape = (*x.shape[:2], out_features)
    return result_aval(shape, jnp.dtype(out_dtype), x, codes, scale, *peak)


install(integer_matmul_p, "matmul", MODULES, (TOKENS, CODES, SCALE, TOKENS))
