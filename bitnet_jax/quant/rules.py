"""Rules: which parameter becomes what, as data. Ordered; the first match wins.

A path is the parameter's dotted name; in a pattern `*` stands for any run of
characters within one dot-separated part, `**` for any number of whole parts.
Knows nothing of jaxprs: passes ask `match`, and report what never matched.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitnet_jax.core.errors import UsageError, nearest
from bitnet_jax.quant.kinds import KINDS

USES = ("dot", "gather", "*")
TARGETS = (*KINDS, "keep")
SCALE_DTYPES = ("bfloat16", "float32", "float16")


@dataclass(frozen=True)
class Rule:
    """One row: parameters whose path and use match are turned `to` something.

    Attributes:
      path: pattern over dotted parameter names.
      use: ``dot`` (contracted), ``gather`` (looked up by row) or ``*``.
      to: ``ternary``, ``int8``, ``int6``, ``int4`` (`quant/kinds.py`) or ``keep``.
      scale: ``tensor``, ``row``, or ``group-N`` (N consecutive inputs).
      scale_dtype: the precision the scale is rounded to before use.
      stack: axes of the parameter that hold separate matrices (experts, heads), each with
        a scale of its own, though a dot may see them as outputs.

    Raises:
      UsageError: a value is unknown, or no value of its field (as YAML gives 3 for a path).
    """

    path: str
    use: str = "dot"
    to: str = "ternary"
    scale: str = "tensor"
    scale_dtype: str = "bfloat16"
    stack: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.path, str):
            raise UsageError(
                "rule.path",
                f"a rule has path {self.path!r}, a {type(self.path).__name__}",
                "a pattern of dotted names, as text: '**.kernel'; in YAML quote a number: '3'",
            )
        for name, known in (("use", USES), ("to", TARGETS), ("scale_dtype", SCALE_DTYPES)):
            value = getattr(self, name)
            if value not in known:
                raise UsageError(
                    f"rule.{name}",
                    f"rule `{self.path}` has {name} {value!r}",
                    f"known: {', '.join(known)}",
                )
        kind = self.scale if isinstance(self.scale, str) else ""
        if not re.fullmatch(r"tensor|row|group-[1-9]\d*", kind):
            raise UsageError(
                "rule.scale",
                f"rule `{self.path}` has scale {self.scale!r}",
                "known: tensor, row, group-N (N a multiple of 16)",
            )
        axes = self.stack if isinstance(self.stack, tuple | list) else (None,)
        wrong = any(type(axis) is not int or axis < 0 for axis in axes)
        if wrong or len(set(axes)) < len(axes):
            raise UsageError(
                "rule.stack",
                f"rule `{self.path}` has stack {self.stack!r}",
                "axes of the parameter, each once, counted from 0: stack=(0,)",
            )
        object.__setattr__(self, "stack", tuple(axes))  # a list, as YAML has it
        if self.group_size % 16:
            raise UsageError(
                "rule.scale",
                f"rule `{self.path}` has group size {self.group_size}",
                "a group is a multiple of 16 inputs, the width of a packed block",
            )

    @property
    def is_exact(self) -> bool:
        """True if the path names one parameter, without a wildcard."""
        return not set(self.path) & set("*?")

    @property
    def scale_kind(self) -> str:
        """``tensor``, ``row`` or ``group``."""
        return self.scale.partition("-")[0]

    @property
    def group_size(self) -> int:
        """N of ``group-N``, else 0."""
        return int(self.scale.partition("-")[2] or 0)

    def names(self, path: str) -> bool:
        """True if this rule's pattern matches `path`."""
        return matches(self.path, path)

    def takes(self, path: str, use: str) -> bool:
        """True if this rule matches `path` used as `use`."""
        return self.use in ("*", use) and self.names(path)


def as_rules(rules: Any) -> tuple[Rule, ...]:
    """The rules of a list of them; a mapping (from a YAML file) counts as its rule.

    Raises:
      UsageError: `rules` is no list of rules (``rule.list``).
    """
    fields = {field.name for field in dataclasses.fields(Rule)}

    def refused(value: Any, what: str) -> UsageError:
        return UsageError(
            "rule.list",
            f"{what} a {type(value).__name__}, not a {'Rule' if value is not rules else 'list'}",
            f'rules = [bj.Rule("**.kernel", to="ternary")]; fields of a rule: {sorted(fields)}',
        )

    if isinstance(rules, str | Mapping | Rule) or not isinstance(rules, Iterable):
        raise refused(rules, "rules is")
    found = []
    for number, rule in enumerate(rules, 1):
        if isinstance(rule, Mapping) and "path" in rule and set(rule) <= fields:
            rule = Rule(**rule)
        if not isinstance(rule, Rule):
            raise refused(rule, f"rule {number} is")
        found.append(rule)
    return tuple(found)


@functools.lru_cache(maxsize=4096)
def _pattern(path: str) -> re.Pattern[str]:
    out = []
    for part in re.split(r"(\*\*\.?|\*|\?)", path):
        if part.startswith("**"):
            out.append(r"(?:.+\.)?" if part.endswith(".") else r".*")
        else:
            out.append({"*": r"[^.]*", "?": r"[^.]"}.get(part, re.escape(part)))
    return re.compile("".join(out))


def matches(pattern: str, path: str) -> bool:
    """True if a pattern, as rules write them, matches `path`."""
    return bool(_pattern(pattern).fullmatch(path))


def match(rules: Sequence[Rule], path: str, use: str) -> int | None:
    """Index of the first rule that takes `path` used as `use`, or None."""
    for index, rule in enumerate(rules):
        if rule.takes(path, use):
            return index
    return None


def check_used(
    rules: Sequence[Rule],
    used: Iterable[int],
    paths: Iterable[str],
    reasons: Mapping[str, str] | None = None,
) -> None:
    """Raises `UsageError` (``quant.rule_unused``) for the first rule that took nothing.

    Args:
      reasons: by name, why a parameter that a rule matches may still not be taken.
    """
    taken = set(used)
    names = list(paths)
    for index, rule in enumerate(rules):
        if index in taken:
            continue
        matched = [name for name in names if rule.names(name)]
        if matched and reasons:
            name = next((name for name in reasons if name in matched), matched[0])
            raise UsageError(
                "quant.rule_unused",
                f"rule {index + 1} (`{rule.path}`, use {rule.use}) took nothing: `{name}` "
                f"{reasons.get(name, 'was taken by an earlier rule')}",
                "bj.explain(fn, params, rules, *args) lists each parameter and its uses",
            )
        close = nearest(rule.path, names) or names[:3]
        hint = "the closest names are " + ", ".join(f"`{name}`" for name in close)
        deeper = f"**.{rule.path}"
        if any(_pattern(deeper).fullmatch(name) for name in names):
            hint = f"a `*` stops at a dot: write `{deeper}` to reach any depth; {hint}"
        raise UsageError(
            "quant.rule_unused",
            f"rule {index + 1} (`{rule.path}`, use {rule.use}) matched no parameter's use",
            hint,
        )
