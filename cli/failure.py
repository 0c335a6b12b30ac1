"""From an exception to the result that tells of it: code, message, hint, exit code.

The one place that decides what an exception means to a script. Prints nothing.
"""

from __future__ import annotations

from typing import Any

from bitnet_jax.core.errors import BitnetError

from . import exit_codes
from .result import CommandResult


class Terminated(BaseException):
    """SIGTERM came; raised in the main thread so that what is half-written is removed."""


REPORT = "this is a bug of bitnet-jax: run again with --debug and report what it prints"


def describe(error: BaseException) -> tuple[int, str, str, str | None]:
    """Returns (exit code, code, message, hint)."""
    if isinstance(error, OSError):
        error = _os(error)
    if isinstance(error, BitnetError):
        return error.exit_code, error.code, error.message, error.hint
    if isinstance(error, KeyboardInterrupt):
        return exit_codes.INTERRUPTED, "cli.interrupted", "interrupted", None
    if isinstance(error, Terminated):
        return exit_codes.TERMINATED, "cli.terminated", "ended by SIGTERM", None
    # XLA reports a full device as a RuntimeError of its own; its class is not importable here.
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return (
            exit_codes.UNAVAILABLE,
            "memory.exhausted",
            f"not enough memory: {str(error).splitlines()[0] if str(error) else 'out of memory'}",
            "use a smaller batch or model, or free memory; `bitnet dev check` shows what there is",
        )
    text = str(error).strip() or "no message"
    return exit_codes.BUG, "internal.bug", f"{type(error).__name__}: {text}", REPORT


def _os(error: OSError) -> BitnetError:
    from bitnet_jax.core.errors import Unavailable
    from bitnet_jax.core.paths import os_failure

    if isinstance(error, ConnectionError):
        return Unavailable("net.unreachable", f"no connection: {error.strerror or error}")
    name = error.filename if error.filename is not None else "(unnamed)"
    return os_failure(error, "use", name)


def result_of(error: BaseException) -> CommandResult:
    """Returns the failed result that stands for `error`."""
    exit_code, code, message, hint = describe(error)
    entry: dict[str, Any] = {"code": code, "message": message, "hint": hint}
    return CommandResult(ok=False, exit_code=exit_code, errors=[entry], sections=[])
