"""`bitnet`: parse, run, render, exit code.

The edge of the program: streams, signals, the environment and every exception end here.
Knows nothing of what any command does.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from bitnet_jax.core.errors import BitnetError

from . import help as pages
from .route import HELP_FLAGS, Route, route
from .stdio import Output, OutputClosed, Talk, standard

if TYPE_CHECKING:
    from .context import Streams

Three = tuple[Any, Output, Talk]


def main(argv: list[str] | None = None) -> int:
    """Runs one command line; returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    three = standard()
    try:
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
    except OutputClosed:
        return 0
    except KeyboardInterrupt:
        return 130


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
    from .session import finish, guess_emit

    words = " ".join(token for token in argv[:2] if not token.startswith("-"))
    streams = _streams(three)
    return finish(result_of(error), words, guess_emit(argv, streams.env), streams)


def _streams(three: Three) -> Streams:
    from .context import Streams

    return Streams(*three, os.environ)


def entry() -> NoReturn:
    """The process: runs its own command line and ends with the exit code."""
    try:
        code = main()
    except KeyboardInterrupt:  # just after the command had ended
        code = 130
    import signal

    # All is tidied up. A signal from here on just ends the process: Python's own handler would
    # raise in whatever runs at exit (JAX clears its caches there) and print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)


if __name__ == "__main__":
    entry()
