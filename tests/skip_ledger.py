"""Counts skipped tests by reason, prints the table, and fails a run in which it grew.

A skip is a test that did not run, so each reason is written down in `skips.toml` with the
most tests it may take. Knows nothing of what the tests do.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

LEDGER = Path(__file__).with_name("skips.toml")


def load(path: Path = LEDGER) -> dict[str, int]:
    """Reason pattern -> the most tests it may skip."""
    rows = tomllib.loads(path.read_text()).get("skip", [])
    return {row["reason"]: row["at_most"] for row in rows}


def reason_of(longrepr: Any) -> str:
    """The words of one skip report."""
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ").strip()


def judge(reasons: Iterable[str], allowed: Mapping[str, int]) -> tuple[Counter[str], list[str]]:
    """Counts `reasons`; returns the counts and one complaint for each that is not allowed."""
    counts = Counter(reasons)
    taken: Counter[str] = Counter()
    complaints = []
    for reason, count in counts.items():
        pattern = next((p for p in allowed if fnmatch.fnmatchcase(reason, p)), None)
        if pattern is None:
            complaints.append(f"{count} skipped for what skips.toml does not list: {reason}")
        else:
            taken[pattern] += count
    complaints += [
        f"{count} skipped for `{pattern}`, skips.toml allows {allowed[pattern]}"
        for pattern, count in taken.items()
        if count > allowed[pattern]
    ]
    return counts, complaints


def _of_session(config: pytest.Config) -> tuple[Counter[str], list[str]]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    return judge((reason_of(report.longrepr) for report in skipped), load())


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fails the run on a skip that nobody wrote down (the workers leave it to the controller)."""
    if hasattr(session.config, "workerinput"):
        return
    if _of_session(session.config)[1] and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Prints what was skipped and why."""
    counts, complaints = _of_session(config)
    if counts:
        terminalreporter.section("skipped, by reason")
        for reason, count in counts.most_common():
            terminalreporter.line(f"{count:5d}  {reason}")
    for complaint in complaints:
        terminalreporter.line(f"ERROR: {complaint}", red=True)
