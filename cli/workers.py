"""Several calls at once, each in a process of its own.

A process each, not a pool: JAX has its threads and its memory per process, and one that the
system kills for memory takes its own model with it and no other. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any

from bitnet_jax.core.errors import Unavailable

from .context import Context, Streams
from .failure import result_of
from .options import load_plugins
from .progress import Progress
from .result import CommandResult
from .signals import Terminated, stoppable
from .stdio import standard

# (what is called, its first argument, its args record); the Context comes last.
Call = tuple[Callable[..., CommandResult], str, Any]


def run(
    calls: Mapping[int, Call], ctx: Context, at_once: int
) -> Iterator[tuple[int, CommandResult]]:
    """Yields key and result of each call, as they end; at most `at_once` run."""
    spawn = multiprocessing.get_context("spawn")  # never fork: JAX's threads would not survive it
    waiting = list(calls)
    running: dict[Connection, tuple[int, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                key = waiting.pop(0)
                ours, theirs = spawn.Pipe(duplex=False)
                told = (ctx.command, ctx.cwd, ctx.settings, ctx.program)
                process = spawn.Process(target=_child, args=(theirs, *calls[key], told))
                process.start()
                theirs.close()
                running[ours] = (key, process)
            for ours in wait(list(running)):
                assert isinstance(ours, Connection)
                key, process = running[ours]
                try:
                    result = ours.recv()
                except EOFError:
                    process.join()
                    result = result_of(_died(process.exitcode))
                process.join()
                ours.close()
                del running[ours]
                yield key, result
    finally:
        for _, process in running.values():  # stopped: let them remove what is half-written
            process.terminate()
        for ours, (_, process) in running.items():
            process.join()
            ours.close()


def caught(error: Exception, ctx: Context) -> CommandResult:
    """Returns the failed result for what one call of several raised."""
    if ctx.settings["debug"].value:
        ctx.streams.stderr.write("".join(traceback.format_exception(error)))
    return result_of(error)


def _died(code: int | None) -> Unavailable:
    return Unavailable(
        "batch.worker_died",
        f"its process ended (exit code {code})"
        + (", killed by the system" if code is not None and code < 0 else ""),
        "if memory ran out, use a smaller --jobs",
    )


def _child(
    answer: Connection, call: Callable[..., CommandResult], model: str, args: Any, told: tuple
) -> None:
    """What a worker runs: the call, with nobody to talk to and nothing to say."""
    command, cwd, settings, program = told
    try:
        with stoppable(), contextlib.redirect_stdout(sys.stderr):
            load_plugins(args.plugin)
            streams = Streams(*standard(), os.environ)
            ctx = Context(command, cwd, settings, Progress(), streams, "json", True, False, program)
            try:
                result = call(model, args, ctx)
                result.warnings = [*ctx.warnings, *result.warnings]
            except Exception as error:  # noqa: BLE001
                result = caught(error, ctx)
            answer.send(result)
    except (KeyboardInterrupt, Terminated):
        # The parent was told, too, and says so.
        sys.exit(130)
