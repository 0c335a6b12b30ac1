"""From an exception to the error it means: code, message, hint, exit code.

The one place that decides what an exception of others means to a script. Prints nothing.
"""

from __future__ import annotations

from bitnet_jax.core.errors import BitnetError, InternalError, Unavailable

from .result import CommandResult
from .signals import Terminated

NO_MEMORY = ("RESOURCE_EXHAUSTED", "failed to map segment", "Cannot allocate memory")
MOST = 20  # of faults that were found together, beside the first
REPORT = "this is a bug of bitnet-jax: run again with --debug and report what it prints"


class Interrupted(BitnetError):
    """A person stopped it."""

    exit_code = 130


class Ended(BitnetError):
    """The system stopped it."""

    exit_code = 143


def as_error(error: BaseException) -> BitnetError:
    """Returns the error that stands for any exception; one of ours stands for itself."""
    if isinstance(error, BitnetError):
        return error
    if isinstance(error, OSError):
        return _os(error)
    # A signal may come where Python or a library makes another error of it.
    error = _stop_behind(error) or error
    if isinstance(error, KeyboardInterrupt):
        why = error.__cause__
        if isinstance(why, BitnetError):  # a run that saved itself first, and says how to go on
            return Interrupted("cli.interrupted", f"interrupted: {why.message}", why.hint)
        return Interrupted("cli.interrupted", "interrupted")
    if isinstance(error, Terminated):
        return Ended("cli.terminated", "ended by SIGTERM")
    text = str(error).strip()
    # XLA reports a full device as a RuntimeError of its own; its class is not importable here.
    # A library that finds no room is an ImportError; only its text tells it from a missing one.
    if isinstance(error, MemoryError) or any(word in text for word in NO_MEMORY):
        return Unavailable(
            "memory.exhausted",
            f"not enough memory: {text.splitlines()[0] if text else 'the system gave no more'}",
            "use a smaller batch or model, or free memory; `bitnet dev check` shows what there is",
        )
    return InternalError("internal.bug", f"{type(error).__name__}: {text or 'no message'}", REPORT)


def _stop_behind(error: BaseException) -> BaseException | None:
    """Returns the Ctrl-C or SIGTERM that led to `error`, if one did."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, KeyboardInterrupt | Terminated):
        behind = behind.__cause__ or behind.__context__
    return behind


def _os(error: OSError) -> BitnetError:
    from bitnet_jax.core.paths import os_failure

    if isinstance(error, ConnectionError):
        return Unavailable("net.unreachable", f"no connection: {error.strerror or error}")
    name = error.filename if error.filename is not None else "(unnamed)"
    return os_failure(error, "use", name)


def not_built(what: str, hint: str) -> Unavailable:
    """Returns the error for what is announced: not unknown, and not there yet."""
    return Unavailable("cli.not_built", f"{what} is not built yet in this version", hint)


def result_of(error: BaseException) -> CommandResult:
    """Returns the failed result that stands for `error`."""
    told = as_error(error)
    result = CommandResult(sections=[]).fail(told)
    for other in told.others[:MOST]:
        result.fail(other)
    if told.others[MOST:]:
        result.fail(BitnetError(told.code, f"and {len(told.others) - MOST} more"))
    result.exit_code = told.exit_code
    return result
