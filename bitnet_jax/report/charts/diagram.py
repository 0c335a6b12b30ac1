"""Boxes one below the other, with boxes in them: the picture of an architecture.

Knows nothing of models: names, notes and colours are given.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitnet_jax.report.axes import GAP, SIZE, Picture, nothing, path, text
from bitnet_jax.report.format import show, width
from bitnet_jax.report.kinds import Block, Diagram, Table
from bitnet_jax.report.markup import Markup, element, join

BOX, GAP_Y, PAD = 42, 16, 14
ROW, BETWEEN = 26, 5  # of boxes that are only listed
WIDEST = 620  # a wider box only holds more air


def draw(chart: Diagram, size: float) -> Picture:
    """Draws the chart `size` pixels wide."""
    if not chart.blocks:
        return nothing(size)
    wide = min(size - 4.0, WIDEST)
    left = (size - wide) / 2
    parts: list[Markup] = []
    bottom = _stack(chart.blocks, left, 2.0, wide, parts)
    return Picture(bottom + 4, join(parts))


def _stack(
    blocks: Sequence[Block], left: float, top: float, wide: float, parts: list[Markup]
) -> float:
    """Draws blocks downwards from `top`; returns where they end."""
    for index, block in enumerate(blocks):
        if index:
            middle = left + wide / 2
            parts.append(_arrow(middle, top, top + GAP_Y))
            top += GAP_Y
        top = (
            _group(block, left, top, wide, parts)
            if block.blocks
            else _leaf(block, left, top, wide, parts)
        )
    return top


def _leaf(block: Block, left: float, top: float, wide: float, parts: list[Markup]) -> float:
    parts.append(_frame(left, top, wide, BOX, block.colour))
    room = wide - 2 * PAD
    name_y = top + (18 if block.note else BOX / 2 + 4)
    middle = left + wide / 2
    parts.append(text(middle, name_y, _named(block), "name mid", limit=room / 1.1))
    if block.note:
        parts.append(text(middle, top + 35, block.note, "axis mid", limit=room))
    return top + BOX


def _list(
    blocks: Sequence[Block], left: float, top: float, wide: float, parts: list[Markup]
) -> float:
    """Draws blocks in a line each, without an order; returns where they end."""
    for block in blocks:
        parts.append(_frame(left, top, wide, ROW, block.colour))
        name = _named(block)
        limit = wide - 2 * PAD
        parts.append(text(left + PAD, top + 17, name, "name", limit=limit * 0.6))
        room = limit - min(width(name) * SIZE * 1.1, limit * 0.6) - GAP
        parts.append(text(left + wide - PAD, top + 17, block.note, "axis end", limit=room))
        top += ROW + BETWEEN
    return top - BETWEEN


def _group(block: Block, left: float, top: float, wide: float, parts: list[Markup]) -> float:
    head = 26
    inside: list[Markup] = []
    draw_all = _stack if block.ordered else _list
    bottom = draw_all(block.blocks, left + PAD, top + head + 4, wide - 2 * PAD, inside) + PAD
    parts.append(_frame(left, top, wide, bottom - top, block.colour or "group"))
    times = f"× {show(block.times)}" if block.times != 1 else ""
    room = wide - 2 * PAD - (width(times) * SIZE * 1.2 + GAP if times else 0)
    words = f"{block.name}   {block.note}" if block.note else block.name
    parts.append(text(left + PAD, top + 19, words, "name", limit=room / 1.1))
    if times:
        parts.append(text(left + wide - PAD, top + 19, times, "name end"))
    parts += inside
    return bottom


def _named(block: Block) -> str:
    return block.name if block.times == 1 else f"{block.name} × {show(block.times)}"


def _frame(left: float, top: float, wide: float, high: float, colour: str) -> Markup:
    kind = f"block b{colour or 'neutral'}"
    return element(
        "rect",
        x=float(left),
        y=float(top),
        width=float(wide),
        height=float(high),
        rx=7,
        class_=kind,
    )


def _arrow(x: float, top: float, bottom: float) -> Markup:
    return join(
        [
            path([(x, top), (x, bottom - 2)], "flow"),
            path([(x - 4, bottom - 6), (x, bottom - 1), (x + 4, bottom - 6)], "flow"),
        ]
    )


def legend(chart: Diagram) -> list[tuple[str, str, str]]:
    """Returns (colour, shape, name) of what the colours mean."""
    return [(colour, "box", name) for colour, name in chart.legend.items()]


def describe(chart: Diagram) -> str:
    return "from top to bottom: " + "; ".join(_said(block) for block in chart.blocks)


def _said(block: Block) -> str:
    words = f"{_named(block)} ({block.note})" if block.note else _named(block)
    inside = ", ".join(_said(child) for child in block.blocks)
    return f"{words}: [{inside}]" if inside else words


def data(chart: Diagram) -> Table:
    """A diagram says everything in its boxes."""
    rows = [[block.name, block.note, block.times] for block in chart.blocks]
    return Table(["block", "note", "times"], rows)
