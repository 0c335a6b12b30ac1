"""`bench_validate`: runs the checks of this machine, within a time that is told before.

Knows nothing of what is checked (`checks`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bitnet_jax.bench.checks import CHECKS, Check
from bitnet_jax.bench.machine import describe
from bitnet_jax.bench.progress import task
from bitnet_jax.core.errors import BitnetError, UsageError
from bitnet_jax.targets.choose import choose

# A quick validation begins no check after this, so that it stays under a minute.
QUICK_SECONDS = 50.0


def bench_validate(
    *,
    quick: bool = False,
    comprehensive: bool = False,
    device: str = "auto",
    say: Callable[[str], object] | None = None,
    progress: Any = None,
    checks: tuple[Check, ...] = CHECKS,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Checks whether this machine is fit; the quick checks unless `comprehensive`.

    Args:
      say: told, before the first check, how long it will take.

    Returns:
      `passed`, `budget_seconds`, and a row in `checks` for each: a check that fails is a row, too.

    Raises:
      UsageError: both kinds were asked for, or an unknown device.
      Unavailable: the device is not here.
    """
    if quick and comprehensive:
        raise UsageError(
            "bench.clash", "--quick and --comprehensive exclude each other", "leave one of them out"
        )
    choose(device)  # what was named and is not here is no finding: nothing can be checked
    chosen = [check for check in checks if check.quick or comprehensive]
    budget = sum(check.seconds for check in chosen)
    if say is not None:
        limit = "" if comprehensive else f", and at most {QUICK_SECONDS:.0f} before the last begins"
        say(f"{len(chosen)} checks: about {budget:.0f} seconds on two idle cores{limit}")
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    warnings: list[str] = []
    begun = clock()
    with task(progress, "validating", len(chosen), "checks") as told:
        for check in chosen:
            if not comprehensive and clock() - begun > QUICK_SECONDS:
                skipped.append(check.name)
            else:
                rows.append(_run(check, device, warnings, clock))
            told()
    if skipped:
        warnings.append(
            f"no time was left for {', '.join(skipped)}: this machine is busy; --comprehensive "
            "takes its time"
        )
    failed = [row["name"] for row in rows if not row["passed"]]
    return {
        "schema": "bench-validate/1",
        "passed": not failed,
        "failed": failed,
        "skipped": skipped,
        "budget_seconds": budget,
        "seconds": clock() - begun,
        "checks": rows,
        "machine": describe(),
        "warnings": warnings,
    }


def _run(
    check: Check, device: str, warnings: list[str], clock: Callable[[], float]
) -> dict[str, Any]:
    begun = clock()
    row: dict[str, Any] = {"name": check.name, "passed": True, "code": "", "fix": None}
    try:
        found = check.run(device)
    except BitnetError as error:
        row |= {"passed": False, "code": error.code, "message": error.message, "fix": error.hint}
    else:
        row |= {"message": found.message}
        warnings += found.warnings
        if found.data:
            row["found"] = found.data
    return {**row, "seconds": clock() - begun}
