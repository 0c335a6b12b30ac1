"""A record as one page: sections in, HTML out, the record itself inside it.

The page needs nothing but itself: no network, no fonts, no script to be read. The same record
gives the same bytes. Knows nothing of models and of commands.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from bitnet_jax.core.plain import plain
from bitnet_jax.report import theme
from bitnet_jax.report.figure import figure
from bitnet_jax.report.format import show
from bitnet_jax.report.kinds import Chart, Figures, Pairs, Paragraph, Section, Table, read
from bitnet_jax.report.markup import Markup, element, join
from bitnet_jax.report.tables import drawn_table, figures, pairs

LONGEST = 150  # letters of a heading
LOGO = ("1", "neutral", "2")


def report_page(
    title: str,
    sections: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    *,
    command: str = "",
    ok: bool | None = None,
    verdict: str = "",
    warnings: Sequence[str] = (),
    errors: Sequence[Mapping[str, Any]] = (),
    made_by: str = "bitnet-jax",
) -> str:
    """Returns the page of a record as HTML.

    Args:
      title: what the page is about, for example a model's path.
      sections: mappings with their `kind`, in the order in which they are read;
        docs/reports.md lists the kinds.
      record: stands in the page as JSON: every number shown is one of its.
      command: what made the record.
      ok: whether it is good; None says nothing of it.
      verdict: the words of the badge, by default "ok" or "failed".
      warnings, errors: stand before all else.

    Raises:
      ValueError: a section is none (unknown kind or field, lengths that do not agree).
    """
    parts = [_section(read(section), number) for number, section in enumerate(sections, 1)]
    script = _resource("page.js")
    body = join(
        [
            _header(title, command, ok, verdict),
            element("main", _problems(warnings, errors), *parts, id="main"),
            element(
                "footer",
                element(
                    "p", f"Made by {made_by}. This page loads nothing: it can be kept and sent."
                ),
                element(
                    "p",
                    "The whole record stands in it as JSON, under the id ",
                    element("code", "record"),
                    ".",
                ),
            ),
            element("script", _json(record), type="application/json", id="record"),
            element("script", Markup(script)),
        ]
    )
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=policy(script)),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("meta", name="referrer", content="no-referrer"),
            element("title", f"{_one_line(title)} – {command or made_by}"),
            element("style", Markup(theme.variables() + theme.classes() + _resource("page.css"))),
        ]
    )
    document = element("html", element("head", head), element("body", body), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def policy(script: str) -> str:
    """Returns the policy that lets the page load nothing and run `script` alone."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _resource(name: str) -> str:
    return (resources.files("bitnet_jax.report") / name).read_text("utf-8")


def _json(record: Mapping[str, Any]) -> Markup:
    """Returns the record as JSON in which no text can end the element that holds it."""
    text = json.dumps(plain(record), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _header(title: str, command: str, ok: bool | None, verdict: str) -> Markup:
    badge = None
    if ok is not None:
        words = verdict or ("ok" if ok else "failed")
        badge = element(
            "span", f"{'✓' if ok else '✗'} {words}", class_=f"badge {'good' if ok else 'bad'}"
        )
    return element(
        "header",
        element(
            "div",
            _logo(),
            element("span", f"bitnet {command}".strip(), class_="command"),
            # Shown by the script, which it needs.
            element("button", "dark", type="button", id="theme", hidden=True),
            class_="bar",
        ),
        element("div", element("h1", _heading(title), title=title), badge, class_="head"),
    )


def _logo() -> Markup:
    boxes = [
        element("rect", x=index * 15, y=0, width=13, height=13, rx=3, class_=f"f{colour}")
        for index, colour in enumerate(LOGO)
    ]
    return element("svg", *boxes, viewBox="0 0 43 13", width=43, height=13, aria_hidden="true")


def _heading(title: str) -> str:
    """Returns the title, of which a long one loses its middle: a path ends in what it names."""
    line = _one_line(title)
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 3]} … {line[-LONGEST // 2 :]}"


def _one_line(text: str) -> str:
    return " ".join(text.split("\n"))


def _problems(warnings: Sequence[str], errors: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Returns what went wrong, before all else."""
    items = [
        element(
            "li",
            element("strong", f"error {error.get('code', '')}"),
            " ",
            show(error.get("message")),
            element("p", f"hint: {show(error['hint'])}") if error.get("hint") else None,
            class_="bad",
        )
        for error in errors
    ]
    items += [element("li", element("strong", "warning"), " ", text) for text in warnings]
    return element("ul", *items, class_="problems") if items else None


def _section(section: Section, number: int) -> Markup:
    name = f"section-{number}"
    draw = next(draw for kind, draw in DRAW.items() if isinstance(section, kind))
    heading = element("h2", section.title, id=name) if section.title else None
    note = getattr(section, "note", "")
    return element(
        "section",
        heading,
        element("p", note, class_="muted") if note else None,
        draw(section, number),
        aria_labelledby=name if heading else None,
        class_="plain" if isinstance(section, Figures) else None,
    )


def _paragraph(section: Paragraph, number: int) -> Markup:
    if section.code:
        return element("pre", section.text, tabindex=0)
    return join([element("p", part) for part in section.text.strip("\n").split("\n\n")])


def _table(section: Table, number: int) -> Markup:
    return drawn_table(section, section.title or f"table {number}")


DRAW: dict[type, Callable[[Any, int], Markup]] = {
    Paragraph: _paragraph,
    Figures: lambda section, number: figures(section),
    Pairs: lambda section, number: pairs(section),
    Table: _table,
    Chart: figure,
}
