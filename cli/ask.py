"""Asking a person for the options that are needed and missing.

Only when there is a terminal and --no-input was not given; else they are an error that names
them all. Knows nothing of where values else come from.
"""

from __future__ import annotations

import dataclasses
import shlex
import typing
from collections.abc import Mapping
from typing import Any

from bitnet_jax.core.errors import UsageError

from .args import Parser
from .config import Setting
from .context import Streams
from .fields import long_name


def missing(parser: Parser, settings: Mapping[str, Setting]) -> list[dataclasses.Field]:
    """Returns the needed options without a value."""
    needed = [field for field in parser.fields.values() if field.metadata.get("needed")]
    return [
        field
        for field in needed
        if settings[field.name].value in (None, [])
        and not any(settings[name].value for name in field.metadata.get("unless", ()))
    ]


def refuse(fields: list[dataclasses.Field], prog: str, example: str) -> UsageError:
    """Returns the error for options that nobody can be asked for."""
    names = ", ".join(f"`{long_name(field)}`" for field in fields)
    return UsageError("cli.missing_option", f"`{prog}` needs {names}", f"for example: {example}")


def fill(fields: list[dataclasses.Field], parser: Parser, streams: Streams) -> dict[str, Setting]:
    """Asks for each option until its value fits.

    Raises:
      UsageError: stdin ended before an answer came.
    """
    answers = {}
    for field in fields:
        choices = field.metadata.get("choices")
        if typing.get_origin(field.type) is typing.Literal:
            choices = typing.get_args(field.type)
        known = f" ({', '.join(map(str, choices))})" if choices else ""
        prompt = f"{field.metadata['help']}{known}\n{long_name(field)}: "
        answers[field.name] = Setting(_answer(field, prompt, parser, streams), "asked")
    return answers


def _answer(field: dataclasses.Field, prompt: str, parser: Parser, streams: Streams) -> Any:
    while True:
        streams.stderr.write(prompt)
        streams.stderr.flush()
        line = streams.answer()
        if not line:
            raise UsageError("cli.missing_option", f"no answer came for `{long_name(field)}`")
        if not line.strip():
            continue
        try:
            return parser.convert(field, [line.strip()])
        except UsageError as error:
            hint = f": {error.hint}" if error.hint else ""
            streams.stderr.write(f"{error.message}{hint}\n")


def whole_line(argv: list[str], words: str, answers: Mapping[str, Setting]) -> str:
    """Returns the line that would have needed no question."""
    said = [
        f"--{name.replace('_', '-')}={value}"
        for name, setting in answers.items()
        for value in (setting.value if isinstance(setting.value, list) else [setting.value])
    ]
    return shlex.join(["bitnet", *words.split(), *argv, *said])
