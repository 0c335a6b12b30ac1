"""Norms inside of linears: `use_rms_norm` and `rms_norm_eps` of a `quantization_config`.

In transformers any quantized linear may have one (`BitLinear.rms_norm`): an RMSNorm of its
input before that is quantized. A family that takes `LINEAR_NORMS` into its own fields has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.core.errors import BadData
from bitnet_jax.ir.spec import ModelSpec, Scalar
from bitnet_jax.models.config_keys import boolean, number

# The epsilon is transformers' own default.
LINEAR_NORMS: dict[str, Scalar] = {"linear_norms": False, "linear_norm_eps": 1e-6}


def linear_norm_eps(spec: ModelSpec) -> float:
    """The epsilon of the norms inside the linears; 0 where there are none."""
    return float(spec.extra["linear_norm_eps"]) if spec.extra["linear_norms"] else 0.0


def read_linear_norms(raw: Mapping[str, Any], where: str) -> dict[str, Scalar]:
    """The fields, from a whole config."""
    found = raw.get("quantization_config")
    place = f"{where}: quantization_config"
    if not isinstance(found, dict) or not boolean(found, "use_rms_norm", place):
        return dict(LINEAR_NORMS)
    eps = number(found, "rms_norm_eps", place, float(LINEAR_NORMS["linear_norm_eps"]))
    if eps <= 0:
        raise BadData("config.value", f"{place}: rms_norm_eps {eps} is not positive")
    return {"linear_norms": True, "linear_norm_eps": eps}


def write_linear_norms(spec: ModelSpec) -> dict[str, Any]:
    """Keys of a `quantization_config`; none where the linears have no norms."""
    eps = linear_norm_eps(spec) if "linear_norms" in spec.extra else 0.0
    return {"use_rms_norm": True, "rms_norm_eps": eps} if eps else {}
