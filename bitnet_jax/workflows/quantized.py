"""A float model as rules, precision and method quantize it: what is made, and what is said of it.

The same code makes a model that is written and one that a receipt is checked against. Linears
are quantized as they are read: no two are held at once, but by a method that reads calibration
text, which looks at them all. Knows no output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitnet_jax.analysis.hessians import hessians
from bitnet_jax.bench.progress import task
from bitnet_jax.core.errors import UsageError, did_you_mean
from bitnet_jax.formats.checkpoint import Checkpoint, TensorEntry
from bitnet_jax.passes.pack import pack_parameter
from bitnet_jax.quant.error_feedback import Fed, feed_errors
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.workflows.measured_text import Windows
from bitnet_jax.workflows.quant_model import FloatModel

# absmean: codes and scale of each matrix by itself (`quant/kinds.py`). gptq: its rounding errors
# fed on (`quant/error_feedback.py`), with inputs from calibration text.
METHODS = ("absmean", "gptq")
# Those that read calibration text.
CALIBRATED = ("gptq",)


def check_method(method: str) -> None:
    """Raises `UsageError` (``quant.method``) unless there is such a method."""
    if method not in METHODS:
        raise UsageError(
            "quant.method", f"method {method!r} is unknown", did_you_mean(str(method), METHODS)
        )


@dataclass(frozen=True)
class Quantized:
    """What was made.

    Attributes:
      checkpoint: the model; its linears are `QuantTensor`s.
      about: what was asked for and, by linear, what a calibrated method gained, as records hold it.
    """

    checkpoint: Checkpoint
    about: dict[str, Any]


def quantized(
    model: FloatModel,
    precision: str,
    method: str,
    calibration: Windows | None = None,
    progress: Any = None,
) -> Quantized:
    """Quantizes the linears of `model`.

    Args:
      precision: as the model's rules were made with; told, not used.
      calibration: what a method of `CALIBRATED` reads.

    Raises:
      UsageError: `method` is unknown (``quant.method``).
      BadData: a weight is no number (``weights.not_finite``); what `hessians` raises.
    """
    check_method(method)
    about = asked(model, precision, method)
    if calibration is None:
        return Quantized(quantized_checkpoint(model), about)
    fed = feed(model, calibration, progress)
    about |= {
        "calibration": calibration.stated(),
        "layers": [{"name": name, **row.gain} for name, row in fed.items()],
    }
    given = {name: row.tensor for name, row in fed.items()}
    return Quantized(quantized_checkpoint(model, given), about)


def asked(model: FloatModel, precision: str, method: str) -> dict[str, Any]:
    """What was asked for, as records hold it."""
    names = model.names()
    return {
        "precision": precision,
        "method": method,
        "rules": model.rules_json(),
        "linears": len(names),
        "weights": sum(math.prod(model.checkpoint.entries[name].shape) for name in names),
    }


def quantized_checkpoint(
    model: FloatModel, given: Mapping[str, QuantTensor] | None = None
) -> Checkpoint:
    """The model with its linears quantized, each as it is read: no two are held at once.

    Args:
      given: linears that were quantized already; the others are rounded plainly.
    """
    entries = dict(model.checkpoint.entries)
    for name in model.names():
        entries[name] = _entry(model, entries[name], (given or {}).get(name))
    # The source's own program computes with the floats.
    return replace(model.checkpoint, entries=entries, own=None)


def _entry(model: FloatModel, entry: TensorEntry, given: QuantTensor | None) -> TensorEntry:
    def read() -> QuantTensor:
        found = given or pack_parameter(model.plan, entry.name, model.read(entry.name))
        return replace(found, codes=np.asarray(found.codes), scale=np.asarray(found.scale))

    def latent() -> np.ndarray:
        return np.asarray(entry.read())

    return replace(entry, ternary=True, read=read, latent=latent, parts=None)


# ------------------------------------------------------------------------- error feedback
@dataclass(frozen=True)
class Made:
    """One linear whose errors were fed on, and what that gained."""

    tensor: QuantTensor
    gain: dict[str, Any]


def feed(model: FloatModel, read: Windows, progress: Any = None) -> dict[str, Made]:
    """Quantizes every linear with error feedback, over the inputs that `read` gives it.

    Inputs are those of the float model: a linear does not see the errors of those before it.
    """
    params = model.params()
    inputs = {}
    for name in model.names():
        shape, inner = model.checkpoint.entries[name].shape, model.plan.layouts(name)[0].inner
        inputs[name] = math.prod(shape[axis] for axis in inner)
    made: dict[str, Made] = {}
    found = hessians(model.forward, params, model.rules, read.tokens, inputs)
    with task(progress, "feed errors on", len(inputs), "linear") as told:
        for name, hessian in found:
            made[name] = _fed(model, name, params[name], hessian)
            told()
    return made


def _fed(model: FloatModel, name: str, value: Any, hessian: np.ndarray) -> Made:
    rule = model.plan.rule(name)
    assert rule is not None
    seen: list[Fed] = []

    def quantize(matrix: Any) -> tuple[Any, Any]:
        scale = (rule.scale_kind, rule.group_size, rule.scale_dtype)
        seen.append(feed_errors(np.asarray(matrix, np.float32), hessian, rule.to, *scale))
        return seen[0].codes, seen[0].scale

    return Made(pack_parameter(model.plan, name, value, quantize), _gain(seen[0]))


def _gain(fed: Fed) -> dict[str, Any]:
    share = fed.error / fed.plain_error if fed.plain_error else None
    return {
        "output_error": fed.error,
        "plain_output_error": fed.plain_error,
        "share_of_plain": share,
        "scale_multiple": fed.multiple,
        "damping": fed.damping,
        "dead_inputs": fed.dead,
    }
