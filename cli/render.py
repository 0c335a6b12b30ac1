"""From a result to what stands on stdout and stderr.

Every format prints the same record: tables for people (rich on a terminal, aligned text in a
pipe), the envelope for machines. Knows nothing of commands.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from bitnet_jax.core.letters import spelled_out

from .context import Streams
from .envelope import dump
from .exit_codes import INTERRUPTED
from .result import (
    Chart,
    CommandResult,
    Pairs,
    Section,
    Table,
    Text,
    flat,
    sections_of,
    show,
)

RED, YELLOW, CYAN, BOLD, PLAIN = "\x1b[1;31m", "\x1b[1;33m", "\x1b[36m", "\x1b[1m", "\x1b[0m"


def render(result: CommandResult, command: str, emit: str, streams: Streams) -> None:
    """Prints the record on stdout as `emit` says."""
    text = RENDERERS[emit](result, command, streams)
    if text:
        streams.stdout.write(text)
        streams.stdout.flush()


def talk(result: CommandResult, streams: Streams, *, quiet: bool, said: list[str]) -> None:
    """Prints the result's warnings (but those `said` already) and errors on stderr."""
    paint = painter(streams.colour(streams.stderr))
    lines = []
    if not quiet:
        new = [warning for warning in result.warnings if warning not in said]
        lines += [f"{paint('warning', YELLOW)}: {one_line(warning)}" for warning in new]
    for error in result.errors:
        lines.append(f"{paint('error', RED)}[{error['code']}]: {one_line(error['message'])}")
        if error.get("hint"):
            lines += ["", f"{paint('hint', CYAN)}: {spelled_out(error['hint'])}"]
    # A question, or the ^C that a terminal shows, stands in the line that the cursor is in.
    if lines and streams.stderr.isatty():
        if streams.stderr.line_open or result.exit_code == INTERRUPTED:
            lines.insert(0, "")
    if lines:
        streams.stderr.told = streams.stderr.told or bool(result.errors)
        streams.stderr.write("\n".join(lines) + "\n")
        streams.stderr.flush()


def one_line(text: str) -> str:
    """Returns `text` as one line: a file's name may hold line ends and escapes."""
    return spelled_out(text, keep="\t")


def painter(colour: bool) -> Callable[[str, str], str]:
    """Returns a function that colours a word, or leaves it."""
    return (lambda word, code: f"{code}{word}{PLAIN}") if colour else (lambda word, code: word)


def _record(result: CommandResult, command: str) -> dict[str, Any]:
    return result.as_envelope(command)


def _json(result: CommandResult, command: str, streams: Streams) -> str:
    return dump(_record(result, command), streams.stdout) + "\n"


def _jsonl(result: CommandResult, command: str, streams: Streams) -> str:
    # The last event is the envelope itself, so that every line of the stream has `event`.
    return dump({**_record(result, command), "event": "result"}, streams.stdout) + "\n"


def _yaml(result: CommandResult, command: str, streams: Streams) -> str:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = _is_utf8(streams)
    yaml.sort_base_mapping_type_on_output = False  # keep the envelope's order
    out = io.StringIO()
    yaml.dump(_record(result, command), out)
    return out.getvalue()


def _junit(result: CommandResult, command: str, streams: Streams) -> str:
    from .ci_forms import junit

    # Whatever the stream cannot encode stands as &#...; in either.
    return junit(_record(result, command), "utf-8" if _is_utf8(streams) else "us-ascii")


def _github(result: CommandResult, command: str, streams: Streams) -> str:
    from .ci_forms import github

    return github(_record(result, command))


def _is_utf8(streams: Streams) -> bool:
    return streams.stdout.encoding.lower().replace("-", "") == "utf8"


def _csv(result: CommandResult, command: str, streams: Streams) -> str:
    rows = _rows(result)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        return ""
    cells: list[list[Any]] = [names, *([row.get(name) for name in names] for row in rows)]
    return "".join(map(_csv_line, cells))


def _csv_line(cells: list[Any]) -> str:
    out = io.StringIO()
    # Only what is in the line's end is put in quotes for its sake, and a bare \r needs them too.
    csv.writer(out, lineterminator="\r\n").writerow([_cell(cell) for cell in cells])
    return out.getvalue().removesuffix("\r\n") + "\n"


def _rows(result: CommandResult) -> list[dict[str, Any]]:
    """Returns the records of one list in the data; a record without one is a row itself."""
    data = _record(result, "")["data"]
    lists = [key for key, value in data.items() if _is_records(value)]
    key = result.rows or (lists[0] if lists else "")
    return [dict(flat(row)) for row in data[key]] if key in data else [dict(flat(data))]


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


