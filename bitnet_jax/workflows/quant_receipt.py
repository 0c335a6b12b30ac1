"""What the receipt of a quantization claims beside a conversion's, and deriving it again.

Codes and scales are made again from the source, under the rules, precision and method that the
receipt states, by the code that made them. Plain rounding gives the same bits on every machine and
is compared exactly. What was fed on calibration text comes from sums in float32, whose last bits a
processor may have otherwise: it too is exact where versions and kernel are those of the receipt;
elsewhere a few codes may differ (`SHARE`), never a scale. Losses are compared to `CLOSE` anywhere.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData, NoInput, UsageError
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.quant.rules import Rule, as_rules
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.workflows.measured_text import Windows, read_windows
from bitnet_jax.workflows.model_pair import measured
from bitnet_jax.workflows.quant_model import PRECISIONS, FloatModel, ruled_model
from bitnet_jax.workflows.quantized import (
    CALIBRATED,
    Quantized,
    check_method,
    quantized,
    quantized_checkpoint,
)

# Of a matrix's codes, those that may differ where another kernel or version summed. Noise of 1e-5
# in the sums, a hundred times float32's, moved 0.15 % at the most of 28 matrices' codes; none moved
# between XLA's widest instructions and SSE4.2.
SHARE = 0.01
# Losses in nats, absolute; of shares (the same first choice) tenfold: one code that flips moves a
# token's choice.
CLOSE = 1e-3


@dataclass(frozen=True)
class Texts:
    """Where to look for the texts that a receipt names.

    Attributes:
      text, calibration: what the caller gave; None: look for the stated name.
      folder: the receipt's own, where that name is looked for too.
    """

    folder: Path
    text: str | os.PathLike | None = None
    calibration: str | os.PathLike | None = None

    def find(self, checkpoint: Checkpoint, stated: Any, option: str) -> Windows:
        """Reads a stated text again.

        Args:
          stated: as `Windows.stated` gives it; its ids are looked for, whatever the file's name.
          option: ``text`` or ``calibration``.

        Raises:
          NoInput: it is not here, or not the same (``receipt.text``).
          BadData: the receipt does not state one (``receipt.quantized``).
        """
        match stated:
            case {
                "sha256": str(sha256), "asked": int(asked), "source": str(source),
                "file": None | str() as name,
            }:  # fmt: skip
                pass
            case _:
                raise _unusable(f"its {option} is no text that can be read again")
        given = getattr(self, option)
        places: list[Path | None] = [None]
        if given is not None:
            places = [Path(given)]
        elif name is not None:
            places = [path for path in (Path(name), self.folder / name) if path.exists()]
        seen = []
        for place in places:
            try:
                windows = read_windows(
                    checkpoint, place, tokens=asked, calibration=option == "calibration"
                )
            except (BadData, UsageError) as error:
                seen.append(error.message)
                continue
            if windows.sha256 == sha256:
                return replace(windows, source=source, file=name)  # named otherwise by now
            seen.append(f"`{place or windows.source}` gives other tokens")
        which = f"`{name}`" if name else "the built-in text"
        raise NoInput(
            "receipt.text",
            f"the receipt's {option} text, {which} (SHA-256 of its ids: {sha256}), is not here: "
            + ("; ".join(seen) or "there is no such file beside the receipt, nor in this folder"),
            (f"name the file that was read: --{option} FILE" if name else _BUILT_IN)
            + ("; or leave the losses out: --no-probe" if option == "text" else ""),
        )


_BUILT_IN = (
    "it is of Python's own library: use the version of Python that the receipt was made with"
)


def _unusable(why: str) -> BadData:
    return BadData(
        "receipt.quantized",
        f"what the receipt says of quantizing cannot be done to the source: {why}",
        "get the receipt again from where the model came from, or quantize again",
    )


def quantized_again(
    checkpoint: Checkpoint, stated: Any, texts: Texts, progress: Any = None
) -> tuple[FloatModel, Quantized]:
    """The source's model, quantized as a receipt's ``quantized`` states.

    Raises:
      BadData: it states nothing that can be done to this source (``receipt.quantized``).
      NoInput: the calibration text is not here (``receipt.text``).
    """
    match stated:
        case {"rules": list(rows), "precision": str(precision), "method": str(method)}:
            pass
        case _:
            raise _unusable("no rules, precision or method")
    try:
        check_method(method)
        rules = as_rules(rows)
        _check_precision(precision, rules)
        model = ruled_model(checkpoint, rules)
    except (BadData, UsageError) as error:
        raise _unusable(error.message) from error
    read = None
    if method in CALIBRATED:
        read = texts.find(checkpoint, stated.get("calibration"), "calibration")
    return model, quantized(model, precision, method, read, progress)


def _check_precision(precision: str, rules: tuple[Rule, ...]) -> None:
    kind = PRECISIONS.get(precision)
    others = {rule.to for rule in rules} - {"keep"}
    # Another precision than ternary leaves no rule that says ternary.
    if kind is None or (kind != "ternary" and "ternary" in others):
        raise _unusable(f"precision {precision!r} does not go with its rules")


def settled(
    model: FloatModel, made: Quantized, output: Checkpoint
) -> tuple[Quantized, dict[str, int]]:
    """What an output of another kernel is compared with, and how many codes of each are others.

    Linears that differ as little as another order of additions allows are taken for what was made,
    as the output has them. Plain rounding adds in one order: of it nothing may differ.
    """
    if "calibration" not in made.about:
        return made, {}
    given: dict[str, QuantTensor] = {}
    counts: dict[str, int] = {}
    for name in model.names():
        one, other = made.checkpoint.read(name), output.read(name)
        assert isinstance(one, QuantTensor)
        given[name] = one
        alike = isinstance(other, QuantTensor) and one.kind == other.kind
        if not alike or not np.array_equal(one.scale, other.scale):  # type: ignore[union-attr]
            continue
        apart = np.count_nonzero(one.codes_matrix() != other.codes_matrix())  # type: ignore[union-attr]
        if 0 < apart <= SHARE * math.prod(one.shape):
            given[name], counts[name] = other, int(apart)  # type: ignore[assignment]
    return Quantized(quantized_checkpoint(model, given), made.about), counts


def loss_claims(
    source: Checkpoint, output: Checkpoint, stated: Mapping[str, Any], texts: Texts, progress: Any
) -> dict[str, Any]:
    """``text`` and ``losses``, measured again.

    Raises:
      NoInput: the text is not here (``receipt.text``).
      BadData: none is stated (``receipt.quantized``).
    """
    windows = texts.find(source, stated.get("text"), "text")
    return {
        "text": windows.stated(),
        "losses": measured(source, output, windows.tokens, progress),
    }


def losses_alike(stated: Any, found: Mapping[str, Any]) -> bool:
    """Whether losses agree as far as machines do."""
    return (
        isinstance(stated, Mapping)
        and stated.keys() == found.keys()
        and all(
            figures_alike(stated[name], found[name], CLOSE * (10 if name in _SHARES else 1))
            for name in found
        )
    )


_SHARES = ("top1_agreement",)


def figures_alike(stated: Any, found: Any, close: float = CLOSE) -> bool:
    """Whether two records agree: all but floats in full, floats to `close` of what is above 1."""
    if isinstance(stated, Mapping) and isinstance(found, Mapping):
        return stated.keys() == found.keys() and all(
            figures_alike(stated[name], found[name], close) for name in found
        )
    if isinstance(stated, list) and isinstance(found, list):
        return len(stated) == len(found) and all(
            figures_alike(one, other, close) for one, other in zip(stated, found, strict=True)
        )
    if isinstance(stated, float) and isinstance(found, float):
        return stated == found or abs(stated - found) <= close * max(1.0, abs(found))
    return type(stated) is type(found) and bool(stated == found)
