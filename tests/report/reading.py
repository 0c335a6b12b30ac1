"""Reading a page as tests need it: its elements, its numbers, its record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "br"}


@dataclass
class Node:
    """An element: its name, attributes, children and texts."""

    name: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.walk()

    def all(self, name: str, **wanted: str) -> list[Node]:
        return [
            node
            for node in self.walk()
            if node.name == name
            and all(
                node.attributes.get(k.rstrip("_").replace("_", "-")) == v for k, v in wanted.items()
            )
        ]

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def classes(self) -> set[str]:
        return set((self.attributes.get("class") or "").split())


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = Node("document")
        self.open = [self.root]

    def handle_starttag(self, name, attributes):
        node = Node(name, dict(attributes))
        assert len(node.attributes) == len(attributes), f"<{name}> has an attribute twice"
        self.open[-1].children.append(node)
        if name not in VOID:
            self.open.append(node)

    def handle_endtag(self, name):
        assert self.open[-1].name == name, f"</{name}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parse(page: str) -> Node:
    """Returns the page's elements; every one must be closed where it was opened."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == [reader.root], f"<{reader.open[-1].name}> is never closed"
    return reader.root


def record(page: Node) -> Any:
    """Returns the record that stands in the page."""
    (script,) = page.all("script", id="record")
    return json.loads(script.text)


def numbers(page: Node) -> list[tuple[float, str]]:
    """Returns (exact value, what is shown) of every number that stands in the page's cells."""
    return [
        (float(node.attributes["data-v"]), node.text)  # type: ignore[arg-type]
        for node in page.walk()
        if "data-v" in node.attributes
    ]


def leaves(value: Any) -> Iterator[Any]:
    """Yields every single value of a record, and how long each of its lists is."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        yield len(value)
        for item in value:
            yield from leaves(item)
    else:
        yield value


def shown_value(text: str) -> float:
    """Reads a number as the page writes it."""
    digits = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-", ",")
    words = text.translate(digits)
    if words in ("∞", "-∞", "NaN"):
        return float(words.replace("∞", "inf"))
    mantissa, _, power = words.partition("×10")
    return float(mantissa) * (10.0 ** int(power) if power else 1.0)


def check_numbers(page: Node, data: Any) -> int:
    """Asserts that every number of the page is the record's; returns how many there are."""
    known = {float(v) for v in leaves(data) if isinstance(v, int | float)}
    found = numbers(page)
    for exact, shown in found:
        assert exact in known, f"{exact!r}, shown as {shown}, is not in the record"
        assert abs(shown_value(shown) - exact) <= 6e-5 * abs(exact), (exact, shown)
    return len(found)