# What makes a cell a formula; also in the wide forms that some programs fold.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        # A spreadsheet would run such a cell as a formula.
        return f"'{value}" if value.startswith(FORMULA) else value
    return json.dumps(value) if isinstance(value, list | dict) else value


def _people(result: CommandResult, command: str, streams: Streams) -> str:
    sections = result.sections
    if sections is None:
        sections = sections_of(_record(result, command)["data"])
    sections = [section for section in sections if not isinstance(section, Chart)]
    tables = any(isinstance(section, Table) for section in sections)
    if streams.stdout_terminal and tables and _is_utf8(streams):  # it draws with lines
        return _rich(sections, streams)
    paint = painter(streams.colour(streams.stdout))
    return "\n".join(_plain(section, paint) for section in sections)


def _plain(section: Section, paint: Callable[[str, str], str]) -> str:
    head = _head(section, paint)
    if isinstance(section, Text):
        return head + spelled_out(section.text.rstrip("\n")) + "\n"
    if isinstance(section, Pairs):
        rows = [(show(name), show(value)) for name, value in section.rows]
        width = max((len(name) for name, _ in rows), default=0)
        return head + "".join(f"{name:<{width}}  {value}".rstrip() + "\n" for name, value in rows)
    if isinstance(section, Chart):  # a picture is for the page
        return ""
    return head + "".join(line + "\n" for line in aligned(section))


def _head(section: Section, paint: Callable[[str, str], str]) -> str:
    return f"{paint(show(section.title), BOLD)}\n" if section.title else ""


def aligned(table: Table) -> list[str]:
    """Returns a table as lines of columns two spaces apart, numbers set to the right."""
    cells = [[show(value) for value in row] for row in (table.columns, *table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    right = _numeric(table)
    return [
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]


def _numeric(table: Table) -> list[bool]:
    columns = range(len(table.columns))
    values = [[row[i] for row in table.rows if row[i] is not None] for i in columns]
    return [
        bool(column) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in column)
        for column in values
    ]


def _rich(sections: Sequence[Section], streams: Streams) -> str:
    """Draws sections for a terminal; rich is imported for nobody else."""
    from shutil import get_terminal_size

    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    out = io.StringIO()
    colour = streams.colour(streams.stdout)
    width, height = get_terminal_size()
    console = Console(
        file=out,
        force_terminal=True,
        no_color=not colour,
        highlight=False,
        width=width,
        height=height,  # else TERM=dumb would be taken for 80 columns
    )
    paint = painter(colour)
    for section in sections:
        if not isinstance(section, Table) or _too_narrow(section, width):
            out.write((_plain if not isinstance(section, Table) else _records)(section, paint))
            out.write("\n")
            continue
        drawn = RichTable(
            title=RichText(show(section.title)), title_justify="left", box=box.SIMPLE_HEAD
        )
        for name, numeric in zip(section.columns, _numeric(section), strict=True):
            justify: Any = "right" if numeric else "left"
            drawn.add_column(RichText(show(name)), justify=justify, overflow="fold")
        for row in section.rows:
            # Text, never markup: `[bold]` in a tensor's name is a name.
            drawn.add_row(*[RichText(show(value)) for value in row])
        console.print(drawn)
    return out.getvalue()


def _too_narrow(table: Table, width: int) -> bool:
    """Says whether words would be broken to fit the table's columns beside each other."""
    cells = [[show(value) for value in row] for row in (table.columns, *table.rows)]
    words = [
        max(len(w) for row in cells for w in row[i].split() or [""]) for i in range(len(cells[0]))
    ]
    return sum(word + 3 for word in words) > width


def _records(table: Any, paint: Callable[[str, str], str]) -> str:
    """Returns a table that is wider than the terminal as a block of lines for each row."""
    head = _head(table, paint)
    blocks = [Pairs(list(zip(table.columns, row, strict=True))) for row in table.rows]
    return head + "\n".join(_plain(block, paint) for block in blocks)


RENDERERS: dict[str, Callable[[CommandResult, str, Streams], str]] = {
    "table": _people,
    "json": _json,
    "jsonl": _jsonl,
    "yaml": _yaml,
    "csv": _csv,
    "junit": _junit,
    "github": _github,
}


def write_export(data: dict[str, Any], target: str, streams: Streams, *, force: bool) -> None:
    """Writes a record's data as JSON to a file, or to stdout for "-"."""
    from pathlib import Path

    from bitnet_jax.core.paths import atomic_file, check_output

    from .envelope import plain

    text = dump(plain(data), indent=2) + "\n"
    if target == "-":
        streams.stdout.write(dump(plain(data), streams.stdout, indent=2) + "\n")
        streams.stdout.flush()
        return
    check_output(Path(target), force=force)
    with atomic_file(Path(target), force=force) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))
