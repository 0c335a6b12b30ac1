"""How a value is written: numbers with separators, names that cannot disturb the page.

One spelling for the whole page. Knows neither HTML nor SVG.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from bitnet_jax.core.letters import spelled_out

NOTHING = "–"
# Digits that a figure shows; the whole of it stands in the tooltip and in the record.
DIGITS = 5
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def show(value: Any) -> str:
    """Returns any value of a record as a person reads it."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, list | tuple):
        return ", ".join(_member(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {show(item)}" for key, item in value.items()) or "none"
    return spelled_out(str(value))


def _member(value: Any) -> str:
    """Returns a value in a list, where a comma would be read as the end of a number."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value).replace("-", "−") if whole else show(value)


def number(value: float) -> str:
    """Returns a number: whole ones exactly, others to five digits; thousands set apart."""
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    size = abs(value)
    if size and not 1e-3 <= size < 1e9:
        mantissa, _, power = f"{value:.{DIGITS - 1}e}".partition("e")
        digits = mantissa.rstrip("0").rstrip(".").replace("-", "−")
        return f"{digits}×10{str(int(power)).translate(_SUPERSCRIPT)}"
    whole = len(str(int(size))) if size >= 1 else 0
    places = max(DIGITS - whole, 0)
    if 0 < size < 1:  # leading zeros are no digits
        places += -int(math.floor(math.log10(size))) - 1
    text = f"{value:,.{places}f}"
    # Zeros at the end say that there is more; a value that is exact has none.
    if "." in text and float(text.replace(",", "")) == value:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−")


def tick(value: float, step: float) -> str:
    """Returns a number on an axis whose ticks are `step` apart (0: they are powers), short."""
    far = step == 0 or abs(value) < step * 1e5
    size, prefix = next((row for row in _PREFIXES if abs(value) >= row[0] and far), (1.0, ""))
    if value and abs(value) < 1e-3 and step < 1e-3:
        mantissa, _, power = f"{value:.3e}".partition("e")
        digits = mantissa.rstrip("0").rstrip(".")
        head = "" if digits == "1" else "−" if digits == "-1" else f"{digits}×"
        return f"{head}10{str(int(power)).translate(_SUPERSCRIPT)}".replace("-", "−")
    text = f"{value / size:,.{_places(step / size)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return ("0" if text in ("-0", "0") else text.replace("-", "−")) + prefix


def _places(step: float) -> int:
    """Returns how many decimals tell multiples of `step` apart; 3 where it is 0."""
    if step <= 0:
        return 3
    return next((n for n in range(9) if abs(round(step, n) - step) < step * 1e-6), 9)


def with_unit(text: str, unit: str) -> str:
    """Returns a number's text with its unit behind it."""
    return text + unit if unit == "%" else f"{text} {unit}" if unit else text


def width(text: str) -> float:
    """Returns about how wide `text` is, in units of the font's size."""
    return sum(_letter_width(letter) for letter in text)


def _letter_width(letter: str) -> float:
    if letter in "ijl.,:;'|!I ()[]-":
        return 0.36
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.05
    return 0.75 if letter.isupper() or letter in "mwMW_" else 0.61


def shorten(text: str, limit: float, size: float) -> str:
    """Returns `text` cut in the middle to fit `limit` pixels at a font of `size` pixels.

    In the middle: names of tensors differ at both ends.
    """
    if width(text) * size <= limit:
        return text
    room = limit / size - 1.0
    tail: list[str] = []
    head: list[str] = []
    left, right, used = 0, len(text) - 1, 0.0
    while left <= right:
        from_end = len(tail) <= 1.5 * len(head)
        letter = text[right] if from_end else text[left]
        used += _letter_width(letter)
        if used > room:
            break
        if from_end:
            tail.append(letter)
            right -= 1
        else:
            head.append(letter)
            left += 1
    return "".join(head) + "…" + "".join(reversed(tail))
