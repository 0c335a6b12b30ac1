"""Running a flat program equation by equation, with a name for each op and sight of its results.

An op is named by where it stands: the parameter that it reads, or the module whose results meet in
it, and its primitive: ``layers.0.self_attn.q_proj:ternary_matmul``,
``layers.0.mlp:gated_activation``. So two programs of one model have the same names, however their
functions are written. Knows no model; a construct with a body of its own (a scan) is one op.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.extend.core as jec
import jax.numpy as jnp

from bitnet_jax.core import jax_compat
from bitnet_jax.ir.graph import is_literal
from bitnet_jax.ir.interpreter import bind

# What only shows a value otherwise: no op to people, and never where two programs part.
MOVES = frozenset({
    "reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "convert_element_type",
    "copy", "slice", "stop_gradient", "sharding_constraint", "optimization_barrier",
})  # fmt: skip
# What an op is called that no parameter has reached.
INPUTS = "inputs"
_PLAIN = (bool, int, float, str)


@dataclass(frozen=True)
class Op:
    """One float result of one equation.

    Attributes:
      name: unique in its program: a second one of a place and kind ends with ``#2``.
      place: the parameter or module, or `INPUTS`.
      kind: the primitive's name, or `OUTPUT`.
      settings: the primitive's own numbers and words (``eps``, ``theta``).
      needs: names of the ops whose results it reads, through moves and integers.
    """

    name: str
    place: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


OUTPUT = "output"
# Given an op and its value; returns the value to go on with.
See = Callable[[Op, Any], Any]


@dataclass(frozen=True)
class _Origin:
    """What is known of a variable before anything runs.

    Attributes:
      place: see `Op.place`; "" where nothing is known.
      weight: it depends on parameters and constants alone.
      rank: how late in the program its place was reached.
      ops: the ops it comes from.
    """

    place: str = ""
    weight: bool = True
    rank: int = -1
    ops: tuple[str, ...] = ()


class Observed:
    """A flat closed jaxpr whose ops have names.

    Attributes:
      ops: in the order in which they run; the program's results come last, as ``output:0``, …
    """

    def __init__(self, closed: jec.ClosedJaxpr, labels: Sequence[str]):
        """Names the ops; runs nothing.

        Args:
          closed: flat (`graph.flattened`).
          labels: the parameter's name for each of the first inputs; those that follow are data.
        """
        self._closed = closed
        self._named: dict[int, list[Op | None]] = {}
        self._taken: dict[str, int] = {}
        self.ops: list[Op] = []
        origins: dict[Any, _Origin] = {}
        for index, var in enumerate(closed.jaxpr.invars):
            known = index < len(labels)
            origins[var] = _Origin(labels[index] if known else "", weight=known)
        for rank, eqn in enumerate(closed.jaxpr.eqns):
            found = [origins.get(v, _Origin()) for v in eqn.invars if not is_literal(v)]
            self._name(rank, eqn, found, origins)
        self._outputs = []
        for number, var in enumerate(closed.jaxpr.outvars):
            origin = _Origin() if is_literal(var) else origins.get(var, _Origin())
            op = Op(f"{OUTPUT}:{number}", OUTPUT, OUTPUT, needs=origin.ops)
            self._outputs.append(op)
            self.ops.append(op)

    def _name(
        self, rank: int, eqn: Any, found: Sequence[_Origin], origins: dict[Any, _Origin]
    ) -> None:
        weight = all(origin.weight for origin in found)
        place, at = _meet(found, rank)
        if weight:
            at = max((origin.rank for origin in found), default=-1)
        above = tuple(dict.fromkeys(name for origin in found for name in origin.ops))
        named: list[Op | None] = []
        for var in eqn.outvars:
            op = None
            if not weight and eqn.primitive.name not in MOVES and _is_float(var.aval):
                kind = eqn.primitive.name
                name = self._unique(f"{place or INPUTS}:{kind}")
                settings = {k: v for k, v in eqn.params.items() if isinstance(v, _PLAIN)}
                op = Op(name, place or INPUTS, kind, settings, above)
                self.ops.append(op)
            named.append(op)
            origins[var] = _Origin(place, weight, at, above if op is None else (op.name,))
        self._named[rank] = named

    def _unique(self, name: str) -> str:
        count = self._taken[name] = self._taken.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def run(self, args: Sequence[Any], see: See) -> list[Any]:
        """The program's flat results; `see` is shown each op's and says with what to go on."""
        jaxpr = self._closed.jaxpr
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, self._closed.consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        last = _last_reads(jaxpr)
        for rank, eqn in enumerate(jaxpr.eqns):
            values = [v.val if is_literal(v) else env[v] for v in eqn.invars]
            with jax_compat.source_of(eqn):
                out = bind(eqn, values)
            for var, value, op in zip(eqn.outvars, out, self._named[rank], strict=True):
                env[var] = value if op is None else see(op, value)
            for var in last.get(rank, ()):
                del env[var]
        results = [v.val if is_literal(v) else env[v] for v in jaxpr.outvars]
        return [see(op, value) for op, value in zip(self._outputs, results, strict=True)]


def _meet(found: Sequence[_Origin], rank: int) -> tuple[str, int]:
    """The place of an equation that reads these, and since when it is known.

    A parameter that it reads says it. Else the results of neighbours (query, key, value) meet in
    their module; of what comes from far apart (a residual) the later one tells.
    """
    active = [origin for origin in found if origin.place]
    weights = [origin.place for origin in active if origin.weight]
    if weights:
        return _common(weights) or weights[0], rank
    if not active:
        return "", -1
    latest = max(active, key=lambda origin: origin.rank)
    places = list(dict.fromkeys(origin.place for origin in active))
    if len(places) > 1:
        shared = _common(places)
        if shared.count(".") >= latest.place.count(".") - 1 and shared:
            return shared, latest.rank
    return latest.place, latest.rank


def _common(places: Sequence[str]) -> str:
    """The dotted parts with which all begin."""
    parts = [place.split(".") for place in places]
    shared: list[str] = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared)


def _is_float(aval: Any) -> bool:
    return jnp.issubdtype(getattr(aval, "dtype", jnp.int32), jnp.floating)


def _last_reads(jaxpr: jec.Jaxpr) -> dict[int, list[Any]]:
    """Equation -> variables that nobody reads after it: a model's activations need not all stay."""
    kept = {var for var in jaxpr.outvars if not is_literal(var)} | {*jaxpr.invars}
    kept |= set(jaxpr.constvars)
    last: dict[Any, int] = {}
    for rank, eqn in enumerate(jaxpr.eqns):
        for var in (*eqn.invars, *eqn.outvars):
            if not is_literal(var) and var not in kept:
                last[var] = rank
    out: dict[int, list[Any]] = {}
    for var, rank in last.items():
        out.setdefault(rank, []).append(var)
    return out


def reached(ops: Mapping[str, Op], op: Op, stop: Callable[[str], bool]) -> Iterator[Op]:
    """The ops that `op` depends on, as far back as those that `stop` names, which are left out."""
    seen: set[str] = set()
    waiting = list(op.needs)
    while waiting:
        name = waiting.pop()
        if name in seen or stop(name):
            continue
        seen.add(name)
        yield ops[name]
        waiting += ops[name].needs
