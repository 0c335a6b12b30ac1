"""What the modes of the transform share: rules, records of uses, refusals.

A mode decides what happens where a followed parameter is used; `quantize_linears`,
`collect_uses` and `pack_weights` each add their own `ternary_dot`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.interpreter import Context, bind
from bitnet_jax.ir.views import ParamView
from bitnet_jax.passes.geometry import DotGeometry, dot_geometry
from bitnet_jax.quant.rules import Rule, check_used, match


@dataclass(frozen=True)
class Use:
    """One use of a parameter, in the parameter's own axes.

    Attributes:
      kind: ``dot``, ``gather`` or ``other``.
      rule: index of the rule that took it, or None.
      stack, out, inner: axes in each role (of a dot).
      where: the user's source line, as `` at file:line``, or "".
    """

    name: str
    kind: str
    rule: int | None
    stack: tuple[int, ...] = ()
    out: tuple[int, ...] = ()
    inner: tuple[int, ...] = ()
    where: str = ""


@dataclass
class RuleMode:
    """Base of the modes: applies rules at each use and records the uses it met."""

    rules: Sequence[Rule]
    uses: list[Use] = field(default_factory=list)

    def ternary_dot(
        self, context: Context, geometry: DotGeometry, rule: Rule, x: Any, eqn: Any
    ) -> Any:  # pragma: no cover - each mode has its own
        """The quantized product, in the dot's own axis order and dtype."""
        raise NotImplementedError

    def plain(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """The float array behind a view whose use is left as it is."""
        return view.array()

    def rule_for(self, name: str, use: str) -> tuple[int | None, Rule | None]:
        """The rule that takes `name` used so: its index, and itself unless it keeps."""
        index = match(self.rules, name, use)
        rule = None if index is None else self.rules[index]
        return index, (rule if rule is not None and rule.to != "keep" else None)

    def dot(self, context: Context, eqn: Any, view: ParamView, side: int, other: Any) -> Any:
        """Quantizes the dot if a rule takes it, else leaves it."""
        index, rule = self.rule_for(view.name, "dot")
        if rule is None:
            self.uses.append(Use(view.name, "dot", index, where=context.at(eqn)))
            operands = (
                [other, self.plain(context, eqn, view)]
                if side
                else [self.plain(context, eqn, view), other]
            )
            return bind(eqn, operands)[0]
        geometry = dot_geometry(view, side, eqn.params["dimension_numbers"])
        if geometry is None:
            raise _unfollowable(
                view, context.at(eqn), "its axes are torn between contracted and kept ones"
            )
        use = Use(
            view.name,
            "dot",
            index,
            stack=tuple(sorted((*view.sliced, *(view.origin[axis] for axis in geometry.stack)))),
            out=tuple(view.origin[axis] for axis in geometry.out),
            inner=tuple(view.origin[axis] for axis in geometry.inner),
            where=context.at(eqn),
        )
        self._check_group(use, rule, geometry)
        self.uses.append(use)
        return self.ternary_dot(context, geometry, rule, other, eqn)

    def gather(self, context: Context, eqn: Any, view: ParamView, indices: Any) -> Any:
        """A lookup stays a lookup of floats; quantized lookups have no form yet."""
        index, rule = self.rule_for(view.name, "gather")
        if rule is not None:
            raise UsageError(
                "transform.gather",
                f"rule `{rule.path}` (use {rule.use}) asks to ternarize the lookup of "
                f"`{view.name}`{context.at(eqn)}",
                'only a dot can be ternary: write use="dot"; the lookup then stays float',
            )
        # Rows of a table are looked up; whole matrices are chosen to be multiplied.
        matrices = sum(size > 1 for size in eqn.params["slice_sizes"]) > 1
        if matrices and self.rule_for(view.name, "dot")[1] is not None:
            raise _unfollowable(view, context.at(eqn), "matrices are gathered from it")
        self.uses.append(Use(view.name, "gather", index, where=context.at(eqn)))
        return bind(eqn, [self.plain(context, eqn, view), indices])[0]

    def other(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """Leaves vectors alone (norm weights, biases); refuses what may hide a dot."""
        _, rule = self.rule_for(view.name, "dot")
        if rule is not None and len(view.shape) > 1:
            name = "the function's result" if eqn is None else f"`{eqn.primitive.name}`"
            raise _unfollowable(view, context.at(eqn), f"it reaches {name}, which is no dot")
        return self.keep(context, eqn, view)

    def keep(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """Leaves a use that is certainly no product."""
        self.uses.append(Use(view.name, "other", None, where=context.at(eqn)))
        return self.plain(context, eqn, view)

    def _check_group(self, use: Use, rule: Rule, geometry: DotGeometry) -> None:
        size = rule.group_size
        count = 1
        for axis in geometry.inner:
            count *= geometry.view.shape[axis]
        if size and count % size:
            raise UsageError(
                "quant.group_size",
                f"`{use.name}` has {count} inputs, no multiple of the group size {size}{use.where}",
                "choose a group size that divides it, or scale `row` or `tensor`",
            )


def _unfollowable(view: ParamView, where: str, why: str) -> UsageError:
    return UsageError(
        "transform.unfollowable",
        f"`{view.name}` cannot be ternarized: {why}{where}",
        f"exempt it with Rule({view.name!r}, use='*', to='keep') before the rule that took it",
    )


def check_rules_used(rules: Sequence[Rule], uses: Sequence[Use], names: Sequence[str]) -> None:
    """Raises `UsageError` for a rule that took nothing.

    A rule that keeps has done its work once it names a parameter at all.
    """
    used = {use.rule for use in uses if use.rule is not None}
    used |= {
        index
        for index, rule in enumerate(rules)
        if rule.to == "keep" and any(rule.names(name) for name in names)
    }
    check_used(rules, used, names)


def tracked(name: str, rules: Sequence[Rule]) -> bool:
    """True if some rule could quantize a use of parameter `name`."""
    return any(
        rule.to != "keep" and any(rule.takes(name, use) for use in ("dot", "gather"))
        for rule in rules
    )
