"""Where a program uses its parameters: followed, recorded, nothing computed.

Needs: a float Program and rules. Gives a `Use` for every use of every parameter that
a rule could quantize, in program order. What the uses of one parameter mean together
is `plan.py`'s to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import BitnetError, UsageError
from bitnet_jax.ir.interpreter import Context, interpret
from bitnet_jax.ir.program import Program
from bitnet_jax.ir.views import ParamView
from bitnet_jax.passes.geometry import Contraction, contraction
from bitnet_jax.passes.hidden import TABLE, rows_taken
from bitnet_jax.passes.lookup import is_row_lookup
from bitnet_jax.passes.modes import StatelessMode
from bitnet_jax.passes.qat_products import QAT_CALLS
from bitnet_jax.quant.rules import Rule, match

# Arrays that the function closes over stand under this name, numbered.
CLOSED_OVER = "closed_over"


@dataclass(frozen=True)
class Use:
    """One use of a parameter, in the parameter's own axes.

    Attributes:
      kind: ``dot``, ``gather``, ``convolution``, ``bias``, ``gain``, ``other``.
      rule: index of the rule that takes it, or None.
      stack: axes that certainly hold separate matrices here: batched over or chosen from.
      out, inner: axes kept and contracted (of a dot).
      primitive: the equation's.
      where: the user's source line, as `` at file:line``, or "".
      notes: what recipes ask of the weight here.
      whole: all inputs are contracted here, by one device: no slice or shard of them.
    """

    name: str
    kind: str
    rule: int | None
    stack: tuple[int, ...] = ()
    out: tuple[int, ...] = ()
    inner: tuple[int, ...] = ()
    primitive: str = ""
    where: str = ""
    notes: tuple[Any, ...] = ()
    whole: bool = True


def rule_for(rules: Sequence[Rule], name: str, use: str) -> tuple[int | None, Rule | None]:
    """The rule that takes `name` used so: its index, and itself unless it keeps."""
    index = match(rules, name, use)
    rule = None if index is None else rules[index]
    return index, (rule if rule is not None and rule.to != "keep" else None)


def tracked(name: str, rules: Sequence[Rule]) -> bool:
    """True if some rule could quantize a use of parameter `name`."""
    return any(
        rule.to != "keep" and any(rule.takes(name, use) for use in ("dot", "gather"))
        for rule in rules
    )


def is_float(leaf: Any) -> bool:
    """True for what can be quantized: a floating array."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


