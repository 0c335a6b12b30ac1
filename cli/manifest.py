"""A manifest: the file that names several models for one command, and what each is asked for.

A text file has one model a line, or a JSON object of options (`{"model": "a.hf", "output":
"a.bitnet"}`); a .yaml, .yml or .json file is a list of either. Paths are those that could be
typed in the same place. Knows nothing of what is done with the models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bitnet_jax.core import yaml_text
from bitnet_jax.core.errors import BadData, ConfigError, NoInput, UsageError, did_you_mean

from .args import Parser, as_texts
from .options import ManyModelsArgs, ModelArgs
from .stdio import Input

LISTS = (".yaml", ".yml", ".json")
# What holds for the call as a whole is no option of one model.
SHARED = {*ManyModelsArgs.__dataclass_fields__, *ModelArgs.__dataclass_fields__}
SHARED |= {"jobs", "force", "dump_passes"}


def read(source: str, cls: type, stdin: Input) -> list[dict[str, Any]]:
    """Returns the entries of a manifest, each field name -> value, with `model` in all of them.

    Args:
      source: the file, or "-" for stdin.
      cls: the command's args class, whose options an entry may set.

    Raises:
      NoInput: there is no such file.
      BadData: it is no manifest; the message names the line or the entry.
    """
    name = "stdin" if source == "-" else source
    text = _text(source, stdin)
    suffix = Path(source).suffix.lower()
    listed = suffix in LISTS
    if suffix == ".json":  # JSON is YAML but for tabs between its tokens
        text = text.replace("\t", " ")
    parser = Parser(cls)
    entries = [
        {"model": raw} if isinstance(raw, str) else _options(raw, parser, f"{name}{where}")
        for where, raw in (_list(name, text) if listed else _lines(name, text))
    ]
    if not entries:
        raise BadData("manifest.empty", f"{name} names no model", "write one model a line")
    return entries


def _text(source: str, stdin: Input) -> str:
    if source == "-":
        return stdin.read()
    try:
        return yaml_text.read_text(Path(source), what="manifest", code="manifest.not_text")
    except NoInput as error:
        raise NoInput(
            "manifest.not_found", f"no manifest `{source}`", "`bitnet help batch` shows one"
        ) from error
    except ConfigError as error:
        raise BadData("manifest.not_text", error.message, HINT) from error


HINT = "a manifest names one model a line; `bitnet help batch` shows one"


def _lines(name: str, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if "\0" in line:
            raise BadData("manifest.not_text", f"{name}:{number}: it is no text", HINT)
        if not line.startswith("{"):
            yield f":{number}", line
            continue
        try:
            yield f":{number}", json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise BadData("manifest.syntax", f"{name}:{number}: {error}", HINT) from error


def _list(name: str, text: str) -> Iterator[tuple[str, Any]]:
    try:
        tree = yaml_text.parse(text, name, code="manifest.syntax")
    except ConfigError as error:
        raise BadData("manifest.syntax", error.message, HINT) from error
    if not isinstance(tree, list):
        raise BadData("manifest.syntax", f"{name}: a list of models is expected", HINT)
    for number, entry in enumerate(tree, 1):
        yield f", entry {number}", entry


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no key may stand twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _options(raw: Any, parser: Parser, where: str) -> dict[str, Any]:
    """Returns an entry's options as values; its keys are options' long names."""
    if not isinstance(raw, Mapping):
        raise BadData("manifest.entry", f"{where}: neither a model nor a table of options", HINT)
    spelled = {
        spelling.lstrip("-"): field.name
        for spelling, field in parser.spelled.items()
        if spelling.startswith("--") and field.name not in SHARED
        if not field.metadata.get("report")  # the page is of them all
    }
    values: dict[str, Any] = {}
    for key, value in raw.items():
        name = spelled.get(str(key).replace("_", "-"))
        if name is None:
            raise BadData(
                "manifest.unknown_key",
                f"{where}: `{key}` is no option of one model",
                did_you_mean(str(key), spelled),
            )
        field = parser.fields[name]
        try:
            if field.type is bool and not isinstance(value, bool):
                raise ValueError(f"`{value}` is neither true nor false")
            values[name] = (
                value if field.type is bool else parser.convert(field, as_texts(field, value))
            )
        except (UsageError, ValueError) as error:
            told = error.message if isinstance(error, UsageError) else str(error)
            raise BadData(
                "manifest.bad_value", f"{where}: `{key}`: {told}", getattr(error, "hint", None)
            ) from error
    model = values.get("model")
    if not model or len(model) != 1:
        raise BadData("manifest.entry", f"{where}: `model` must name one model", HINT)
    return {**values, "model": model[0]}
