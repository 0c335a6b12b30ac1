"""Each kind of chart: what is drawn has the size of its value, at both widths."""

import math
import re

import pytest

from bitnet_jax.report.axes import NARROW, WIDE
from bitnet_jax.report.figure import DRAWERS, figure
from bitnet_jax.report.kinds import KINDS, Chart, read
from tests.report import samples
from tests.report.reading import parse

CHARTS = [s for s in samples.sections(samples.record(3), 3) if issubclass(KINDS[s["kind"]], Chart)]
MISSING = [None, math.nan, math.inf, -math.inf, "text", True, 10**400]


def drawn(section, wide=True):
    """Returns the chart's picture as elements."""
    root = parse(figure(read(section), 1))
    pictures = root.all("svg", role="img")
    return pictures[0 if wide else 1]


def boxes(picture, kind="rect"):
    return [
        {k: float(n.attributes[k]) for k in ("x", "y", "width", "height")}
        for n in picture.all(kind)
    ]


def bars(values, **more):
    series = [{"name": "s", "values": values}]
    categories = [f"c{i}" for i in range(len(values))]
    return {"kind": "bars", "title": "t", "categories": categories, "series": series, **more}


def test_every_kind_of_chart_has_its_drawer():
    assert {kind for kind in KINDS.values() if issubclass(kind, Chart)} == set(DRAWERS)
    assert {KINDS[section["kind"]] for section in CHARTS} == set(DRAWERS)


@pytest.mark.parametrize("section", CHARTS, ids=lambda s: s["title"])
@pytest.mark.parametrize("wide", [True, False])
def test_nothing_is_drawn_outside_the_picture(section, wide):
    picture = drawn(section, wide)
    width, height = map(float, picture.attributes["viewbox"].split()[2:])
    assert width == (WIDE if wide else NARROW)
    numbers = {"x": width, "x1": width, "x2": width, "cx": width}
    numbers |= {"y": height, "y1": height, "y2": height, "cy": height}
    for node in picture.walk():
        for name, most in numbers.items():
            if name in node.attributes:
                assert -1 <= float(node.attributes[name]) <= most + 1, (node.name, name)
        for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", node.attributes.get("d") or ""):
            assert -1 <= float(x) <= width + 1 and -1 <= float(y) <= height + 1
    for box in boxes(picture):
        assert box["width"] >= 0 and box["height"] >= 0
        assert box["x"] + box["width"] <= width + 1 and box["y"] + box["height"] <= height + 1


@pytest.mark.parametrize("section", CHARTS, ids=lambda s: s["title"])
def test_axes_have_titles_with_units(section):
    words = drawn(section).text
    for axis, unit in (("axis", "unit"), ("x_axis", "x_unit"), ("y_axis", "y_unit")):
        assert section.get(axis, "") in words
        if section.get(unit):
            assert f"({section[unit]})" in words


def test_bars_are_as_long_as_their_values():
    one, two, four = boxes(drawn(bars([1.0, 2.0, 4.0])))
    assert two["width"] == pytest.approx(2 * one["width"], abs=0.2)
    assert four["width"] == pytest.approx(4 * one["width"], abs=0.2)
    assert one["x"] == two["x"] == four["x"]


def test_a_bar_below_zero_goes_the_other_way():
    up, down = boxes(drawn(bars([2.0, -1.0])))
    assert down["x"] + down["width"] == pytest.approx(up["x"], abs=0.2)
    assert up["width"] == pytest.approx(2 * down["width"], abs=0.2)


def test_a_stack_is_its_parts_end_to_end():
    series = [{"name": n, "values": [v]} for n, v in (("a", 1.0), ("b", 3.0), ("c", -2.0))]
    section = {"kind": "bars", "title": "t", "categories": ["x"], "series": series, "stacked": True}
    a, b, c = boxes(drawn(section))
    assert b["x"] == pytest.approx(a["x"] + a["width"], abs=0.2)
    assert b["width"] == pytest.approx(3 * a["width"], abs=0.2)
    assert c["x"] + c["width"] == pytest.approx(a["x"], abs=0.2)


def test_many_categories_stand_as_columns_as_high_as_their_values():
    columns = boxes(drawn(bars([float(i) for i in range(560)])))
    assert len(columns) == 560
    assert columns[500]["height"] == pytest.approx(2 * columns[250]["height"], abs=0.3)
    assert columns[0]["height"] == 0
    # They touch exactly: the least gap would show as a white line on some screen.
    for one, other in zip(columns, columns[1:], strict=False):
        assert one["x"] + one["width"] == pytest.approx(other["x"], abs=1e-9)


def test_names_lose_what_they_all_begin_with_and_tell_it_on_hover():
    section = bars([1.0, 2.0]) | {"categories": ["layers.0.q_proj", "layers.1.q_proj"]}
    labels = [n for n in drawn(section).all("text") if "q_proj" in n.text]
    assert [n.children[0] for n in labels] == ["0.q_proj", "1.q_proj"]
    assert [n.all("title")[0].text for n in labels] == section["categories"]