@dataclass
class CollectMode(StatelessMode):
    """Records uses; refuses what may hide a product that a rule asked for."""

    rules: Sequence[Rule]
    uses: list[Use] = field(default_factory=list)
    closed: dict[int, ParamView] = field(default_factory=dict)
    problems: list[BitnetError] | None = None

    def refuse(self, error: BitnetError) -> None:
        """Raises `error`, or notes it where problems are collected."""
        if self.problems is None:
            raise error
        self.problems.append(error)

    def dot(self, context: Context, eqn: Any, view: ParamView, side: int, other: Any) -> Any:
        """Records a dot with its roles."""
        index, rule = rule_for(self.rules, view.name, "dot")
        self._refuse_closed_over(context, eqn, view, index)
        if rule is not None and jnp.issubdtype(other.dtype, jnp.complexfloating):
            why = "what it multiplies is complex, and only reals are rounded"
            self.refuse(unfollowable(view, context.at(eqn), why))
        found = contraction(view, side, eqn.params["dimension_numbers"])
        self._record_dot(context, eqn, view, index, rule, found)
        return eqn.outvars[0].aval

    def ragged(self, context: Context, eqn: Any, view: ParamView, x: Any, sizes: Any) -> Any:
        """Records a ragged dot: experts are stacked."""
        index, rule = rule_for(self.rules, view.name, "dot")
        self._refuse_closed_over(context, eqn, view, index)
        # As a dot that batches over the experts.
        found = contraction(view, 1, (((1,), (1,)), ((0,), (0,))))
        self._record_dot(context, eqn, view, index, rule, found)
        return eqn.outvars[0].aval

    def _record_dot(
        self, context: Context, eqn: Any, view: ParamView, index: int | None,
        rule: Rule | None, found: Contraction | None,
    ) -> None:  # fmt: skip
        where, primitive = context.at(eqn), eqn.primitive.name
        if rule is not None and any(map(jax_compat.in_derivative, (eqn, *context.enclosing))):
            self.refuse(
                UsageError(
                    "transform.derivative_inside",
                    f"the function differentiates inside itself, through `{view.name}`{where}: "
                    "a product with a cotangent must not be rounded as activations are",
                    "differentiate the ternary function: jax.grad(bj.ternarize(net, rules)), or "
                    f"keep it: Rule({view.name!r}, to='keep')",
                )
            )
            return
        if rule is None:
            self.uses.append(Use(view.name, "dot", index, primitive=primitive, where=where))
            return
        if found is None:
            why = f"in `{primitive}` its axes are torn between contracted and kept ones"
            self.refuse(unfollowable(view, where, why))
            return

        def named(axes: Sequence[int]) -> tuple[int, ...]:
            return tuple(sorted(view.origin[axis] for axis in axes))

        if rule.group_size and not _whole_groups(view, found.inner, rule.group_size):
            self.refuse(
                UsageError(
                    "quant.group_size",
                    f"a slice or a shard of `{view.name}` cuts its groups of {rule.group_size} "
                    f"inputs (`{primitive}`{where})",
                    "slice whole groups, of a fixed start and step 1, or scale `row` or `tensor`",
                )
            )
        stack = tuple(sorted({*view.stacked, *named(found.batch)}))
        out = tuple(axis for axis in named(found.kept) if axis not in stack)
        self.uses.append(
            Use(
                view.name, "dot", index, stack, out, named(found.inner), primitive, where,
                view.notes, not any(view.windows[a] or view.shards[a] for a in found.inner),
            )
        )  # fmt: skip

    def _refuse_closed_over(
        self, context: Context, eqn: Any, view: ParamView, index: int | None
    ) -> None:
        kept = index is not None and self.rules[index].to == "keep"
        if not view.constant or kept:
            return
        shape = "x".join(str(size) for size in view.shape)
        self.refuse(
            UsageError(
                "transform.closed_over",
                f"the function closes over a {shape} array and multiplies by it "
                f"(`{eqn.primitive.name}`{context.at(eqn)}): no rule can reach it",
                "pass it in the parameters: `fn(params, x)` with params['w'] instead of w; a "
                f"table that is no weight is kept by Rule({view.name!r}, use='*', to='keep')",
            )
        )

    def gather(self, context: Context, eqn: Any, view: ParamView, indices: Sequence[Any]) -> Any:
        """Records a lookup of rows; they are followed on, as they may be multiplied."""
        if view.remnant is not None:
            return rows_taken(view, eqn)
        index, rule = rule_for(self.rules, view.name, "gather")
        where = context.at(eqn)
        rows = is_row_lookup(eqn, view)
        if rule is not None and not rows:
            why = "only whole rows of a 2-D table are looked up quantized"
            self.refuse(unfollowable(view, where, why))
        _, dot = rule_for(self.rules, view.name, "dot")
        if rule is None and dot is not None and not rows and not view.constant:
            # Columns, or rows in a product's order: what comes of them may be multiplied.
            why = "an index chooses parts of it that are no rows of a table"
            hint = "choose from what is multiplied: (x @ w)[:, index]"
            self.refuse(unfollowable(view, where, why, hint))
        self.uses.append(Use(view.name, "gather", index, primitive=eqn.primitive.name, where=where))
        kept = index is not None and self.rules[index].to == "keep"
        if dot is None or kept or view.constant:
            return eqn.outvars[0].aval
        return rows_taken(view, eqn)

    def hidden(self, context: Context, eqn: Any, view: ParamView) -> None:
        """Refuses a product with what is left of a parameter that a rule names."""
        _, rule = rule_for(self.rules, view.name, "dot")
        if rule is None:
            return
        primitive = eqn.primitive.name
        why = f"what an index or an elementwise operation made of it is multiplied (`{primitive}`)"
        self.refuse(unfollowable(view, context.at(eqn), why, HIDDEN[primitive]))

    def convolution(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """Convolutions stay float: said by the plan, refused if the rule names this weight."""
        if view.remnant is not None:
            return eqn.outvars[0].aval
        index, rule = rule_for(self.rules, view.name, "dot")
        where = context.at(eqn)
        if rule is not None and rule.is_exact:
            self.refuse(unfollowable(view, where, "it is a convolution's, and those stay float"))
        kind = "convolution" if rule is not None else "other"
        kept = index if rule is None else None
        self.uses.append(Use(view.name, kind, kept, primitive=eqn.primitive.name, where=where))
        return eqn.outvars[0].aval

    def other(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """Leaves vectors alone (norm weights, biases); refuses what may hide a dot."""
        if view.remnant is not None:
            return self._leave(context, eqn, view, "other")
        _, rule = rule_for(self.rules, view.name, "dot")
        # A gain of shape (1, n) is a vector too; one that a rule names is not passed over.
        long = sum(size > 1 for size in view.shape)
        named = rule is not None and rule.is_exact
        # One that a branch chooses or a loop changes may be multiplied there: no gain does that.
        enters = eqn is not None and eqn.primitive.name in ("cond", "scan", "while")
        matrix = long > 1 or ((named or enters) and len(view.shape) > 1)
        if rule is not None and matrix and not view.constant:
            hint = HINTS.get("result" if eqn is None else eqn.primitive.name)
            if any(call.params.get("name") in QAT_CALLS for call in context.enclosing):
                hint = "the function is ternary already: give ternarize the float function"
            self.refuse(unfollowable(view, context.at(eqn), _reached(eqn), hint))
        return self._leave(context, eqn, view, "other")

    def keep(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """A use that is certainly no product."""
        return self._leave(context, eqn, view, KEPT.get(eqn.primitive.name, "other"))

    def latent(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """Derivative rules are not followed here."""
        return jax.core.ShapedArray(view.current_shape, jnp.float32)

    def _leave(self, context: Context, eqn: Any, view: ParamView, kind: str) -> Any:
        if view.remnant is not None:
            return jax.core.ShapedArray(view.current_shape, jnp.float32)
        primitive = "result" if eqn is None else eqn.primitive.name
        where = context.at(eqn)
        self.uses.append(Use(view.name, kind, None, primitive=primitive, where=where))
        return jax.core.ShapedArray(view.current_shape, jnp.float32)

    def constant(self, value: Any) -> Any:
        """A view of a closed-over matrix of floats: it may be a weight that nobody passed."""
        asked = any(rule.to != "keep" for rule in self.rules)
        if not asked or getattr(value, "ndim", 0) < 2 or not is_float(value):
            return value
        view = ParamView.of(f"{CLOSED_OVER}.{len(self.closed)}", value.shape)
        return self.closed.setdefault(id(value), replace(view, constant=True))


def _whole_groups(view: ParamView, inner: Sequence[int], size: int) -> bool:
    """True if what slices and shards left of the inputs is whole groups of the parameter's."""
    for place, axis in enumerate(inner):
        window = view.windows[axis]
        if window is None and not view.shards[axis]:
            continue
        minor = math.prod(view.shape[a] for a in inner[place + 1 :])
        start = 0 if window is None else window.start
        step = 1 if window is None else window.step
        if place or start is None or step != 1:
            return False
        if start * minor % size or view.shape[axis] * minor % size:
            return False
    return True


def _reached(eqn: Any) -> str:
    if eqn is None:
        return "it is the function's result, which is no dot"
    if eqn.primitive.name == "dot_general":
        return "it is multiplied by another parameter (`dot_general`)"
    return f"it reaches `{eqn.primitive.name}`, which is no dot"


# What a parameter is that meets something wider than itself, by the primitive.
KEPT = {"add": "bias", "sub": "bias", "mul": "gain"}
# What to do instead, by the primitive of a product that `hidden.py` found.
HIDDEN = {
    "dot_general": "multiply by the whole parameter, and index what it multiplies or the result: "
    "(x @ w.T)[:, index]; an embedding is exempted by Rule(path, use='gather', to='keep')",
    "reduce_sum": "write the product as x @ w, or with jnp.einsum",
}
# What to do instead, by the primitive that a weight reached.
_STACK = "stack the parameters outside the function: one of shape [layers, …]"
_PENALTY = "a penalty on weights belongs outside, on the parameters: loss + decay * norm(params)"
HINTS = {
    "stack": _STACK,
    "concatenate": "multiply by each part and join or add the results (a product that keeps the "
    "joined axis is followed by itself), or store one parameter; " + _STACK,
    "mul": "scale what it multiplies, or the result; for a mask: bj.transform with bj.KeepNofM",
    "div": "scale what it multiplies, or the result",
    "add": "add the products, not the weights: x @ w + (x @ a) @ b",
    "integer_pow": _PENALTY,
    "square": _PENALTY,
    "reduce_sum": _PENALTY,
    "result": "return only what the function changes (nnx.state(m, nnx.BatchStat), the mutated "
    "collections), not the parameters",
}


def unfollowable(view: ParamView, where: str, why: str, instead: str | None = None) -> UsageError:
    """The refusal of a use that a rule asked to quantize."""
    exempt = f"exempt it with Rule({view.name!r}, use='*', to='keep') before the rule that took it"
    return UsageError(
        "transform.unfollowable",
        f"`{view.name}` cannot be quantized: {why}{where}",
        f"{instead}; or {exempt}" if instead else exempt,
    )


def collect_uses(
    program: Program,
    rules: Sequence[Rule],
    *,
    problems: list[BitnetError] | None = None,
) -> list[Use]:
    """Every use of every parameter that a rule may quantize, in program order.

    Args:
      problems: what is refused goes here instead of being raised, and then parameters
        that no rule names are followed too.

    Raises:
      UsageError: a matched parameter has a use that cannot be followed
        (``transform.unfollowable``), is no array of floats (``transform.not_float``), or
        the function multiplies by a closed-over matrix (``transform.closed_over``).
    """
    mode = CollectMode(rules, problems=problems)
    values: list[Any] = []
    for name, aval in zip(program.param_names, program.param_avals, strict=True):
        wanted = tracked(name, rules)
        if is_float(aval) and (wanted or problems is not None):
            values.append(ParamView.of(name, aval.shape))
            continue
        if wanted and any(rule.is_exact and rule.names(name) for rule in rules):
            mode.refuse(
                UsageError(
                    "transform.not_float",
                    f"`{name}` holds {np.dtype(aval.dtype)}, not floats: it cannot be quantized",
                    "pass the float master, or packed parameters in mode 'packed'",
                )
            )
        values.append(aval)
    interpret(mode, TABLE, program.jaxpr, [*values, *program.input_avals], abstract=True)
    return mode.uses
