"""`explain`: a table of what rules will do to a function's parameters, before it is done.

Never refuses: what `ternarize` and `pack` would refuse stands under the table.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BitnetError
from bitnet_jax.ir.program import Program, trace
from bitnet_jax.passes.geometry import Roles
from bitnet_jax.passes.plan import make_plan
from bitnet_jax.passes.uses import Use, collect_uses
from bitnet_jax.quant.layouts import LAYOUT_OF, layout_of
from bitnet_jax.quant.rules import Rule, as_rules

HEADINGS = ("parameter", "shape", "uses", "rule", "becomes", "bytes", "after")


@dataclass(frozen=True)
class Explained:
    """One parameter.

    Attributes:
      uses: what is done with it, in program order: ``dot``, ``gather``, ``bias``, … with
        the source line of each kind's first, and how often.
      rule: index of the rule that took it, or None.
      becomes: ``ternary row``, ``int8 tensor``, …, ``float`` or both with a ``+``.
      bytes_before, bytes_after: of the float leaf, of what `pack` makes of it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    uses: tuple[str, ...]
    rule: int | None
    becomes: str
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; printed, it is the table."""

    parameters: tuple[Explained, ...]
    rules: tuple[Rule, ...]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        rows = [self._cells(row) for row in self.parameters]
        before = sum(row.bytes_before for row in self.parameters)
        after = sum(row.bytes_after for row in self.parameters)
        rows.append([f"{len(rows)} in all", "", "", "", "", f"{before:,}", f"{after:,}"])
        table = [list(HEADINGS), *rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
        right = {5, 6}
        lines = [
            "  ".join(
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        rule = "  ".join("-" * width for width in widths)
        lines.insert(1, rule)
        lines.insert(len(lines) - 1, rule)
        return "\n".join([*lines, *(f"problem: {problem}" for problem in self.problems)])

    __repr__ = __str__

    def _cells(self, row: Explained) -> list[str]:
        rule = "" if row.rule is None else f"{row.rule + 1} `{self.rules[row.rule].path}`"
        return [
            row.name,
            f"{row.dtype}[{','.join(map(str, row.shape))}]",
            "; ".join(row.uses) or "unused",
            rule,
            row.becomes,
            f"{row.bytes_before:,}",
            f"{row.bytes_after:,}",
        ]


def explain(
    fn: Callable[..., Any],
    params: Any,
    rules: Sequence[Rule],
    *example_args: Any,
    file: Any = None,
) -> Explanation:
    """Prints, and returns, what `rules` will do to each parameter of ``fn(params, *args)``.

    Args:
      params, example_args: arrays or `jax.ShapeDtypeStruct`s; only shapes and dtypes are read.
      file: where to print; None is standard output.

    Raises:
      UsageError: the function cannot be traced. Nothing else: what is refused is shown.
    """
    found = explain_program(trace(fn, params, *example_args), as_rules(rules))
    (file or sys.stdout).write(f"{found}\n")
    return found


def explain_program(program: Program, rules: Sequence[Rule]) -> Explanation:
    """As `explain`, for a traced program; prints nothing."""
    problems: list[BitnetError] = []
    uses = collect_uses(program, rules, problems=problems)
    try:
        plan = make_plan(program, rules) if not problems else None
    except BitnetError as error:
        problems.append(error)
        plan = None
    rows = []
    for name, aval in zip(program.param_names, program.param_avals, strict=True):
        own = [use for use in uses if use.name == name]
        size = math.prod(aval.shape) * np.dtype(aval.dtype).itemsize
        taken = plan.rule(name) if plan else None
        index = next((use.rule for use in own if use.rule is not None), None)
        if plan is None or taken is None:
            becomes, after = ("float", size) if plan else ("?", size)
        else:
            packed = sum(packed_bytes(aval.shape, r, taken) for r in plan.layouts(name))
            split = plan.needs_float(name)
            becomes = f"{taken.to} {taken.scale}" + " + float" * split
            after = packed + size * split
        rows.append(
            Explained(
                name, tuple(aval.shape), str(aval.dtype), _said(own), index, becomes, size, after
            )
        )
    said = tuple(f"[{error.code}] {error.message}" for error in dict.fromkeys(problems))
    return Explanation(tuple(rows), tuple(rules), said)


def _said(uses: Sequence[Use]) -> tuple[str, ...]:
    """Each kind of use once: how often, and where it is first met."""
    counts = Counter(_kind(use) for use in uses)
    first = {kind: next(u.where for u in uses if _kind(u) == kind) for kind in counts}
    return tuple(
        f"{kind}{f' x{count}' if count > 1 else ''}{_short(first[kind])}"
        for kind, count in counts.items()
    )


def _kind(use: Use) -> str:
    return use.primitive if use.kind == "other" else use.kind


def _short(where: str) -> str:
    """`` file.py:12`` of `` at /a/b/file.py:12 (function)``."""
    place = where.removeprefix(" at ").partition(" (")[0]
    return f" {place.rpartition('/')[2]}" if place else ""


def packed_bytes(shape: Sequence[int], roles: Roles, rule: Rule) -> int:
    """Bytes of codes and scales of a parameter packed under `rule`."""
    stack, out, inner = (
        math.prod(shape[axis] for axis in axes) for axes in (roles.stack, roles.out, roles.inner)
    )
    layout = layout_of(LAYOUT_OF[rule.to])
    codes = math.prod(layout.shape(out, inner)) * np.dtype(layout.dtype).itemsize
    scales = {"tensor": 1, "row": out, "group": out * (inner // (rule.group_size or 1))}
    return stack * (codes + 4 * scales[rule.scale_kind])
