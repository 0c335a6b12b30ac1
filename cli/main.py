"""`bitnet`: parse, run, render, exit code.

The edge of the program: streams, the environment, signals and every exception end here.
Knows nothing of what any command does.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from bitnet_jax.core.errors import BitnetError

from . import help as pages
from .route import HELP_FLAGS, Route, route
from .signals import Terminated, stoppable, telling
from .stdio import Input, Output, OutputClosed, Talk, standard

if TYPE_CHECKING:
    from .context import Streams

Three = tuple[Input, Output, Talk]


def main(argv: list[str] | None = None) -> int:
    """Runs one command line; returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    three = standard()
    try:
        with stoppable():
            return _run(argv, three)
    except OutputClosed:
        return 0
    # The edge of the edge: a signal beside a command's own run, which tells of those in it.
    except (KeyboardInterrupt, Terminated) as stop:
        with telling(143 if isinstance(stop, Terminated) else 130):
            return _stopped(stop, argv, three)


def _run(argv: list[str], three: Three) -> int:
    """Prints a page, or runs a command."""
    try:
        plan = route(argv)
        page = _page(plan)
        if page is None:
            return _command(plan, three)
        _, stdout, _ = three
        stdout.write(page)
        stdout.flush()
    except BitnetError as error:
        return _fail_early(error, argv, three)
    return 0


def _stopped(stop: BaseException, argv: list[str], three: Three) -> int:
    """Tells of a signal once, and on stdout only where nothing stands yet."""
    from .failure import as_error, result_of
    from .render import talk

    _, stdout, stderr = three
    error = as_error(stop)
    if not stdout.written:
        return _fail_early(error, argv, three)
    if stdout.outcome is not None:
        return stdout.outcome
    if not stderr.told:
        talk(result_of(stop), _streams(three), quiet=False, said=[])
    return error.exit_code


def _page(plan: Route) -> str | None:
    """Returns the text of a page, or None when a command is to run."""
    if plan.kind == "guide":
        return pages.program(_width())
    if plan.kind == "group":
        return pages.group(plan.group, _width())
    if plan.kind == "version":
        from importlib.metadata import version

        return f"bitnet {version('bitnet-jax')}\n"
    if plan.kind == "help":
        return pages.found(plan.argv, _width())
    before_dashes = plan.argv[: plan.argv.index("--")] if "--" in plan.argv else plan.argv
    if not any(token in HELP_FLAGS for token in before_dashes):
        return None
    return pages.command(plan.command, _width())


def _width() -> int:
    from shutil import get_terminal_size

    return min(max(get_terminal_size().columns, 40), 100)


def _command(plan: Route, three: Three) -> int:
    """Runs a command from its options to its exit code."""
    from .session import Session

    return Session(plan.command, plan.argv, _streams(three)).run()


def _fail_early(error: BitnetError, argv: list[str], three: Three) -> int:
    """Reports an error met before there was a command to run."""
    from .failure import result_of
    from .guess import guess_emit
    from .session import finish

    words = " ".join(token for token in argv[:2] if not token.startswith("-"))
    streams = _streams(three)
    return finish(result_of(error), words, guess_emit(argv, streams.env), streams)


def _streams(three: Three) -> Streams:
    from .context import Streams

    return Streams(*three, os.environ)


if __name__ == "__main__":  # python -m bitnet_cli.main: the process is `bitnet_cli` itself
    import runpy

    runpy.run_module("bitnet_cli", run_name="__main__")
