"""The one bridge to argparse-dataclass: from an args dataclass to what was really typed.

argparse-dataclass 2.0.0 turns a flat dataclass into options and leaves what was not typed as
`MISSING`, so that other layers of settings can fill it. What it lacks or does silently wrong
is bridged here (repeated and counted options, positional arguments, values without a value,
errors that are exceptions) or refused with a reason (`check`). Knows nothing of the
environment, of files, or of commands.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from typing import Any

import argparse_dataclass

from bitnet_jax.core.errors import UsageError, nearest

from .failure import not_built
from .fields import close_options, long_name, option_strings, spellings


def check(cls: type) -> None:
    """Raises TypeError for a dataclass that argparse-dataclass would read wrongly.

    Each case here was seen to fail late, or silently.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a dataclass")
    if "__slots__" in vars(cls):
        raise TypeError(f"{cls.__name__} has slots: argparse-dataclass reads vars()")
    if hasattr(cls, "__post_init__"):
        raise TypeError(
            f"{cls.__name__}.__post_init__ would run on unfinished values: check in run"
        )
    words = [field for field in dataclasses.fields(cls) if field.metadata.get("positional")]
    if any(field.metadata.get("repeat") for field in words[:-1]):
        raise TypeError(f"{cls.__name__}: no word can follow a list of words")
    for field in dataclasses.fields(cls):
        where = f"{cls.__name__}.{field.name}"
        kind, meta = field.type, field.metadata
        origin = typing.get_origin(kind)
        inner = [arg for arg in typing.get_args(kind) if arg is not type(None)]
        if "help" not in meta:
            raise TypeError(f"{where}: declare it with `option(..., help=...)`")
        if isinstance(kind, str):
            raise TypeError(f"{where}: no `from __future__ import annotations` with args classes")
        if not isinstance(kind, type) and origin is None:
            raise TypeError(f"{where}: {kind!r} is no plain type")
        for key in ("required", "keep_underscores", "group"):
            if key in meta:
                raise TypeError(f"{where}: `{key}` is argparse's; say `needed=True` or a spelling")
        if "action" in meta:
            raise TypeError(f"{where}: argparse-dataclass drops `action`; say repeat or count")
        if not field.init:
            raise TypeError(f"{where}: init=False breaks once the option is given")
        if field.default is MISSING and field.default_factory is MISSING:
            raise TypeError(f"{where}: needs a default; say `needed=True` for a needed option")
        if type(kind).__name__ == "UnionType":
            raise TypeError(f"{where}: write Optional[X]; `X | None` is not callable")
        if dataclasses.is_dataclass(kind):
            raise TypeError(f"{where}: a nested dataclass would be given the raw string")
        if kind is bool and field.default is not False:
            raise TypeError(f"{where}: a flag starts as False; name the option for its opposite")
        if origin is typing.Union and inner[0] is bool:
            raise TypeError(f"{where}: Optional[bool] reads `false` as True; use choices")
        if origin is typing.Union and typing.get_origin(inner[0]) is typing.Literal:
            raise TypeError(f"{where}: Optional[Literal] refuses every value; use str and choices")
        if (origin or kind) in (list, tuple) or (
            origin is typing.Union and typing.get_origin(inner[0]) in (list, tuple)
        ):
            if not meta.get("repeat") or "type" not in meta:
                raise TypeError(f"{where}: a list needs repeat=True and the type of one element")
        elif meta.get("repeat"):
            raise TypeError(f"{where}: repeat=True needs a list")
        if long_name(field) not in spellings(field):
            raise TypeError(f"{where}: {long_name(field)} must be one of its spellings")


class _Store(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values)


