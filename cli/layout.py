"""Text for the help pages, set into a width: paragraphs and two columns.

Not `textwrap`: it brings `re`, and `bitnet --help` has a few milliseconds for all it does.
A word longer than the line stays whole: it may be copied.
"""

from __future__ import annotations

from collections.abc import Sequence

# The second column must have room for a few words beside the first.
LEAST_COLUMN = 30


def fill(text: str, width: int, indent: str = "") -> list[str]:
    """Returns `text` as lines of at most `width`, all indented."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and len(indent) + len(line) + 1 + len(word) > width:
            lines.append(indent + line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, indent + line] if line else lines


def columns(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Returns names and what they mean: side by side, or below each other where it is narrow."""
    first = max((len(name) for name, _ in rows), default=0)
    indent = first + 4
    lines = []
    for name, text in rows:
        if width - indent < LEAST_COLUMN:
            lines += [f"  {name}", *fill(text, width, " " * 6)]
        else:
            body = fill(text, width, " " * indent) or [""]
            lines += [f"  {name:<{first}}  {body[0][indent:]}".rstrip(), *body[1:]]
    return lines


def reflow(text: str, width: int) -> list[str]:
    """Returns `text` with its paragraphs set into `width`; indented lines stay as they are."""
    lines: list[str] = []
    paragraph: list[str] = []
    for line in [*text.strip("\n").splitlines(), ""]:
        if line and not line.startswith(" "):
            paragraph.append(line)
            continue
        lines += [*fill(" ".join(paragraph), width), line]
        paragraph = []
    return lines[:-1]