def test_a_line_goes_through_its_points_and_breaks_where_one_is_missing():
    section = {
        "kind": "lines",
        "title": "t",
        "series": [{"name": "s", "x": [0, 1, 2, 3, 4], "y": [0.0, 1.0, None, 1.0, 0.0]}],
    }
    (line,) = [n for n in drawn(section).all("path") if "line" in n.classes()]
    moves = re.findall(r"([ML])([-\d.]+) ([-\d.]+)", line.attributes["d"])
    assert [move[0] for move in moves] == ["M", "L", "M", "L"]
    xs = [float(move[1]) for move in moves]
    assert xs[3] - xs[0] == pytest.approx(4 * (xs[1] - xs[0]), abs=0.4)
    assert moves[0][2] == moves[3][2] and float(moves[0][2]) > float(moves[1][2])


def test_a_mark_and_an_interval_are_drawn_where_they_are():
    section = {
        "kind": "lines",
        "title": "t",
        "series": [{"name": "s", "x": [0, 1], "y": [1.0, 1.0], "low": [0, 0], "high": [2, 2]}],
        "marks": [{"name": "m", "value": 2.0}, {"name": "gone", "value": None}],
    }
    picture = drawn(section)
    (band,) = [n for n in picture.all("path") if "band" in n.classes()]
    (mark,) = [n for n in picture.all("line") if "mark" in n.classes()]
    ys = {float(y) for y in re.findall(r"[ML][-\d.]+ ([-\d.]+)", band.attributes["d"])}
    assert min(ys) == pytest.approx(float(mark.attributes["y1"]), abs=0.1)
    assert "m: 2" in picture.text and "gone" not in picture.text


def test_a_column_of_a_histogram_is_as_wide_as_its_class():
    section = {"kind": "histogram", "title": "t", "edges": [0, 1, 3], "counts": [4, 2]}
    one, two = boxes(drawn(section))
    assert two["width"] == pytest.approx(2 * one["width"], abs=0.2)
    assert one["height"] == pytest.approx(2 * two["height"], abs=0.2)


def test_shades_go_from_the_least_to_the_greatest_and_a_gap_has_none():
    section = {
        "kind": "heat",
        "title": "t",
        "rows": ["r"],
        "columns": list("abcd"),
        "values": [[1.0, 2.0, None, math.nan]],
    }
    cells = [n.attributes["class"] for n in drawn(section).all("rect") if n.all("title")]
    assert cells == ["h0", "h8", "none"]


def test_equal_values_have_one_shade():
    section = {"kind": "heat", "title": "t", "rows": ["r"], "columns": ["a"], "values": [[5]]}
    assert [n.attributes["class"] for n in drawn(section).all("rect") if n.all("title")] == ["h4"]


def test_a_roofline_is_straight_on_logarithmic_axes():
    section = next(s for s in CHARTS if s["kind"] == "scatter")
    (roof,) = [n for n in drawn(section).all("path") if "line" in n.classes()]
    (a, b, c) = [
        tuple(map(float, p)) for p in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", roof.attributes["d"])
    ]
    assert b[1] == c[1] < a[1]
    decades = (math.log10(20 / 0.1), math.log10(1000 / 20))
    assert (b[0] - a[0]) / (c[0] - b[0]) == pytest.approx(decades[0] / decades[1], rel=1e-2)


def test_a_diagram_holds_its_boxes_in_order():
    section = next(s for s in CHARTS if s["kind"] == "diagram")
    outer = boxes(drawn(section))
    embedding, layer, attention, mlp, *listed = outer
    assert embedding["y"] + embedding["height"] < layer["y"] < attention["y"] < mlp["y"]
    for box in (attention, mlp, *listed):
        assert layer["x"] < box["x"]
        assert box["y"] + box["height"] < layer["y"] + layer["height"]
    assert len(listed) == 3 and "× 3" in drawn(section).text


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_what_cannot_be_drawn_leaves_a_gap(value):
    for section in (
        bars([1.0, value]),
        bars([value] * 40),
        bars([1.0] * 39 + [value], stacked=True),
        {
            "kind": "lines",
            "title": "t",
            "series": [{"name": "s", "x": [1, value], "y": [value, 1]}],
        },
        {"kind": "histogram", "title": "t", "edges": [0, 1, 2], "counts": [value, 1]},
        {
            "kind": "heat",
            "title": "t",
            "rows": ["r"],
            "columns": ["a", "b"],
            "values": [[value, 1]],
        },
        {
            "kind": "scatter",
            "title": "t",
            "groups": [{"name": "g", "points": [{"name": "p", "x": value, "y": 1}]}],
        },
    ):
        for wide in (True, False):
            drawn(section, wide)


@pytest.mark.parametrize("kind", ["bars", "lines", "histogram", "heat", "scatter", "diagram"])
def test_a_chart_of_nothing_says_so(kind):
    assert "no values" in drawn({"kind": kind, "title": "t"}).text


@pytest.mark.parametrize("section", CHARTS, ids=lambda s: s["title"])
def test_names_of_any_ugliness_can_be_drawn(section):
    ugly = samples.sections(samples.record(2, samples.UGLY), 2)
    same = next(s for s in ugly if s.get("title") == section["title"])
    for wide in (True, False):
        assert not drawn(same, wide).all("script")
