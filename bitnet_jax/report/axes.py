"""Scales, ticks and the frame of a chart: what all kinds share.

A chart is drawn for a width in pixels, once for wide screens and once for narrow ones, so that
its letters keep their size. Knows no kind of chart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bitnet_jax.core.letters import spelled_out
from bitnet_jax.report.format import shorten, tick, width
from bitnet_jax.report.markup import Markup, element, join

SIZE = 12  # of the font, in pixels; page.css says the same
WIDE, NARROW = 960, 328
GAP = 8


@dataclass(frozen=True)
class Picture:
    """What a kind of chart draws: markup, and how high it is."""

    height: float
    body: Markup


@dataclass(frozen=True)
class Box:
    """The rectangle that data is drawn in, in pixels from the top left."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` (low < high; above 0 where `log`) as pixels.

    `step`: both ends are multiples of it, where they were made round; else 0.
    """

    low: float
    high: float
    begin: float
    end: float
    log: bool = False
    step: float = 0.0

    def at(self, value: float) -> float:
        """Returns the pixel of a value, never outside the scale."""
        low, high = self._place(self.low), self._place(self.high)
        share = (self._place(min(max(value, self.low), self.high)) - low) / (high - low)
        return self.begin + (self.end - self.begin) * share

    def _place(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, most: int) -> tuple[list[float], float]:
        """Returns at most about `most` round values within the scale, and their distance."""
        if self.log:
            return _log_ticks(self.low, self.high, most), 0.0
        rough = (self.high - self.low) / max(most, 1)
        # The step that made the ends round, unless that would crowd the axis.
        step = self.step if self.step * 1.5 > rough else _round_step(rough)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)], step


def scale(
    values: Iterable[float | None],
    begin: float,
    end: float,
    *,
    zero: bool = False,
    log: bool = False,
    tight: bool = False,
) -> Scale:
    """Returns a scale that holds `values`: round ends, unless `tight`; with 0, where `zero`."""
    known = [value for value in values if value is not None and (value > 0 or not log)]
    low, high = (min(known), max(known)) if known else (1.0, 10.0) if log else (0.0, 1.0)
    if log:
        if tight and low < high:
            return Scale(low, high, begin, end, True)
        low = 10.0 ** math.floor(math.log10(low) + 1e-9)
        high = 10.0 ** math.ceil(math.log10(high) - 1e-9)
        return Scale(low, high if high > low else low * 10, begin, end, True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        spread = abs(low) * 0.5 or 0.5
        low, high = (low, high + 2 * spread) if zero else (low - spread, high + spread)
    if not tight:
        step = _round_step((high - low) / 5)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        return Scale(low, high, begin, end, step=step)
    return Scale(low, high, begin, end)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * (1 - 1e-9))


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    powers = range(first, last + 1)
    every = max(1, math.ceil(len(powers) / max(most, 1)))
    ticks = [10.0**power for power in powers if (power - first) % every == 0]
    if len(powers) >= 3:
        return ticks
    wanted = (1, 2, 5)
    span = range(first - 1, last + 1)
    return [
        f * 10.0**p for p in span for f in wanted if low <= f * 10.0**p * (1 + 1e-9) <= high * 1.001
    ]


def text(
    x: float, y: float, words: str, kind: str = "", *, limit: float = 0.0, full: str = ""
) -> Markup:
    """Returns words at (x, y), cut to `limit` pixels; the whole of them shows on hover."""
    words = spelled_out(words)
    if not words:
        return Markup()
    shown = shorten(words, limit, SIZE) if limit else words
    hover = full or (words if shown != words else "")
    return element(
        "text", shown, element("title", hover) if hover else None, x=x, y=y, class_=kind or None
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def path(points: Sequence[tuple[float, float] | None], kind: str, **more: Any) -> Markup:
    """Returns a line through points; it breaks where one is None."""
    words, fresh = [], True
    for point in points:
        if point is None:
            fresh = True
            continue
        words.append(f"{'M' if fresh else 'L'}{point[0]:.1f} {point[1]:.1f}")
        fresh = False
    return element("path", d="".join(words), class_=kind, **more)


def axis_title(name: str, unit: str) -> str:
    """Returns an axis's name with its unit: "loss (nats per token)"."""
    return f"{name} ({unit})" if name and unit else name or unit


def left_margin(values: Scale, most: int) -> float:
    """Returns the room that the labels of a y axis take."""
    ticks, step = values.ticks(most)
    return max((width(tick(value, step)) for value in ticks), default=1) * SIZE + GAP + 4


def y_axis(values: Scale, box: Box, title: str, most: int = 5) -> Markup:
    """Draws the labels and lines of the y axis, its title above it."""
    ticks, step = values.ticks(most)
    rows = [
        join(
            [
                line(box.left, values.at(value), box.right, values.at(value), "grid"),
                text(box.left - GAP, values.at(value) + 4, tick(value, step), "end"),
            ]
        )
        for value in ticks
    ]
    head = text(2, SIZE, title, "axis", limit=box.right) if title else None
    return join([*rows, head])


def x_axis(values: Scale, box: Box, title: str, most: int, *, grid: bool = False) -> Markup:
    """Draws the labels of the x axis, its line, and its title below."""
    ticks, step = values.ticks(most)
    parts = [line(box.left, box.bottom, box.right, box.bottom, "base")]
    for value in ticks:
        x, words = values.at(value), tick(value, step)
        parts.append(line(x, box.top if grid else box.bottom, x, box.bottom + 4, "grid"))
        parts.append(text(x, box.bottom + 18, words, _anchor(x, words, box)))
    if title:
        middle = (box.left + box.right) / 2
        parts.append(text(middle, box.bottom + 36, title, "axis mid", limit=box.right))
    return join(parts)


def _anchor(x: float, words: str, box: Box) -> str:
    """How a label stands at its tick: in the middle, unless it would leave the picture."""
    return "end" if x + width(words) * SIZE / 2 > box.right + 6 else "mid"


def nothing(size: float) -> Picture:
    """Returns the picture of a chart without a value."""
    return Picture(48, text(size / 2, 28, "no values", "axis mid"))
