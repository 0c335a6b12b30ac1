"""What a command returns: its record, and how people may like to see it.

Sections are for people only, on the terminal and on the page of --report; machines get
`data`. Nothing here prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bitnet_jax.core.letters import spelled_out as spelled_out

from .envelope import envelope, plain

if TYPE_CHECKING:
    from bitnet_jax.core.errors import BitnetError


@dataclass
class Measure:
    """A value with its unit and, behind it, a few words; stands where a value stands."""

    value: Any
    unit: str = ""
    note: str = ""


@dataclass
class Text:
    """A paragraph; with `code` as it was written, line by line."""

    text: str
    title: str = ""
    code: bool = False


@dataclass
class Pairs:
    """Names and values, one a line, under an optional title."""

    rows: Sequence[tuple[str, Any]]
    title: str = ""


class Figures(Pairs):
    """The few values that matter most: cards on the page, pairs in the terminal."""


@dataclass
class Table:
    """Rows under named columns; numbers are set to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""


@dataclass
class Chart:
    """A picture, which only the page of --report shows.

    `fields` are those of the kind: docs/reports.md lists them.
    """

    kind: str
    title: str
    fields: dict[str, Any]


Section = Text | Pairs | Table | Chart


@dataclass
class CommandResult:
    """The outcome of a command.

    Attributes:
      data: the record, under the names that scripts rely on.
      ok: False when a check failed or the command did.
      exit_code: 0 exactly when `ok`.
      warnings: sentences for the person and the envelope.
      errors: `{"code", "message", "hint"}` each.
      sections: what people see; None lays out `data` itself, [] shows nothing.
      page: makes what stands on the page of --report from `data`, when there is to be one;
        None takes the sections.
      subject: what the page is about, its heading; "" takes the command.
      rows: the key of `data` whose list `--emit csv` prints; "" takes the first list of records.
    """

    data: dict[str, Any] = field(default_factory=dict)
    ok: bool = True
    exit_code: int = 0
    warnings: list[str] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    sections: list[Section] | None = None
    page: Callable[[dict[str, Any]], list[Section]] | None = None
    subject: str = ""
    rows: str = ""

    @classmethod
    def of(cls, record: Any, **extra: Any) -> CommandResult:
        """Returns the result for a record of the library.

        `record` is a dataclass or a mapping; its `warnings` move to the envelope.
        """
        data = plain(record)
        if not isinstance(data, dict):
            raise TypeError(f"a record is a mapping or a dataclass, not {type(record).__name__}")
        warnings = data.pop("warnings", None) or []
        return cls(data=data, warnings=[str(warning) for warning in warnings], **extra)

    def as_envelope(self, command: str) -> dict[str, Any]:
        """Returns the one record that every format prints."""
        return envelope(
            command,
            ok=self.ok,
            exit_code=self.exit_code,
            data=self.data,
            warnings=self.warnings,
            errors=self.errors,
        )

    def fail(self, error: BitnetError) -> CommandResult:
        """Adds `error`, whose exit code becomes the result's; returns the result."""
        self.ok, self.exit_code = False, error.exit_code
        self.errors.append({"code": error.code, "message": error.message, "hint": error.hint})
        return self


def sections_of(data: Mapping[str, Any]) -> list[Section]:
    """Lays out any record: single values as pairs, records in lists as tables."""
    single = [(key, value) for key, value in data.items() if not _is_nested(value)]
    sections: list[Section] = [Pairs(single)] if single else []
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            sections.append(Pairs(flat(value), title=title(key)))
        elif _is_nested(value) and value:
            sections.append(table_of(value, title=title(key)))
    return sections


def table_of(
    records: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), title: str = ""
) -> Table:
    """Returns records as a table; `columns` are dotted names, by default all that occur."""
    flattened = [dict(flat(record)) for record in records]
    names = list(columns) or list(dict.fromkeys(name for row in flattened for name in row))
    return Table(names, [[row.get(name) for name in names] for row in flattened], title)


def flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Returns (dotted name, value) for every leaf of a record; a list is a leaf."""
    pairs: list[tuple[str, Any]] = []
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            pairs += flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def title(key: str) -> str:
    """Returns a record's key as a heading: "runs_in" -> "runs in"."""
    return key.replace("_", " ")


def show(value: Any) -> str:
    """Returns one value as a person reads it, with no control characters in it."""
    if isinstance(value, Measure):
        words = f"{show(value.value)} {value.unit}".rstrip()
        return f"{words} ({value.note})" if value.note else words
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        if not value:
            return "none"
        return ", ".join(
            ", ".join(f"{k}={show(v)}" for k, v in flat(item))
            if isinstance(item, Mapping)
            else show(item)
            for item in value
        )
    return spelled_out(str(value), keep="")


def _is_nested(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)
