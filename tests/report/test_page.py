"""The page as text: whole, safe, the same each time, and true to its record."""

import base64
import hashlib
import math
import tomllib

import pytest

from bitnet_jax.report.page import report_page
from tests.report import samples
from tests.report.reading import check_numbers, parse, record


@pytest.mark.parametrize("layers", [1, 3, 80])
def test_every_number_shown_is_the_records(layers):
    page = parse(samples.page(layers))
    data = record(page)["data"]
    assert data == samples.record(layers)
    assert check_numbers(page, data) > 200


def test_the_same_record_gives_the_same_bytes():
    assert samples.page(3) == samples.page(3)
    assert samples.page(3).encode() != samples.page(2).encode()


def test_the_page_loads_nothing_and_runs_one_script_alone():
    page = parse(samples.page(2))
    for node in page.walk():
        assert node.name not in ("link", "img", "iframe", "object", "embed", "base", "form", "a")
        for name in node.attributes:
            assert not name.startswith("on") and name not in ("src", "href", "style", "action")
    assert "url(" not in samples.page(2) and "@import" not in samples.page(2)
    data, script = page.all("script")
    assert data.attributes["type"] == "application/json" and "type" not in script.attributes
    (meta,) = page.all("meta", http_equiv="Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert meta.attributes["content"] == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_a_name_is_never_markup():
    text = samples.page(3, samples.UGLY, errors=[{"code": "a", "message": samples.UGLY[1]}])
    page = parse(text)
    assert len(page.all("script")) == 2 and not page.all("img")
    assert samples.UGLY[0] in page.all("h1")[0].text
    assert "\x1b" not in text and "\x00" not in text and "\u202e" not in text
    assert "x\\u202egnp.exe\\x1b[2J\\x00\\ud800\\ufffe" in page.text
    text.encode("utf-8")  # no half of a letter is left
    assert record(page)["data"]["layers"][3]["name"] == samples.UGLY[3]


def test_ids_are_there_once_and_what_is_named_exists():
    page = parse(samples.page(2))
    ids = [node.attributes["id"] for node in page.walk() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for node in page.walk():
        for name in (node.attributes.get("aria-labelledby") or "").split():
            assert name in ids


def test_headings_tables_and_pictures_speak_to_a_reader():
    page = parse(samples.page(2))
    assert len(page.all("h1")) == 1 and page.all("html")[0].attributes["lang"] == "en"
    assert len(page.all("h2")) == 12  # every section with a title
    for head in page.all("thead"):
        assert all(cell.attributes["scope"] == "col" for cell in head.all("th"))
    for body in page.all("tbody"):
        for row in body.all("tr"):
            assert row.children[0].name == "th" and row.children[0].attributes["scope"] == "row"
    pictures = page.all("svg", role="img")
    assert len(pictures) == 2 * 7  # each for wide and for narrow screens
    for picture in pictures:
        title, description = picture.children[:2]
        assert title.name == "title" and title.text
        assert description.name == "desc" and description.text
    for other in page.all("svg"):
        assert other in pictures or other.attributes["aria-hidden"] == "true"


def test_values_that_are_none():
    rows = [["nan", math.nan], ["inf", math.inf], ["minus", -math.inf], ["none", None]]
    table = {"kind": "table", "columns": ["a", "b"], "rows": rows}
    pairs = {
        "kind": "pairs",
        "rows": [*rows, ["list", [1, None]], ["empty", []], ["map", {"k": 1}]],
    }
    page = parse(report_page("t", [table, pairs], {"x": math.nan, "y": None}))
    texts = [node.text for node in page.all("dd")]
    assert texts == ["NaN", "∞", "−∞", "–", "1, –", "none", "k: 1"]
    assert record(page) == {"x": None, "y": None}


def test_code_keeps_its_tabs_and_lines():
    code = {"kind": "paragraph", "text": "if x:\n\treturn\x07", "code": True}
    assert parse(report_page("t", [code], {})).all("pre")[0].text == "if x:\n\treturn\\x07"


def test_style_and_script_are_in_the_wheel(repo):
    listed = tomllib.loads((repo / "pyproject.toml").read_text())["tool"]["setuptools"]
    folder = repo / "bitnet_jax/report"
    globs = listed["package-data"]["bitnet_jax.report"]
    found = {file.name for glob in globs for file in folder.glob(glob)}
    assert found == {f.name for f in folder.iterdir() if f.suffix in (".css", ".js")} != set()


def test_a_text_of_a_book_is_cut_and_whole_on_hover():
    book = "begin " + "word " * 50_000 + "end"
    page = parse(report_page("t", [{"kind": "pairs", "rows": [["text", book]]}], {}))
    (value,) = page.all("dd")
    assert len(value.text) < 1100 and value.text.startswith("begin") and value.text.endswith("end")
    assert value.all("span")[0].attributes["title"] == book


def test_a_page_of_nothing():
    page = parse(report_page("", [], {}))
    assert page.all("main") and record(page) == {}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"kind": "pie", "title": "t"}, "`pie` is no kind of section; known: paragraph"),
        ({"title": "t"}, "`None` is no kind"),
        ({"kind": "table", "columns": ["a"], "rows": [[1, 2]]}, "2 and 1 do not agree"),
        ({"kind": "table", "rows": []}, "table: .*columns"),
        ({"kind": "pairs", "rows": [], "colour": "1"}, "pairs has no field `colour`"),
        (
            {
                "kind": "bars",
                "title": "t",
                "categories": ["a"],
                "series": [{"name": "s", "values": []}],
            },
            "0 and 1 do not agree",
        ),
        (
            {"kind": "lines", "title": "t", "series": [{"name": "s", "x": [1], "y": []}]},
            "0 and 1 do not agree",
        ),
        (
            {
                "kind": "lines",
                "title": "t",
                "series": [{"name": "s", "x": [], "y": [], "colour": "red"}],
            },
            "`red` is no colour; known: 1, 2",
        ),
        ({"kind": "histogram", "title": "t", "edges": [1, 0], "counts": [1]}, "no rising numbers"),
        ({"kind": "heat", "title": "t", "rows": ["a"], "columns": [], "values": [[1]]}, "1 and 0"),
    ],
)
def test_a_section_that_is_none(section, words):
    with pytest.raises(ValueError, match=words):
        report_page("t", [section], {})


@pytest.mark.parametrize("ok", [True, False])
def test_the_badge_says_the_outcome_in_words(ok):
    page = parse(samples.page(1, ok=ok, warnings=["w & w"], errors=[] if ok else [{"code": "a.b"}]))
    (badge,) = [n for n in page.all("span") if "badge" in n.classes()]
    assert badge.text == ("✓ ok" if ok else "✗ failed")
    (problems,) = [n for n in page.all("ul") if "problems" in n.classes()]
    assert "warning w & w" in problems.text and ("error a.b" in problems.text) == (not ok)


def test_a_long_title_keeps_both_ends():
    page = parse(report_page("begin" + "x" * 400 + "end", [], {}))
    (head,) = page.all("h1")
    assert head.text.startswith("begin") and head.text.endswith("end") and len(head.text) < 170
    assert head.attributes["title"] == "begin" + "x" * 400 + "end"
