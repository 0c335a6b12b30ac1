"""The only dispatch point: which implementation of an op runs on a platform, and why.

Called at lowering, where the platform is known. `auto` takes the first row of the
table that can run and says why the ones before it could not; an implementation
asked for by name runs or raises. Knows nothing of what the ops compute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bitnet_jax.core.errors import Unavailable, UsageError, did_you_mean
from bitnet_jax.ops.native import library as native

logger = logging.getLogger(__name__)

AUTO = "auto"
# Everything runs on the platform `*`. Best first.
TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "ternary_matmul": {"cpu": ("native", "xla", "reference"), "*": ("xla", "reference")},
    "ternary_accumulate": {"cpu": ("native", "xla", "reference"), "*": ("xla", "reference")},
    "dense_matmul": {"cpu": ("native", "reference"), "*": ("reference",)},
    "integer_matmul": {"cpu": ("native", "xla", "reference"), "*": ("xla", "reference")},
    "rms_norm": {"cpu": ("native", "reference"), "*": ("reference",)},
    "attention": {"cpu": ("native", "reference"), "*": ("reference",)},
    "fused_linears": {"cpu": ("native", "reference"), "*": ("reference",)},
    "cached_attention": {"cpu": ("native", "reference"), "*": ("reference",)},
}


@dataclass(frozen=True)
class Choice:
    """What runs, and why: the line a receipt shows.

    Attributes:
      detail: the form within the implementation (the instruction set), or "".
    """

    op: str
    platform: str
    implementation: str
    reason: str
    detail: str = ""


def _native_state() -> tuple[str, str | None, str | None]:
    # BITNET_ISA is a request by name: one that cannot run raises, under `auto` too.
    status = native.status()
    if status.available:
        return str(status.isa), None, None
    return "", status.reason, status.hint


def _always() -> tuple[str, str | None, str | None]:
    return "", None, None


# implementation -> (detail, reason why it cannot run or None, hint)
PROBES: dict[str, Callable[[], tuple[str, str | None, str | None]]] = {
    "native": _native_state,
    "xla": _always,
    "reference": _always,
}

# Nothing that an implementation refuses: see `select`.
_TAKES_ALL: Mapping[str, str] = {}

_said: set[tuple[str, str]] = set()


def implementations(op: str, platform: str = "cpu") -> tuple[str, ...]:
    """The implementations that exist for `op` on `platform`, best first."""
    if op not in TABLE:
        raise UsageError("op.unknown", f"there is no op `{op}`", did_you_mean(op, TABLE))
    return TABLE[op].get(platform, TABLE[op]["*"])


def check_implementation(op: str, requested: str | None) -> str:
    """Returns the name to select by; raises `UsageError` if no platform has it."""
    known = {name for platform in TABLE[op] for name in TABLE[op][platform]}
    if requested is None or requested == AUTO:
        return AUTO
    if requested not in known:
        raise UsageError(
            "op.implementation_unknown",
            f"`{op}` has no implementation `{requested}`",
            did_you_mean(requested, [AUTO, *sorted(known)]),
        )
    return requested


def select(
    op: str,
    platform: str,
    requested: str | None = None,
    refusals: Mapping[str, str] = _TAKES_ALL,
) -> Choice:
    """Chooses the implementation of `op` on `platform` ("cpu", "cuda", "rocm", "tpu").

    Args:
      refusals: implementation -> why it does not take the call at hand, whatever the
        machine: such a call is another implementation's, or an error if asked for by name.

    Raises:
      UsageError: no such op or implementation.
      Unavailable: the implementation asked for by name cannot run here.
    """
    names = implementations(op, platform)
    requested = check_implementation(op, requested)
    if requested != AUTO:
        return _named(op, platform, requested, names, refusals)
    refused: list[str] = []
    missing = False
    for name in names:
        if name in refusals:
            refused.append(f"{name} does not take {refusals[name]}")
            continue
        detail, why, _ = PROBES[name]()
        if why is None:
            reason = "the fastest here"
            if refused:
                reason = "; ".join(refused)
                _say_once(op, name, reason, logging.WARNING if missing else logging.INFO)
            return Choice(op, platform, name, reason, detail)
        native.raise_if_forced()
        missing = True
        refused.append(f"{name} cannot run: {why}")
    raise Unavailable("op.unavailable", f"no implementation of `{op}` runs: {'; '.join(refused)}")


def _named(
    op: str,
    platform: str,
    requested: str,
    names: tuple[str, ...],
    refusals: Mapping[str, str],
) -> Choice:
    if requested not in names:
        raise Unavailable(
            "op.unavailable",
            f"`{op}` has no implementation `{requested}` on {platform}",
            "choose one of " + ", ".join([AUTO, *names]),
        )
    if requested in refusals:
        raise Unavailable(
            "op.unavailable",
            f"`{op}` as `{requested}` does not take {refusals[requested]}",
            f"choose {AUTO}, or one of "
            + ", ".join(name for name in names if name not in refusals),
        )
    detail, why, hint = PROBES[requested]()
    if why is not None:
        raise Unavailable("op.unavailable", f"`{op}` cannot run as `{requested}`: {why}", hint)
    return Choice(op, platform, requested, "asked for by name", detail)


def _say_once(op: str, name: str, reason: str, level: int) -> None:
    # Once a process: a log line, not a Python warning, since results are the same.
    if (op, reason) not in _said:
        _said.add((op, reason))
        logger.log(level, "%s runs as `%s`: %s", op, name, reason)
