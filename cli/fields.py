"""Declaring an option as a dataclass field: its spellings, type, default, environment name.

What `metadata` may say beyond argparse-dataclass's own keys is defined here and read in
`args` and `help`. Parses nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import MISSING
from typing import Any

ENV_PREFIX = "BITNET_"


def option(
    *names: str,
    help: str,
    default: Any = None,
    default_factory: Callable[[], Any] | None = None,
    type: Callable[[str], Any] | None = None,
    choices: Sequence[Any] | None = None,
    planned: Collection[Any] = (),
    metavar: str | None = None,
    nargs: str | None = None,
    const: Any = None,
    needed: bool = False,
    unless: Sequence[str] = (),
    positional: bool = False,
    repeat: bool = False,
    commas: bool = False,
    count: bool = False,
    built: bool = True,
    shown_default: str | None = None,
    report: bool = False,
    export: bool = False,
) -> Any:
    """Returns a dataclass field that is an option.

    Args:
      *names: the spellings ("-o", "--output"); none means `--field-name`.
      help: one line, without the default: that is printed from `default`.
      planned: values that are announced and not built yet: refused as such.
      needed: a value must come from somewhere; asked for on a terminal. Never argparse's
        `required`, which could not be met by the environment or a settings file.
      unless: with `needed`, the fields that take its place.
      positional: may also be given as a bare word, in the order of the fields; a `repeat`ed one
        takes all that are left.
      repeat: may be given several times; the value is a list.
      commas: with `repeat`, one value may also hold several, separated by commas.
      count: how often it was given (-vv is 2).
      built: False for an option that is announced: help shows it, giving it is refused.
      const: the value when it is given without one (with nargs="?").
      report: its value is the page to write, as that of --report (`session` writes it).
      export: its value is a file for the record's data, as --export-json (`session` writes it).
      shown_default: what help says when the true default is only known later.
    """
    metadata: dict[str, Any] = {"help": help}
    given = {
        "args": list(names) or None,
        "type": type,
        "choices": choices,
        "planned": planned or None,
        "metavar": metavar,
        "nargs": nargs,
        "const": const,
        "shown_default": shown_default,
        "needed": needed or None,
        "unless": tuple(unless) or None,
        "positional": positional or None,
        "repeat": repeat or None,
        "commas": commas or None,
        "count": count or None,
        "report": report or None,
        "export": export or None,
        "built": None if built else False,
    }
    metadata.update({key: value for key, value in given.items() if value is not None})
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def whole(minimum: int) -> Callable[[str], int]:
    """Returns a type: an integer of at least `minimum`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"`{text}` is not a whole number") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is below the least, {minimum}")
        return value

    return parse


def number(
    low: float, high: float = float("inf"), *, above: bool = False
) -> Callable[[str], float]:
    """Returns a type: a finite number from `low` to `high`; `above` leaves `low` itself out."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"`{text}` is not a number") from None
        if not math.isfinite(value):  # 1e999 too
            raise argparse.ArgumentTypeError(f"`{text}` is not a finite number")
        if not (low < value if above else low <= value) or not value <= high:
            bound = f"above {low:g}" if above else f"at least {low:g}"
            limit = "" if high == float("inf") else f" and at most {high:g}"
            raise argparse.ArgumentTypeError(f"{text} must be {bound}{limit}")
        return value

    return parse


def named(text: str) -> str:
    """A type: the name of something. An unset variable of a script must not mean this folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty: is a variable not set?")
    return text


def size(text: str) -> str:
    """A type: a shape of tokens, "512" or "4x512" (batch x length)."""
    parts = text.split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"`{text}` is neither a length (512) nor a shape (4x512)")
    return text


def key_value(text: str) -> str:
    """A type: KEY=VALUE."""
    if not text.partition("=")[0] or "=" not in text:
        raise argparse.ArgumentTypeError(f"`{text}` is not KEY=VALUE")
    return text


def long_name(field: dataclasses.Field) -> str:
    """Returns the option's long spelling."""
    return f"--{field.name.replace('_', '-')}"


def spellings(field: dataclasses.Field) -> list[str]:
    """Returns every spelling of the option, as declared."""
    return list(field.metadata.get("args", [long_name(field)]))


def env_name(field: dataclasses.Field) -> str:
    """Returns the environment variable that sets the option."""
    return ENV_PREFIX + field.name.upper()


def option_strings(cls: type) -> dict[str, dataclasses.Field]:
    """Returns spelling -> field for every option of an args dataclass."""
    return {name: field for field in dataclasses.fields(cls) for name in spellings(field)}


def default_of(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def close_options(name: str, known: Iterable[str]) -> list[str]:
    """Returns the known option spellings near a mistyped one, best first.

    Compared without the dashes, which would make every pair look alike.
    """
    bare: dict[str, str] = {}
    for spelling in known:
        bare.setdefault(spelling.lstrip("-"), spelling)
    close = difflib.get_close_matches(name.lstrip("-"), bare, n=2, cutoff=0.6)
    return [bare[word] for word in close]
