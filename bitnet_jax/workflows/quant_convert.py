"""Quantizing a float model under rules, without training, and measuring what that does to it.

The quantized model is a checkpoint like any other, whose tensors are made as they are read; it is
written, proven and given its receipt by `convert`. Its loss is measured from what was written,
opened again, beside the original's on the same text.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bitnet_jax.core.errors import UsageError
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.deliver import delivered
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import check_save
from bitnet_jax.workflows.convert import convert_checkpoint, converted
from bitnet_jax.workflows.measured_text import TOKENS, read_windows
from bitnet_jax.workflows.model_pair import measured
from bitnet_jax.workflows.quant_model import float_model
from bitnet_jax.workflows.quantized import (
    CALIBRATED,
    asked,
    check_method,
    quantized,
    quantized_checkpoint,
)
from bitnet_jax.workflows.wiring import with_wiring


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
    check_method(method)
    if calibration is not None and method not in CALIBRATED:
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
        read = None
        if method in CALIBRATED:
            read = read_windows(checkpoint, calibration, tokens=tokens, calibration=True)
        made = quantized(model, precision, method, read, progress)

        def also(written: Checkpoint) -> Mapping[str, Any]:
            return {
                **wiring,
                "quantized": made.about,
                "losses": measured(checkpoint, written, windows.tokens, progress),
                "text": windows.stated(),
            }

        return convert_checkpoint(
            made.checkpoint, delivery, format, encoding, (), True, force, also, progress=progress
        )


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
    calibration: str | os.PathLike | None = None,
    offline: bool | None = None,
) -> dict[str, Any] | None:
    """Returns the record of this very quantization if it was made before and still holds, or None.

    It holds as `converted` says, while its settings and the texts that it read are these.

    Raises:
      NoInput, BadData, …: the source cannot be opened, or not quantized; a text cannot be read.
    """
    record = converted(source, output, format=format, encoding=encoding, offline=offline)
    about = (record or {}).get("quantized")
    if record is None or not isinstance(about, dict):
        return None
    checkpoint = open_checkpoint(source, offline=offline)
    wanted = asked(float_model(checkpoint, precision, recipe), precision, method)
    if wanted != {name: about.get(name) for name in wanted}:
        return None
    texts = [(record.get("text"), text, False)]
    if method in CALIBRATED:
        texts.append((about.get("calibration"), calibration, True))
    for stated, file, other in texts:
        read = read_windows(checkpoint, file, tokens=tokens, calibration=other)
        if not isinstance(stated, dict) or stated.get("sha256") != read.sha256:
            return None
    return record