class _Repeat(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        so_far = getattr(namespace, self.dest)
        if self.nargs is not None:  # each word has become a list already
            values = [item for part in values for item in part]
        setattr(namespace, self.dest, [*([] if so_far is MISSING else so_far), *values])


class _Count(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        so_far = getattr(namespace, self.dest)
        setattr(namespace, self.dest, 1 if so_far is MISSING else so_far + 1)


class Parser(argparse.ArgumentParser):
    """An argparse parser for some args dataclasses, whose errors are `UsageError`s."""

    def __init__(
        self,
        *classes: type,
        prog: str = "bitnet",
        elsewhere: Callable[[str], Sequence[str]] = lambda spelling: (),
    ):
        """`elsewhere` names the commands that have an option, for one that this one lacks."""
        # Abbreviations would take `--for` for `--format`, and break when an option is added.
        super().__init__(prog=prog, add_help=False, allow_abbrev=False, exit_on_error=False)
        self.fields: dict[str, dataclasses.Field] = {}
        self.spelled: dict[str, dataclasses.Field] = {}
        self._elsewhere = elsewhere
        # argparse-dataclass passes no `action`, so this is asked for every valued option.
        self.register("action", None, self._action)
        for cls in classes:
            check(cls)
            self.fields |= {field.name: field for field in dataclasses.fields(cls)}
            self.spelled |= option_strings(cls)
            argparse_dataclass._add_dataclass_options(cls, self)

    def _action(self, option_strings, dest, **options):
        meta = self.fields[dest].metadata
        if meta.get("count"):
            return _Count(option_strings, dest, nargs=0, default=MISSING)
        if meta.get("repeat"):
            options["type"] = _list_of(meta["type"], commas=meta.get("commas", False))
            return _Repeat(option_strings, dest, **options)
        if "const" in meta:
            options["const"] = meta["const"]
        return _Store(option_strings, dest, **options)

    def _check_value(self, action, value):
        # argparse's own message quotes reprs and suggests nothing; it knows no choice in a list.
        if action.choices is None:
            return
        known = [str(choice) for choice in action.choices]
        for item in value if isinstance(value, list) else [value]:
            if item in action.choices:
                continue
            if item in self.fields[action.dest].metadata.get("planned", ()):
                raise not_built(
                    f"{self._spelled_as(action)} `{item}`", "built are: " + ", ".join(known)
                )
            close = nearest(str(item), known)
            raise UsageError(
                "cli.bad_value",
                f"`{item}` is not a value of {self._spelled_as(action)}",
                (f"did you mean `{close[0]}`? " if close else "") + "known: " + ", ".join(known),
            )

    @staticmethod
    def _spelled_as(action) -> str:
        return next((s for s in action.option_strings if s.startswith("--")), action.dest)

    def error(self, message: str) -> typing.NoReturn:
        raise UsageError("cli.usage", message, f"`{self.prog} --help` shows what it takes")

    def typed(self, argv: Sequence[str]) -> dict[str, Any]:
        """Returns field name -> value for the options and words in `argv`, and no other field.

        Raises:
          UsageError: an option is not known, a value does not fit, or a word is left over.
        """
        argv = list(argv)
        cut = argv.index("--") if "--" in argv else len(argv)
        values, extras = self._parse(argv[:cut])
        for extra in extras:
            if extra.startswith("-") and extra != "-" and not _is_number(extra):
                raise self._unknown(extra)
        self._place(values, extras + argv[cut + 1 :])
        return values

    def convert(self, field: dataclasses.Field, texts: Sequence[str]) -> Any:
        """Returns the field's value for `texts`, as if each had been typed after its option."""
        values, _ = self._parse([f"{long_name(field)}={text}" for text in texts])
        return values[field.name]

    def _parse(self, argv: list[str]) -> tuple[dict[str, Any], list[str]]:
        try:
            namespace, extras = self.parse_known_args(argv)
        except argparse.ArgumentError as error:
            name = (error.argument_name or "").split("/")
            spelled = next((part for part in name if part.startswith("--")), name[0])
            hint = f"`{self.prog} --help` shows what it takes"
            if "expected" in error.message:
                # The value may well have been there, and begun with a dash.
                hint = f"a value that begins with a dash is written {spelled}=-value"
            raise UsageError("cli.bad_value", f"{spelled}: {error.message}", hint) from error
        values = {k: v for k, v in vars(namespace).items() if v is not MISSING}
        return values, extras

    def _place(self, values: dict[str, Any], extras: list[str]) -> None:
        """Gives bare words to the positional fields that were not given as options.

        Not argparse's own positionals: one that may be absent is taken as absent as soon as
        the first option is met, and the word after it is refused.
        """
        free = [f for f in self.fields.values() if f.metadata.get("positional")]
        free = [field for field in free if field.name not in values]
        for word in extras:
            if not free:
                raise UsageError(
                    "cli.unexpected_argument",
                    f"`{word}` is one word too many for `{self.prog}`",
                    f"put a text with spaces in quotes; `{self.prog} --help` shows what it takes",
                )
            if free[0].metadata.get("repeat"):
                field = free[0]
                values[field.name] = values.get(field.name, []) + self.convert(field, [word])
            else:
                field = free.pop(0)
                values[field.name] = self.convert(field, [word])

    def _unknown(self, token: str) -> UsageError:
        name = token.partition("=")[0]
        close = close_options(name, self.spelled)
        hint = "did you mean " + " or ".join(f"`{n}`" for n in close) + "?" if close else None
        others = self._elsewhere(name)
        if others and not (close and _is_slip(name, close[0])):
            hint = "it is an option of " + ", ".join(f"`bitnet {words}`" for words in others)
        return UsageError(
            "cli.unknown_option",
            f"`{self.prog}` has no option `{name}`",
            hint or f"`{self.prog} --help` lists its options",
        )


def _list_of(element: Callable[[str], Any], *, commas: bool) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        if not commas:
            return [element(text)]
        return [element(part.strip()) for part in text.split(",") if part.strip()]

    return parse


def _is_slip(name: str, meant: str) -> bool:
    """Says whether two spellings differ by the slip of a key, not by a word."""
    return difflib.SequenceMatcher(None, name, meant).ratio() > 0.9


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def as_texts(field: dataclasses.Field, value: Any) -> list[str]:
    """Returns a settings file's value as the texts that would be typed.

    Raises:
      ValueError: a table, or a list where one value is expected.
    """
    if isinstance(value, Mapping):
        raise ValueError("a table stands where a value is expected")
    if isinstance(value, list | tuple):
        if not field.metadata.get("repeat"):
            raise ValueError("a list stands where one value is expected")
        return [str(item) for item in value]
    return [str(value)]
