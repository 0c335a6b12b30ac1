"""A record as continuous integration reads it: GitHub annotations, and JUnit XML.

Both are made from what every record has (errors, warnings) and from the findings that some hold in
`data`: rows with a `severity`, or with a `passed`. Knows nothing of which command made it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

from bitnet_jax.core.letters import spelled_out

from .result import show

# A finding's severity -> the level of an annotation; any other is a notice.
LEVELS = {"error": "error", "warning": "warning"}
# Messages about a text file begin with its place: `recipe.yaml:3:5: ...`, in backquotes or not.
PLACE = re.compile(r"`?(?P<file>[^`\n]+?):(?P<line>\d+)(?::(?P<column>\d+))?`?: (?P<rest>.*)", re.S)


class Told(NamedTuple):
    """One thing that is told: an error, a warning, or a finding in the data.

    `level` is error, warning, notice or passed; `about` the thing it is about, `file` the file;
    `checked`: a check found it, and the command itself went well.
    """

    level: str
    code: str
    message: str
    about: str
    file: str
    hint: str
    checked: bool = True


def told(record: Mapping[str, Any]) -> list[Told]:
    """Returns all that a record tells, findings first."""
    found = [_finding(row, file) for row, file in _findings(record["data"])]
    # The error of a failed check only counts the findings that stand before it.
    counted = record["exit_code"] == 1 and any(one.level == "error" for one in found)
    errors = [] if counted else record["errors"]
    return [
        *found,
        *(Told("warning", "", str(text), "", "", "") for text in record["warnings"]),
        *(
            Told(
                "error", e["code"], e["message"], "", "", e["hint"] or "", record["exit_code"] == 1
            )
            for e in errors
        ),
    ]


def _findings(data: Mapping[str, Any], model: str = "") -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yields the rows of any list in `data` that say how a check went, and the file checked.

    Of several models (`batch`) each has its own record in a row, and is the file of its findings.
    """
    named = (str(data[key]) for key in ("model", "file", "path") if data.get(key))
    file = model or next(named, "")
    for rows in data.values():
        for row in rows if isinstance(rows, list) else ():
            if not isinstance(row, Mapping):
                continue
            if "severity" in row or "passed" in row:
                yield row, str(row.get("file") or file)
            elif "model" in row and isinstance(row.get("data"), Mapping):
                yield from _findings(row["data"], str(row["model"]))


def _finding(row: Mapping[str, Any], file: str) -> Told:
    level = LEVELS.get(str(row.get("severity")), "notice")
    if "passed" in row:
        level = "passed" if row["passed"] else "error"
    about = next((str(row[k]) for k in ("tensor", "name", "metric") if row.get(k)), "")
    rest = {k: v for k, v in row.items() if k not in ("severity", "passed", "code", "fix", "file")}
    message = str(row.get("message") or ", ".join(f"{k} {show(v)}" for k, v in rest.items()))
    return Told(level, str(row.get("code") or ""), message, about, file, str(row.get("fix") or ""))


def github(record: Mapping[str, Any]) -> str:
    """Returns workflow commands, one a line: GitHub shows them beside the change.

    What passed is not told.
    """
    lines = []
    for one in told(record):
        if one.level == "passed":
            continue
        title = f"bitnet {record['command']}".strip() + (f" ({one.code})" if one.code else "")
        properties = {"title": title, **_place(one)}
        message = one.message if not one.about else f"{one.about}: {one.message}"
        text = message + (f"\nhint: {one.hint}" if one.hint else "")
        said = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
        lines.append(f"::{one.level} {said}::{_message(text)}\n")
    return "".join(lines)


def _place(one: Told) -> dict[str, str]:
    found = PLACE.match(one.message)
    if found and (one.file or os.path.isfile(found["file"])):
        place = {"file": found["file"], "line": found["line"], "col": found["column"]}
        return {name: value for name, value in place.items() if value}
    return {"file": one.file} if one.file else {}


def _message(text: str) -> str:
    # A line end would begin a command of its own.
    text = spelled_out(text)
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def junit(record: Mapping[str, Any], encoding: str) -> str:
    """Returns JUnit XML: a test case for each finding, warning and error; one if all is well.

    A finding of severity error is a failure, an error of the command an error; a warning is a
    case that passed, with its words as its output.
    """
    suite = f"bitnet {record['command']}".strip()
    cases = told(record) or [Told("passed", "", "", "", "", "")]
    counts = {"failures": 0, "errors": 0}
    lines = []
    for one in cases:
        name = " ".join(part for part in (one.code, one.about) if part) or one.message or suite
        head = f"    <testcase classname={_attribute(suite)} name={_attribute(name)}"
        head += f" file={_attribute(one.file)}" if one.file else ""
        text = one.message + (f"\nhint: {one.hint}" if one.hint else "")
        if one.level == "error":
            kind = "failure" if one.checked else "error"
            counts[f"{kind}s"] += 1
            said = f"type={_attribute(one.code or kind)} message={_attribute(one.message)}"
            lines += [f"{head}>", f"      <{kind} {said}>{_text(text)}</{kind}>"]
        elif text:
            word = "" if one.level == "passed" else f"{one.level}: "
            lines += [f"{head}>", f"      <system-out>{_text(word + text)}</system-out>"]
        else:
            lines.append(f"{head}/>")
            continue
        lines.append("    </testcase>")
    numbers = f'tests="{len(cases)}" failures="{counts["failures"]}" errors="{counts["errors"]}"'
    page = [
        f'<?xml version="1.0" encoding="{encoding}"?>',
        f"<testsuites name={_attribute('bitnet')} {numbers}>",
        f'  <testsuite name={_attribute(suite)} {numbers} skipped="0">',
        *lines,
        "  </testsuite>",
        "</testsuites>",
    ]
    text = "\n".join(page) + "\n"
    return text.encode(encoding, "xmlcharrefreplace").decode(encoding)


def _text(text: str) -> str:
    return escape(spelled_out(text))


def _attribute(text: str) -> str:
    return quoteattr(spelled_out(" ".join(text.split("\n"))))
