"""`bitnet help KEYWORD`: where a word occurs, in commands, options, topics and errors.

Reads the same tables as the pages. A word is found inside of others, in small or large letters;
of several, all must be there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from . import registry, topics
from .fields import env_name, long_name, spellings
from .layout import columns
from .options import GlobalArgs

# More would scroll what was looked for out of sight.
MOST = 12

Rows = list[tuple[str, str]]


def search(words: list[str], width: int) -> str | None:
    """Returns the page of what was found, or None."""
    wanted = [word.lower() for word in words]

    def fits(*texts: str) -> bool:
        whole = " ".join(texts).lower()
        return all(word in whole for word in wanted)

    found = {
        "commands": [row for row, texts in _commands() if fits(*texts)],
        "options": [row for row, texts in _options() if fits(*texts)],
        "topics": [row for row, texts in _topics() if fits(*texts)],
        "errors": [row for row, texts in _errors() if fits(*texts)],
    }
    if not any(found.values()):
        return None
    lines = [f"`{' '.join(words)}` occurs in"]
    for name, rows in found.items():
        if rows:
            lines += ["", name, *columns(rows[:MOST], width)]
        if len(rows) > MOST:
            lines.append(f"  and {len(rows) - MOST} more: a second word narrows it")
    return "\n".join(lines) + "\n"


def _commands() -> Iterator[tuple[tuple[str, str], tuple[str, ...]]]:
    for command in registry.COMMANDS:
        words = registry.words(command)
        others = [" ".join(a) for a, to in registry.ALIASES.items() if to == command[:2]]
        later = "" if command.target else " (not built yet)"
        details = getattr(registry.load(command)[0], "DETAILS", "")
        yield (f"bitnet {words}", command.help + later), (words, *others, command.help, details)


def _options() -> Iterator[tuple[tuple[str, str], tuple[str, ...]]]:
    """An option that means the same on several commands is one row."""
    places: dict[tuple[str, str], list[str]] = {}
    texts: dict[tuple[str, str], tuple[str, ...]] = {}
    classes = [("every command", GlobalArgs)]
    classes += [(registry.words(c), registry.load(c)[1]) for c in registry.COMMANDS]
    for words, cls in classes:
        for field in dataclasses.fields(cls):
            key = (long_name(field), field.metadata["help"])
            places.setdefault(key, []).append(words)
            choices = map(str, field.metadata.get("choices") or ())
            texts[key] = (*spellings(field), env_name(field), field.metadata["help"], *choices)
    for key, where in places.items():
        name, about = key
        shown = ", ".join(where[:3]) + (f" and {len(where) - 3} more" if len(where) > 3 else "")
        yield (name, f"{about} ({shown})"), texts[key]


def _topics() -> Iterator[tuple[tuple[str, str], tuple[str, ...]]]:
    for name, topic in topics.TOPICS.items():
        others = [word for word, meant in topics.SAME.items() if meant == name]
        yield (f"bitnet help {name}", topic.about), (name, *others, topics.page(name, 80))


def _errors() -> Iterator[tuple[tuple[str, str], tuple[str, ...]]]:
    table = Path(__file__).with_name("errors.tsv")  # `make format` writes it from the source
    for line in table.read_text(encoding="utf-8").splitlines():
        code, exit_code, words = line.split("\t")
        yield (code, f"exit {exit_code}: {words}"), (code, words)
