"""What the uses of each parameter mean together: one quantization per parameter.

A parameter has one scale (per element of its stacked axes), however it is used; so
all its uses must agree on what is stacked, and nothing may be contracted along an
axis on which the scale varies. Needs the uses (`uses.py`); computes nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.program import Program
from bitnet_jax.ir.views import ParamView
from bitnet_jax.passes.geometry import Roles
from bitnet_jax.passes.uses import Use, collect_uses
from bitnet_jax.quant.notes import LearnedScale, find
from bitnet_jax.quant.rules import Rule, check_used

# The roles of a table that is only looked up: rows are outputs.
TABLE = Roles((), (0,), (1,))


class KeptFloatWarning(UserWarning):
    """A parameter that a wildcard rule matched stays float, because nothing else can be done."""


@dataclass(frozen=True)
class Planned:
    """How one parameter is quantized where it is multiplied.

    Attributes:
      layouts: the distinct roles of the parameter's axes over its uses, in program order;
        the scale is computed in the first. More than one only with scale ``tensor``.
      use: the first use that a rule took.
      whole: every use contracts all inputs, on one device.
    """

    rule: Rule
    layouts: tuple[Roles, ...]
    use: Use
    whole: bool

    @property
    def stack(self) -> tuple[int, ...]:
        """Axes of the parameter that hold separate matrices."""
        return self.layouts[0].stack


@dataclass(frozen=True)
class Plan:
    """Every use of a program's parameters, and what is to be done.

    Attributes:
      dots: parameters that are quantized where they are multiplied.
      lookups: parameters whose lookups are quantized, with their rules.
      uses: all recorded uses.
    """

    dots: dict[str, Planned]
    lookups: dict[str, Rule]
    uses: tuple[Use, ...]

    def rule(self, name: str) -> Rule | None:
        """What a parameter becomes, or None if it stays float."""
        return self.dots[name].rule if name in self.dots else self.lookups.get(name)

    def layouts(self, name: str) -> tuple[Roles, ...]:
        """The layouts in which a parameter is packed; none if it stays float."""
        if name in self.dots:
            return self.dots[name].layouts
        return (TABLE,) if name in self.lookups else ()

    def needs_float(self, name: str) -> bool:
        """True if some use of the parameter reads its floats."""
        quantized = {"dot": name in self.dots, "gather": name in self.lookups}
        return any(use.name == name and not quantized.get(use.kind, False) for use in self.uses)

    def roles(self, view: ParamView) -> Roles:
        """The roles of `view.shape`'s axes in the layout that its scale is computed in."""
        whole = self.layouts(view.name)[0]
        place = {origin: axis for axis, origin in enumerate(view.origin)}
        stack, out, inner = (
            tuple(place[axis] for axis in axes if axis in place)
            for axes in (whole.stack, whole.out, whole.inner)
        )
        return Roles(stack, out, inner)


def make_plan(program: Program, rules: Sequence[Rule]) -> Plan:
    """Follows every parameter and decides.

    Raises:
      UsageError: as `collect_uses`; a rule took nothing (``quant.rule_unused``); a scale
        would vary along a contracted axis (``quant.scale_contracted``); a group size does
        not divide the inputs (``quant.group_size``).
    """
    uses = collect_uses(program, rules)
    _check_rules_used(program, rules, uses)
    shapes = dict(zip(program.param_names, (a.shape for a in program.param_avals), strict=True))
    dots: dict[str, list[Use]] = {}
    lookups: dict[str, Rule] = {}
    for use in uses:
        rule = None if use.rule is None else rules[use.rule]
        if rule is None or rule.to == "keep":
            continue
        if use.kind == "dot":
            dots.setdefault(use.name, []).append(use)
        else:
            lookups[use.name] = rule
    planned = {name: _agree(name, shapes[name], rules, found) for name, found in dots.items()}
    for name, rule in lookups.items():
        _check_lookup(name, rule, planned.get(name), uses)
    _say_kept(rules, uses)
    return Plan(planned, lookups, tuple(uses))


def _agree(name: str, shape: Sequence[int], rules: Sequence[Rule], uses: list[Use]) -> Planned:
    first = uses[0]
    assert first.rule is not None
    rule = rules[first.rule]
    if any(axis >= len(shape) for axis in rule.stack):
        raise UsageError(
            "rule.stack",
            f"rule `{rule.path}` stacks axis {max(rule.stack)}; `{name}` has {len(shape)} axes",
            "axes are those of the parameter, counted from 0",
        )
    stack = tuple(sorted({*rule.stack, *(axis for use in uses for axis in use.stack)}))
    layouts: list[Roles] = []
    for use in uses:
        roles = Roles(stack, tuple(a for a in use.out if a not in stack), use.inner)
        if roles not in layouts:
            layouts.append(roles)
        contracted = [axis for axis in use.inner if axis in stack]
        if contracted:
            raise _contracted(name, use, contracted, "holds separate matrices", first)
    if len(layouts) > 1 and rule.scale_kind != "tensor":
        other = next(use for use in uses if use.inner != first.inner)
        contracted = [axis for axis in other.inner if axis not in first.inner] or list(other.inner)
        raise _contracted(name, other, contracted, f"the {rule.scale} scale varies along", first)
    inputs = 1
    for axis in first.inner:
        inputs *= shape[axis]
    learned = find(first.notes, LearnedScale)
    if learned is not None and learned.scale_kind != rule.scale:
        raise UsageError(
            "recipe.scale",
            f"`{name}` learns a scale per {learned.scale_kind}, rule `{rule.path}` says "
            f"{rule.scale}{first.where}",
            "say the same in both",
        )
    if learned is not None and learned.stack != stack:
        raise UsageError(
            "recipe.scale",
            f"`{name}` learns a scale for each element of its axes {learned.stack}, and is "
            f"quantized with one for each of {stack}{first.where}",
            "say the same `stack` in the rule and in `LearnedScale`",
        )
    if rule.group_size and inputs % rule.group_size:
        raise UsageError(
            "quant.group_size",
            f"`{name}` has {inputs} inputs, no multiple of the group size {rule.group_size}"
            f"{first.where}",
            "choose a group size that divides it, or scale `row` or `tensor`",
        )
    return Planned(rule, tuple(layouts), first, all(use.whole for use in uses))


