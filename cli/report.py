"""From a result to the page that --report writes.

The page is made by the library (`api.report_page`); this says what stands on it, and writes it.
Knows nothing of commands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

from bitnet_jax.core.errors import CannotCreate, UsageError
from bitnet_jax.core.paths import atomic_file, check_output

from .result import Chart, CommandResult, Figures, Measure, Pairs, Table, Text, sections_of

SUFFIXES = (".html", ".htm")


def page_file(asked: str | None, by_option: list[str | None]) -> str | None:
    """Returns the page to write: that of --report, or of an option that means the same.

    Raises:
      UsageError: two different pages are asked for, or the name is that of no page.
    """
    files = list(dict.fromkeys(file for file in [asked, *by_option] if file is not None))
    if not files:
        return None
    if len(files) > 1:
        raise UsageError(
            "cli.clash",
            f"two pages are asked for: `{files[0]}` and `{files[1]}`",
            "--output of this command is the page of --report: leave one of them out",
        )
    if PurePath(files[0]).suffix.lower() not in SUFFIXES:
        # So that a slip of the hand never puts a page in a model's place.
        raise UsageError(
            "cli.report_name",
            f"`{files[0]}` is no name for a page",
            f"a report is an HTML page: name it `{PurePath(files[0]).stem or 'report'}.html`",
        )
    return files[0]


def check_page(file: str, *, force: bool) -> None:
    """Refuses, before the command runs, what could not be written after it."""
    path = Path(file)
    check_output(path, force=force)
    if path.exists() and not path.is_file():
        raise CannotCreate(
            "io.not_file",
            f"`{file}` is no file that could be replaced",
            "choose another name",
        )


def write_page(result: CommandResult, command: str, file: str, *, force: bool) -> None:
    """Writes the page of a result, whole or not at all.

    Raises:
      CannotCreate: it exists and `force` is false.
      IOFailure, PermissionDenied, NoInput: from the operating system.
    """
    check_output(Path(file), force=force)
    with atomic_file(Path(file)) as stream:
        stream.write(page(result, command).encode("utf-8"))


def page(result: CommandResult, command: str) -> str:
    """Returns the page of a result as HTML."""
    from importlib.metadata import version

    from bitnet_jax import api

    record = result.as_envelope(command)
    sections = result.page(record["data"]) if result.page is not None else result.sections
    if sections is None:
        sections = sections_of(record["data"])
    return api.report_page(
        result.subject or f"bitnet {command}",
        [SPELLED[type(section)](section) for section in sections],
        record,
        command=command,
        ok=result.ok,
        verdict="ok" if result.ok else f"failed, exit code {result.exit_code}",
        warnings=record["warnings"],
        errors=record["errors"],
        made_by=f"bitnet-jax {version('bitnet-jax')}",
    )


def _rows(rows: Any) -> list[list[Any]]:
    return [[_value(value) for value in row] for row in rows]


def _value(value: Any) -> Any:
    return dataclasses.asdict(value) if isinstance(value, Measure) else value


# A section of a result -> a section of a page.
SPELLED: dict[type, Callable[[Any], dict[str, Any]]] = {
    Text: lambda s: {"kind": "paragraph", "title": s.title, "text": s.text, "code": s.code},
    Figures: lambda s: {"kind": "figures", "title": s.title, "rows": _rows(s.rows)},
    Pairs: lambda s: {"kind": "pairs", "title": s.title, "rows": _rows(s.rows)},
    Table: lambda s: {
        "kind": "table",
        "title": s.title,
        "columns": list(s.columns),
        "rows": _rows(s.rows),
    },
    Chart: lambda s: {"kind": s.kind, "title": s.title, **s.fields},
}
