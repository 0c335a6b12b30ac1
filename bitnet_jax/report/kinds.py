"""What a page is made of: the kinds of sections, as plain values with their invariants.

A section comes as a mapping with its `kind` (so that any caller can make one, and a record can
hold one) and is read into one of these. Draws nothing. docs/reports.md describes them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

# Series colours by name: six hues, one for what is neither here nor there, and two verdicts.
COLOURS = ("1", "2", "3", "4", "5", "6", "neutral", "good", "bad")


@dataclass(frozen=True)
class Measure:
    """A value with its unit and, behind it, a few words."""

    value: Any
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Paragraph:
    """Text; with `code` in a fixed-width font, its lines kept as they are."""

    text: str
    title: str = ""
    code: bool = False


@dataclass(frozen=True)
class Figures:
    """The few values that matter most, each on a card. `rows` are (name, value or Measure)."""

    rows: Sequence[Sequence[Any]]
    title: str = ""


@dataclass(frozen=True)
class Pairs:
    """Names and values. `rows` are (name, value or Measure)."""

    rows: Sequence[Sequence[Any]]
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under columns; sortable in the browser. Every row has a value per column."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            _same(len(row), len(self.columns), f"table `{self.title}`: values of a row, columns")


@dataclass(frozen=True)
class Series:
    """Values along the categories of a chart of bars."""

    name: str
    values: Sequence[Any]
    colour: str = ""


@dataclass(frozen=True)
class Curve:
    """Points of a line, in the order of x; `low` and `high` bound an interval around it."""

    name: str
    x: Sequence[Any]
    y: Sequence[Any]
    low: Sequence[Any] | None = None
    high: Sequence[Any] | None = None
    colour: str = ""

    def __post_init__(self) -> None:
        for values in (self.y, self.low, self.high):
            if values is not None:
                _same(len(values), len(self.x), f"curve `{self.name}`: values, points")


@dataclass(frozen=True)
class Mark:
    """A value that curves are compared with: a line across the chart."""

    name: str
    value: Any


@dataclass(frozen=True)
class Point:
    """One point of a scatter, by name."""

    name: str
    x: Any
    y: Any


@dataclass(frozen=True)
class Group:
    """Points of one colour."""

    name: str
    points: Sequence[Any]
    colour: str = ""
    parts: ClassVar[Mapping[str, type]] = {"points": Point}


@dataclass(frozen=True)
class Block:
    """A box of a diagram: what it is, a few words, how often it stands there, what is in it.

    `ordered`: what is in it follows one upon the other; else it is only listed.
    """

    name: str
    note: str = ""
    times: int = 1
    colour: str = ""
    ordered: bool = True
    blocks: Sequence[Any] = ()


@dataclass(frozen=True)
class Chart:
    """What all charts have. `data`: a table of the values under the picture, closed at first."""

    title: str
    note: str = ""
    data: bool = True


@dataclass(frozen=True)
class Measured(Chart):
    """What a chart of one measured thing has: its name, and its unit."""

    axis: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Plane(Chart):
    """What a chart of two measured things has: the same of each, and whether it is logarithmic."""

    x_axis: str = ""
    y_axis: str = ""
    x_unit: str = ""
    y_unit: str = ""
    x_log: bool = False
    y_log: bool = False


@dataclass(frozen=True)
class Bars(Measured):
    """Bars by category: side by side, or stacked into one."""

    categories: Sequence[str] = ()
    series: Sequence[Any] = ()
    stacked: bool = False
    category_axis: str = ""
    parts: ClassVar[Mapping[str, type]] = {"series": Series}

    def __post_init__(self) -> None:
        for series in self.series:
            _same(len(series.values), len(self.categories), f"`{series.name}`: values, categories")


@dataclass(frozen=True)
class Lines(Plane):
    """Curves over a common x."""

    series: Sequence[Any] = ()
    marks: Sequence[Any] = ()
    parts: ClassVar[Mapping[str, type]] = {"series": Curve, "marks": Mark}


@dataclass(frozen=True)
class Histogram(Measured):
    """Counts between edges, one edge more than counts, in rising order."""

    edges: Sequence[Any] = ()
    counts: Sequence[Any] = ()
    count_axis: str = "count"

    def __post_init__(self) -> None:
        if self.counts or self.edges:
            _same(len(self.edges), len(self.counts) + 1, "edges, counts and one")
        edges = [finite(edge) for edge in self.edges]
        if None in edges or any(a >= b for a, b in zip(edges, edges[1:], strict=False)):  # type: ignore[operator]
            raise ValueError(f"the edges of `{self.title}` are no rising numbers")


@dataclass(frozen=True)
class Heat(Measured):
    """A value for each row and column, as a shade; None leaves the place empty."""

    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    values: Sequence[Sequence[Any]] = ()
    column_axis: str = ""

    def __post_init__(self) -> None:
        _same(len(self.values), len(self.rows), f"heat `{self.title}`: rows of values, rows")
        for row in self.values:
            _same(len(row), len(self.columns), f"heat `{self.title}`: values, columns")


@dataclass(frozen=True)
class Scatter(Plane):
    """Points and bounds in a plane; both axes logarithmic unless said otherwise (a roofline)."""

    groups: Sequence[Any] = ()
    bounds: Sequence[Any] = ()
    x_log: bool = True
    y_log: bool = True
    parts: ClassVar[Mapping[str, type]] = {"groups": Group, "bounds": Curve}


@dataclass(frozen=True)
class Diagram(Chart):
    """Boxes one below the other, in the order that data meets them; a box may hold boxes."""

    blocks: Sequence[Any] = ()
    legend: Mapping[str, str] = field(default_factory=dict)
    data: bool = False
    parts: ClassVar[Mapping[str, type]] = {"blocks": Block}


Block.parts = {"blocks": Block}  # type: ignore[attr-defined]

Section = Paragraph | Figures | Pairs | Table | Chart

KINDS: dict[str, type] = {
    "paragraph": Paragraph,
    "figures": Figures,
    "pairs": Pairs,
    "table": Table,
    "bars": Bars,
    "lines": Lines,
    "histogram": Histogram,
    "heat": Heat,
    "scatter": Scatter,
    "diagram": Diagram,
}


def read(section: Mapping[str, Any]) -> Section:
    """Returns a section from its mapping.

    Raises:
      ValueError: its kind or a field is unknown or missing, or lengths do not agree.
    """
    kind = section.get("kind")
    if kind not in KINDS:
        raise ValueError(f"`{kind}` is no kind of section; known: {', '.join(KINDS)}")
    return _read(KINDS[kind], {k: v for k, v in section.items() if k != "kind"}, kind)


def _read(cls: type, values: Mapping[str, Any], what: str) -> Any:
    known = [f.name for f in dataclasses.fields(cls)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(f"{what} has no field `{unknown[0]}`; known: {', '.join(known)}")
    if values.get("colour", "") not in ("", *COLOURS):
        raise ValueError(f"`{values['colour']}` is no colour; known: {', '.join(COLOURS)}")
    parts = getattr(cls, "parts", {})
    taken = {
        name: [_read(parts[name], item, name) for item in value] if name in parts else value
        for name, value in values.items()
    }
    try:
        return cls(**taken)
    except TypeError as error:  # a field without a default is missing
        raise ValueError(f"{what}: {error}") from error


def measure(value: Any) -> Measure:
    """Returns a value with its unit; a bare one has none."""
    if isinstance(value, Measure):
        return value
    if isinstance(value, Mapping) and "value" in value and set(value) <= {"value", "unit", "note"}:
        return Measure(**value)
    return Measure(value)


def finite(value: Any) -> float | None:
    """Returns a value that can be drawn, or None: not a number, not finite, not there."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number that no float holds
        return None
    return number if math.isfinite(number) else None


def colour_of(colour: str, index: int) -> str:
    """Returns the colour of the series at `index`, unless it has one of its own."""
    return colour or COLOURS[index % 6]


def _same(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise ValueError(f"{what}: {found} and {wanted} do not agree")