def _contracted(name: str, use: Use, axes: Sequence[int], why: str, first: Use) -> UsageError:
    axis = axes[0]
    said = f"{why} axis {axis}" if why.endswith("along") else f"axis {axis} {why}"
    return UsageError(
        "quant.scale_contracted",
        f"`{name}`: {said}{first.where}, and `{use.primitive}` contracts axis {axis}{use.where}",
        "a scale can only be taken out of a sum along which it does not vary: use scale "
        "`tensor`, pass it as two parameters, or keep one use by a rule",
    )


def _check_lookup(name: str, rule: Rule, dot: Planned | None, uses: Sequence[Use]) -> None:
    """A table both looked up and multiplied has one quantization too."""
    if dot is None:
        other = next((use for use in uses if use.name == name and use.kind != "gather"), None)
        if other is not None:
            raise UsageError(
                "quant.lookup",
                f"rule `{rule.path}` quantizes the lookup of `{name}`, which is also used as "
                f"floats (`{other.primitive}`{other.where})",
                "use='*' quantizes both alike; or keep both",
            )
        return
    where = next(use.where for use in uses if use.name == name and use.kind == "gather")
    same = (rule.to, rule.scale, rule.scale_dtype) == (
        dot.rule.to,
        dot.rule.scale,
        dot.rule.scale_dtype,
    )
    if not same or dot.layouts != (TABLE,):
        raise UsageError(
            "quant.lookup",
            f"`{name}` is looked up as {rule.to} with scale {rule.scale}{where}, and multiplied "
            f"as {dot.rule.to} with scale {dot.rule.scale}{dot.use.where}",
            "one rule with use='*' gives both the same; its rows must be the dot's outputs",
        )


def _check_rules_used(program: Program, rules: Sequence[Rule], uses: Sequence[Use]) -> None:
    """A rule that keeps has done its work once it names a parameter at all."""
    used = {use.rule for use in uses if use.rule is not None}
    names = [*program.param_names, *{use.name for use in uses} - set(program.param_names)]
    used |= {
        index
        for index, rule in enumerate(rules)
        if rule.to == "keep"
        and (any(map(rule.names, names)) or rule.path.startswith("closed_over"))
    }
    check_used(rules, used, program.param_names, _reasons(program, uses))


_SAID = {
    "dot": "is multiplied{where}, and another rule took that",
    "gather": "is only looked up{where}: use='gather' (or '*') takes a lookup",
    "bias": "is added{where}, never multiplied: a bias stays float",
    "gain": "is a gain{where}, not contracted: it stays float",
    "convolution": "is a convolution's{where}, and convolutions stay float",
    "other": "reaches `{primitive}`{where} and no dot",
}


def _reasons(program: Program, uses: Sequence[Use]) -> dict[str, str]:
    """Why each parameter may not have been taken by a rule that names it."""
    out = dict.fromkeys(program.param_names, "is not used by the function")
    read = {var for eqn in program.jaxpr.eqns for var in eqn.invars if not hasattr(var, "val")}
    read |= {var for var in program.jaxpr.jaxpr.outvars if not hasattr(var, "val")}
    for name, var, aval in zip(
        program.param_names, program.jaxpr.jaxpr.invars, program.param_avals, strict=False
    ):
        if var in read:
            out[name] = f"is {aval.str_short()}, used in no product"
    for use in reversed(uses):
        out[use.name] = _SAID[use.kind].format(where=use.where, primitive=use.primitive)
    # What a matrix is used for tells more than what a bias is.
    rank = dict(zip(program.param_names, (len(a.shape) for a in program.param_avals), strict=True))
    return dict(sorted(out.items(), key=lambda item: -rank.get(item[0], 0)))


def _say_kept(rules: Sequence[Rule], uses: Sequence[Use]) -> None:
    """Convolutions that only a wildcard matched stay float; a `keep` rule silences this."""
    kept = {use.name: use for use in uses if use.kind == "convolution"}
    if not kept:
        return
    first = next(iter(kept.values()))
    warnings.warn(
        KeptFloatWarning(
            f"convolutions stay float: {', '.join(f'`{name}`' for name in kept)} "
            f"(first{first.where}); Rule(path, use='*', to='keep') before the rule that matched "
            "them says so and silences this"
        ),
        stacklevel=2,
    )
