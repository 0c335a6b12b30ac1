"""The page in a real browser: it opens from a file without a network, fits, sorts and prints."""

import re

import pytest

from bitnet_jax.report.page import report_page
from bitnet_jax.report.theme import DARK, LIGHT
from tests.report import samples

PAGES = {
    "one layer": (1, ()),
    "eighty layers": (80, ()),
    "ugly names": (2, samples.UGLY),
}
WIDTHS = (360, 768, 1280)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, (layers, names) in PAGES.items():
        text = samples.page(layers, names, ok=not names, warnings=["odd"])
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


def rgb(colour):
    return "rgb({}, {}, {})".format(*(int(colour[i : i + 2], 16) for i in (1, 3, 5)))


def column(browser, title, number):
    """Returns the texts of a column of the table under a title, in the order shown."""
    return browser.run(
        f"[...[...document.querySelectorAll('section')]"
        f".find(s => s.querySelector('h2')?.textContent === '{title}')."
        f"querySelectorAll(':scope > .frame tbody tr')]"
        f".filter(r => !r.hidden).map(r => r.cells[{number}].textContent)"
    )


# What reaches beyond the window: nothing may, but what lies in a frame that scrolls.
OUTSIDE = """[...document.body.querySelectorAll('*')].filter(e => !e.closest('.frame, [hidden]')
  && e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1
).map(e => e.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_it_opens_fits_and_asks_for_nothing(browser, files, name, width, dark):
    browser.show(files / f"{name}.html", width=width, dark=dark)
    assert browser.requests() == [] and browser.complaints() == []
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run(OUTSIDE) == []
    scheme = DARK if dark else LIGHT
    assert browser.run("getComputedStyle(document.body).backgroundColor") == rgb(scheme["page"])
    assert browser.run("getComputedStyle(document.body).color") == rgb(scheme["ink"])
    seen = browser.run(
        "['wide', 'narrow'].filter(k => document.querySelector('svg.' + k).getClientRects().length)"
    )
    assert seen == (["narrow"] if width < 720 else ["wide"])


@pytest.mark.parametrize("width", WIDTHS)
def test_words_of_charts_stay_in_their_picture_and_can_be_read(browser, files, width):
    for name in PAGES:
        browser.show(files / f"{name}.html", width=width)
        browser.run("document.querySelectorAll('details').forEach(d => { d.open = false; })")
        outside = browser.run(
            """[...document.querySelectorAll('svg.chart text')].filter(t => {
              if (!t.getClientRects().length) return false;
              const a = t.getBoundingClientRect(), b = t.closest('svg').getBoundingClientRect();
              return a.left < b.left - 14 || a.right > b.right + 14 || a.height < 8;
            }).map(t => t.textContent)"""
        )
        assert outside == [], name


def test_nothing_in_a_name_runs(browser, files):
    browser.show(files / "ugly names.html")
    assert "owned" not in browser.run("document.title") or "<script>" in browser.run(
        "document.title"
    )
    assert browser.run("document.scripts.length") == 2
    assert browser.run("document.images.length") == 0
    assert browser.run("JSON.parse(document.getElementById('record').textContent).data.parameters")


def test_the_policy_stops_what_is_not_the_page(browser, files):
    browser.show(files / "one layer.html")
    browser.run(
        "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))"
    )
    browser.run(
        "(e => { e.textContent = 'document.title = 1'; document.body.append(e); })"
        "(document.createElement('script'))"
    )
    assert browser.run("document.title") != "1"
    assert browser.wait_for("Network.loadingFailed")["params"]["blockedReason"] == "csp"
    assert len(browser.complaints()) == 2  # both were refused, and told


def test_a_click_sorts_up_down_and_back(browser, files):
    browser.show(files / "eighty layers.html")
    before = column(browser, "Matrices", 3)
    head = "section:nth-last-of-type(2) > .frame thead th:nth-child(4)"
    browser.click(f"{head} button")
    up = column(browser, "Matrices", 3)
    assert up == sorted(up, key=float) and up != before
    assert browser.run(f"document.querySelector('{head}').getAttribute('aria-sort')") == "ascending"
    browser.click(f"{head} button")
    assert column(browser, "Matrices", 3) == sorted(up, key=float, reverse=True)
    browser.click(f"{head} button")
    assert column(browser, "Matrices", 3) == before


def test_sorting_knows_numbers_from_their_spelling(browser, tmp_path):
    values = [1e-9, 1234567, 0.5, None, -3.5, 12, float("inf"), float("nan"), 2.5e12]
    rows = [[f"r{index}", value] for index, value in enumerate(values)]
    table = {"kind": "table", "title": "T", "columns": ["name", "value"], "rows": rows}
    file = tmp_path / "page.html"
    file.write_text(report_page("t", [table], {}), encoding="utf-8")
    browser.show(file)
    browser.click("thead th:nth-child(2) button")
    up = ["r4", "r0", "r2", "r5", "r1", "r8", "r6"]
    assert column(browser, "T", 0) == [*up, "r3", "r7"]  # what is no number comes last
    browser.click("thead th:nth-child(2) button")
    assert column(browser, "T", 0) == [*reversed(up), "r3", "r7"]


def test_a_long_table_is_searched(browser, files):
    browser.show(files / "eighty layers.html")
    browser.run(
        "(i => { i.value = '.79.'; i.dispatchEvent(new Event('input')); })"
        "([...document.querySelectorAll('section > input')].pop())"
    )
    assert column(browser, "Matrices", 0) == [samples.name(79, kind) for kind in samples.KINDS]


@pytest.mark.parametrize("width", [360, 1280])
def test_rows_with_prose_become_cards_on_a_phone(browser, tmp_path, width):
    rows = [[f"code.{n}", "words " * 20, n, "x" * 500] for n in range(3)]
    table = {"kind": "table", "title": "T", "columns": ["code", "fix", "n", "name"], "rows": rows}
    file = tmp_path / "page.html"
    file.write_text(report_page("t", [table], {}), encoding="utf-8")
    browser.show(file, width=width)
    frame = "document.querySelector('.frame')"
    shown = browser.run(f"getComputedStyle({frame}.querySelector('thead')).display")
    assert shown == ("none" if width == 360 else "table-header-group")
    if width == 360:
        assert browser.run(f"{frame}.scrollWidth <= {frame}.clientWidth")
        label = "getComputedStyle(document.querySelector('td:nth-child(2)'), '::before').content"
        assert browser.run(label) == '"fix: "'


def test_the_switch_goes_from_light_to_dark_and_back(browser, files):
    browser.show(files / "one layer.html")
    colour = "getComputedStyle(document.body).backgroundColor"
    for scheme in (DARK, LIGHT):
        browser.click("#theme")
        assert browser.run(colour) == rgb(scheme["page"])
    browser.show(files / "one layer.html", dark=True)
    browser.click("#theme")
    assert browser.run(colour) == rgb(LIGHT["page"])


def test_without_scripts_all_is_there(browser, files):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.show(files / "eighty layers.html")
        text = browser.run("document.body.innerText")
        assert samples.name(79, "down_proj") in text
        assert browser.run("document.getElementById('theme').hidden")
        assert browser.run("document.querySelectorAll('th button').length") == 0
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_it_prints_whole_and_light_from_a_dark_screen(browser, files):
    browser.show(files / "eighty layers.html", dark=True)
    printed = browser.pdf()
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", printed))
    assert printed.startswith(b"%PDF") and pages >= 10  # all 560 rows, not a window on them
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert browser.run("getComputedStyle(document.body).color") == rgb(LIGHT["ink"])
    assert browser.run("document.querySelector('#theme').getClientRects().length") == 0
    browser.call(  # as wide as A4 less its margins
        "Emulation.setDeviceMetricsOverride",
        width=688,
        height=1000,
        deviceScaleFactor=1,
        mobile=False,
    )
    assert browser.run(
        "[...document.querySelectorAll('.frame')].every(f =>"
        " f.scrollHeight <= f.clientHeight + 1 && f.scrollWidth <= f.clientWidth + 1)"
    )
