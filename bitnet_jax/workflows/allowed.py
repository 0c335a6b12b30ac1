"""Findings that stop what is made of a model, and those that a user lets pass.

Knows no format: the doctor finds, the caller says what it is about to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitnet_jax.core.errors import BadData, UsageError, did_you_mean
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.doctor import PASSABLE, Finding, blocking


def check_allow(allow: Sequence[str]) -> None:
    """Raises `UsageError` (``convert.allow``) for a code that cannot be passed."""
    for code in allow:
        if code not in PASSABLE:
            raise UsageError(
                "convert.allow",
                f"`{code}` is no finding that a conversion can go on past",
                did_you_mean(code, PASSABLE),
            )


def stop_on(
    findings: Sequence[Finding], allow: Sequence[str] | None, checkpoint: Checkpoint
) -> None:
    """Raises `BadData`, with the finding's own code, for the first error that is not allowed.

    Args:
      allow: None where the user cannot let anything pass: none is offered then.
    """
    stopping = blocking(tuple(findings), tuple(allow or ()))
    if not stopping:
        return
    first, more = stopping[0], len(stopping) - 1
    where = f"`{checkpoint.source.path}`" + (f", `{first.tensor}`" if first.tensor else "")
    passable = allow is not None and first.code in PASSABLE
    raise BadData(
        first.code,
        f"{where}: {first.message}" + (f" (and {more} more findings)" if more else ""),
        first.fix + (f"; or pass --allow {first.code}" if passable else ""),
    )
