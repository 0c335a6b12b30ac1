"""Products of matrices in floats; those of quantized ones are in `quantized.py`."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from bitnet_jax.formats.onnx_ops.table import MICROSOFT, Node, operator, xp

# A counterpart computes in full float32: so do we on every device.
PRECISION = "highest"


def matmul(x: Any, y: Any) -> Any:
    """As `numpy.matmul`."""
    if xp(x, y) is np:
        return np.matmul(x, y)
    return jnp.matmul(x, y, precision=PRECISION)


@operator("MatMul")
def mat_mul(node: Node, x: Any, y: Any) -> Any:
    return matmul(x, y)


@operator("Gemm")
def gemm(node: Node, x: Any, y: Any, c: Any = None) -> Any:
    """``alpha * x @ y + beta * c``, each turned where its attribute says so."""
    x = x.T if node.get("transA", 0) else x
    y = y.T if node.get("transB", 0) else y
    found = matmul(x, y)
    if node.get("alpha", 1.0) != 1.0:
        found = found * node.get("alpha")
    if c is None:
        return found
    return found + (c if node.get("beta", 1.0) == 1.0 else c * node.get("beta"))


@operator("Einsum")
def einsum(node: Node, *values: Any) -> Any:
    equation = node.need("equation").replace(" ", "")
    if xp(*values) is np:
        return np.einsum(equation, *values)
    return jnp.einsum(equation, *values, precision=PRECISION)


@operator("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(node: Node, x: Any, y: Any) -> Any:
    def turned(value: Any, which: str) -> Any:
        if node.get(f"transBatch{which}", 0) and value.ndim > 2:
            order = [*range(1, value.ndim - 1), 0, value.ndim - 1]
            value = xp(value).transpose(value, order)
        return value.swapaxes(-1, -2) if node.get(f"trans{which}", 0) else value

    found = matmul(turned(x, "A"), turned(y, "B"))
    return found if node.get("alpha", 1.0) == 1.0 else found * node.get("alpha")


@operator("FusedGemm", domain=MICROSOFT)
def fused_gemm(node: Node, x: Any, y: Any, c: Any = None) -> Any:
    return activation(node, gemm(node, x, y, c), "activation")


def activation(node: Node, x: Any, key: str) -> Any:
    """What a fused node applies at its end; its own attributes are those of that operator."""
    from bitnet_jax.formats.onnx_ops.table import look_up

    name = node.get(key, "")
    if not name:
        return x
    row = look_up("", name, 22)
    if row is None:
        raise node.unsupported(f"activation `{name}`")
    params = node.get("activation_params") or []
    renamed = dict(zip(("alpha", "beta"), params, strict=False))
    renamed |= {"alpha": node.get("activation_alpha")} if node.get("activation_alpha") else {}
    if name == "Clip" and params:
        renamed = dict(zip(("min", "max"), params, strict=False))
        return row.run(Node(name, node.where, 6, renamed), x)
    return row.run(Node(name, node.where, 22, renamed), x)
