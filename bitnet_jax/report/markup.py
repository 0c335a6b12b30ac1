"""Elements of HTML and SVG, with everything in them escaped.

What is no `Markup` is text: it can never become an element. Knows no page.
"""

from __future__ import annotations

import html
from typing import Any

from bitnet_jax.core.letters import spelled_out

# Elements without an end tag.
_VOID = frozenset({"meta", "br"})


class Markup(str):
    """Text that is markup already, made by `element` only."""

    __slots__ = ()


def element(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """Returns `<name attributes>children</name>`.

    A child that is no `Markup` is escaped; None is left out. `class_` is `class`, another `_`
    is a `-`; an attribute of None or False is left out, one of True stands without a value.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        spelled = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {spelled}")
        else:
            parts.append(f' {spelled}="{html.escape(spelled_out(_text(value)))}"')
    parts.append(">")
    if name in _VOID:
        return Markup("".join(parts))
    parts += [escaped(child) for child in children if child is not None]
    parts.append(f"</{name}>")
    return Markup("".join(parts))


def join(parts: Any) -> Markup:
    """Returns markup side by side; what is None is left out."""
    return Markup("".join(escaped(part) for part in parts if part is not None))


def escaped(value: Any) -> str:
    """Returns a child as it stands in the page."""
    if isinstance(value, Markup):
        return value
    return html.escape(spelled_out(str(value)), quote=False)


def _text(value: Any) -> str:
    if isinstance(value, float):  # a coordinate: a tenth of a pixel is enough
        text = f"{value:.1f}"
        return text[:-2] if text.endswith(".0") else text
    return str(value)
