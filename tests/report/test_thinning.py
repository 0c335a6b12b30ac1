"""More values than pixels: what is drawn, what is told of it, how large the page becomes."""

from __future__ import annotations

import re

import pytest

from bitnet_jax.report.page import report_page
from bitnet_jax.report.thinning import said, thinned

COUNT = 28_672  # seven matrices in each of 4,096 layers
VALUES = [((n * 7919) % 1000) / 2000 for n in range(COUNT)]
VALUES[12_345] = 0.987654321


def test_as_many_as_there_is_room_for_are_drawn_each_in_its_place():
    assert thinned(3, 100, [VALUES.__getitem__]) == [(0, 0), (1, 1), (2, 2)]
    drawn = thinned(COUNT, 640.7, [VALUES.__getitem__])
    assert [place for place, _ in drawn] == list(range(640))
    indices = [index for _, index in drawn]
    assert indices == sorted(indices) and 12_345 in indices
    assert all(abs(index - place * COUNT / 640) <= COUNT / 640 + 1 for place, index in drawn)


@pytest.mark.parametrize("odd", [None, float("nan"), "text"])
def test_what_is_no_number_is_not_missed(odd):
    values = [0.5] * 1000
    values[777] = odd
    assert 777 in {index for _, index in thinned(1000, 50, [values.__getitem__])}


def test_no_words_where_all_is_drawn():
    assert said(80, 80) == ""
    assert said(1000, 300) == "of each 4 the one that differs most"


SECTIONS = {
    "bars": {
        "kind": "bars",
        "title": "Bars",
        "categories": [f"layers.{n}.up" for n in range(COUNT)],
        "series": [{"name": "zeros", "values": VALUES}],
        "data": False,
    },
    "heat": {
        "kind": "heat",
        "title": "Heat",
        "rows": ["up"],
        "columns": [str(n) for n in range(COUNT)],
        "values": [VALUES],
        "data": False,
    },
    "table": {
        "kind": "table",
        "title": "Table",
        "columns": ["name", "zeros"],
        "rows": [[f"layers.{n}.up", value] for n, value in enumerate(VALUES)],
    },
}


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_page_of_thousands_of_layers_can_be_opened(kind):
    html = report_page("m", [SECTIONS[kind]], {"values": VALUES})
    record, told = {repr(value) for value in VALUES}, set(re.findall(r'data-v="([^"]+)"', html))
    assert told <= record
    assert len(html) < 2_000_000
    if kind == "table":
        assert "The first and the last 1,000 of 28,672 rows" in html
        assert len(told) > 900 and html.count("<tr") == 2001
    else:
        assert "the one that differs most" in html
        assert "12345" in html and "0.98765" in html  # the one that is far from all others
        assert max(float(x) for x in re.findall(r'<rect[^>]* x="([\d.]+)"', html)) < 1000
