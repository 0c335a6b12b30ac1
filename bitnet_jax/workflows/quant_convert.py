"""Quantizing a float model under rules, without training, and measuring what that does to it.

The quantized model is a checkpoint like any other, whose tensors are made as they are read; it is
written, proven and given its receipt by `convert`. Its loss is measured from what was written,
opened again, beside the original's on the same text.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.analysis.hessians import hessians
from bitnet_jax.bench.progress import task
from bitnet_jax.core.errors import BadData, BitnetError, InternalError, UsageError, did_you_mean
from bitnet_jax.formats.checkpoint import Checkpoint, TensorEntry
from bitnet_jax.formats.deliver import delivered
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.receipts import receipt_path
from bitnet_jax.formats.save import check_save, format_of
from bitnet_jax.passes.pack import pack_parameter
from bitnet_jax.quant.error_feedback import Fed, feed_errors
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.workflows.conversion_receipt import unsealed
from bitnet_jax.workflows.convert import convert_checkpoint
from bitnet_jax.workflows.measured_text import TOKENS, Windows, read_windows
from bitnet_jax.workflows.model_pair import losses, read_alone
from bitnet_jax.workflows.quant_model import FloatModel, float_model
from bitnet_jax.workflows.wiring import with_wiring

# absmean: codes and scale of each matrix by itself (`quant/kinds.py`). gptq: its rounding errors
# fed on (`quant/error_feedback.py`), with inputs from calibration text.
METHODS = ("absmean", "gptq")


def quant_convert(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    precision: str = "1.58",
    method: str = "absmean",
    recipe: str | os.PathLike | None = None,
    format: str | None = None,
    encoding: str | None = None,
    text: str | os.PathLike | None = None,
    tokens: int = TOKENS,
    calibration: str | os.PathLike | None = None,
    force: bool = False,
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Quantizes `source` to `output`.

    Args:
      precision, recipe: as `float_model` takes them.
      method: one of `METHODS`.
      format, encoding: as `convert` takes them.
      text, tokens: what the losses are measured on, as `read_windows` takes it.
      calibration: what ``gptq`` reads; the built-in text's other part if None.

    Returns:
      What `convert` does, and ``quantized`` (precision, method, rules, and by linear what was
      gained), ``losses`` (before, after, their paired change, each with its interval), ``text``.

    Raises:
      UsageError: `method` is unknown (``quant.method``), and what `float_model` raises.
      BadData, CannotCreate, …: as `float_model`, `read_windows` and `convert`.
    """
    if method not in METHODS:
        raise UsageError(
            "quant.method", f"method {method!r} is unknown", did_you_mean(str(method), METHODS)
        )
    if calibration is not None and method != "gptq":
        raise UsageError(
            "quant.calibration",
            f"method {method} reads no calibration text, and was given `{calibration}`",
            "leave it out, or use method gptq",
        )
    reach: dict[str, Any] = {"offline": offline, "progress": progress}
    with delivered(output, format=format, force=force, **reach) as delivery:
        checkpoint = open_checkpoint(source, **reach)
        model = float_model(checkpoint, precision, recipe)
        checkpoint, wiring = with_wiring(checkpoint, str(delivery.path))
        model = replace(model, checkpoint=checkpoint)
        plain = quantized_checkpoint(model)
        check_save(plain, delivery.path, format=format, encoding=encoding, force=force)
        windows = read_windows(checkpoint, text, tokens=tokens)
        about = asked(model, precision, method)
        if method == "gptq":
            read = read_windows(checkpoint, calibration, tokens=tokens, calibration=True)
            fed = feed(model, read, progress)
            plain = quantized_checkpoint(model, {name: row.tensor for name, row in fed.items()})
            layers = [{"name": name, **row.gain} for name, row in fed.items()]
            about |= {"calibration": read.to_json(), "layers": layers}

        def also(written: Checkpoint) -> Mapping[str, Any]:
            check_written(plain, written)
            before = read_alone(checkpoint, windows.tokens, progress)
            after = read_alone(written, windows.tokens, progress)
            return {
                **wiring,
                "quantized": about,
                "losses": losses(before, after),
                "text": windows.to_json(),
            }

        return convert_checkpoint(plain, delivery, format, encoding, (), True, force, also)


def quant_converted(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    precision: str = "1.58",
    method: str = "absmean",
    recipe: str | os.PathLike | None = None,
    format: str | None = None,
    encoding: str | None = None,
    text: str | os.PathLike | None = None,
    tokens: int = TOKENS,
    offline: bool | None = None,
) -> dict[str, Any] | None:
    """Returns the record of this very quantization if it was made before and still holds, or None.

    Plain rounding is made again, and compared with what stands there, code for code. What was
    fed on calibration text is never taken for done; nor is what lies in a store.

    Raises:
      NoInput, BadData, …: the source cannot be opened, or not quantized.
    """
    output = Path(output)
    receipt = receipt_path(output, format)
    try:
        record = unsealed(receipt.read_bytes())
        wanted = (format_of(output, format), encoding or record["encoding"])
        same = wanted == (record["format"], record["encoding"])
        about, read = record["quantized"], record["text"]
        names = [str(name) for name in record["outputs"]]
    except (OSError, BadData, TypeError, KeyError):
        return None  # no receipt of ours
    checkpoint = open_checkpoint(source, offline=offline)
    model = float_model(checkpoint, precision, recipe)
    if not same or method != "absmean" or about != asked(model, precision, method):
        return None
    if read["sha256"] != read_windows(checkpoint, text, tokens=tokens).sha256:
        return None
    try:
        check_written(quantized_checkpoint(model), open_checkpoint(output))
    except BitnetError:
        return None
    outputs = [str(output if name == output.name else output / name) for name in names]
    told = {"source": checkpoint.source.to_json(), "outputs": outputs, "receipt": str(receipt)}
    return {**record, **told}


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


def check_written(made: Checkpoint, written: Checkpoint) -> None:
    """Raises unless both hold the same codes, scales and floats.

    Raises:
      InternalError: they do not (``quant.changed``).
    """
    for name in made.entries:
        one, other = made.read(name), written.read(name)
        if isinstance(one, QuantTensor) and isinstance(other, QuantTensor):
            same = (
                one.kind == other.kind
                and np.array_equal(one.scale, other.scale)
                and np.array_equal(one.codes_matrix(), other.codes_matrix())
            )
        elif isinstance(one, QuantTensor) or isinstance(other, QuantTensor):
            same = False
        else:
            same = np.array_equal(one.astype(np.float32), other.astype(np.float32))
        if not same:
            raise InternalError(
                "quant.changed",
                f"`{name}` was written otherwise than it was made",
                "this is a bug: please report it",
            )


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
