"""The table of constructs with bodies of their own, by primitive.

Each is built again through its public form (`lax.scan`, `jax.checkpoint`, …) around its
transformed body, because packed leaves change the number of operands. Bodies that JAX
traces at once may close over outer values.

Knows nothing of quantization.
"""

from __future__ import annotations

from bitnet_jax.ir.constructs.branches import COND
from bitnet_jax.ir.constructs.calls import CLOSED_CALL, REMAT, call_jit
from bitnet_jax.ir.constructs.derivatives import CUSTOM_JVP, CUSTOM_VJP
from bitnet_jax.ir.constructs.loops import SCAN, WHILE
from bitnet_jax.ir.constructs.shards import SHARD_MAP
from bitnet_jax.ir.interpreter import Construct, Rule

CONSTRUCTS: dict[str, Rule | Construct] = {
    "jit": call_jit,
    "closed_call": CLOSED_CALL,
    "remat2": REMAT,
    "checkpoint": REMAT,
    "scan": SCAN,
    "while": WHILE,
    "cond": COND,
    "custom_jvp_call": CUSTOM_JVP,
    "custom_vjp_call": CUSTOM_VJP,
    "shard_map": SHARD_MAP,
}
