"""Where two runs part: op by op, each judged on the same inputs.

The second run goes on with the first one's value after each op that both have. So nothing
cascades (a last bit that flips an int8 code would): what differs at an op was done by that op, or
by ops before it that only one of the runs has, and those are named. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from bitnet_jax.analysis.activations import difference, host
from bitnet_jax.ir.observe import OUTPUT, Observed, Op, reached

# Rule (a) of the numerics contract: from the same input, outputs of a layer agree to this.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Divergence:
    """An op at which the runs part.

    Attributes:
      op: its name: the first op that is to blame.
      why: ``values``, ``shape``, ``only in the first`` or ``only in the second``.
      seen_at: the op, in both, whose results differ.
      figures: as `activations.difference`; of a shape, the shapes.
      only_first, only_second: ops between the last that both have and `seen_at`.
      settings: the op's own numbers that differ: name -> [first, second].
    """

    op: str
    kind: str
    why: str
    seen_at: str
    figures: Mapping[str, Any]
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()
    settings: Mapping[str, list[Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {
            "op": self.op,
            "kind": self.kind,
            "why": self.why,
            "seen_at": self.seen_at,
            **self.figures,
            "only_in_first": list(self.only_first),
            "only_in_second": list(self.only_second),
            "settings": dict(self.settings),
        }


# Part of the first run's value that stands for the second run's, or None if none does.
Part = Callable[[np.ndarray, tuple[int, ...]], np.ndarray | None]


def whole(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """The value, where it has the shape."""
    return value if value.shape == shape else None


@dataclass
class Comparison:
    """Looks at the second run while it runs; the first has been.

    Attributes:
      values: op name -> what the first run had there.
      first, second: the programs.
      part: which part of a value of the first run is to be compared.
    """

    values: Mapping[str, np.ndarray]
    first: Observed
    second: Observed
    tolerance: float
    part: Part = whole
    outputs: bool = True
    _found: dict[str, Divergence] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ops = [{op.name: op for op in run.ops} for run in (self.first, self.second)]
        one, two = self._ops
        self._shared = {n for n in one if n in two and (self.outputs or one[n].kind != OUTPUT)}

    def see(self, op: Op, value: Any) -> Any:
        """Compares; returns what the second run goes on with."""
        if op.name not in self._shared:
            return value
        own = host(value)
        reference = self.part(self.values[op.name], own.shape)
        if reference is None:
            shapes = [list(self.values[op.name].shape), list(own.shape)]
            self._note(op, "shape", {"difference": None, "shapes": shapes})
            return value
        figures = difference(reference, own)
        if not figures["difference"] <= self.tolerance:
            self._note(op, "values", figures)
        return jnp.asarray(reference, value.dtype)

    def found(self) -> list[Divergence]:
        """Every op that diverges, in the order in which the first run meets them."""
        order = {op.name: rank for rank, op in enumerate(self.first.ops)}
        extra = {op.name: rank for rank, op in enumerate(self.second.ops)}

        def place(item: Divergence) -> tuple[int, int]:
            if item.op in order:
                return order[item.op], 0
            return order[item.seen_at], extra[item.op] - len(extra)  # before what shows it

        return sorted(self._found.values(), key=place)

    def settings(self) -> Iterator[dict[str, Any]]:
        """The settings that differ between ops that both have, whatever their values do."""
        for name in (op.name for op in self.first.ops if op.name in self._shared):
            for setting, (one, two) in self._settings(name).items():
                yield {"op": name, "setting": setting, "first": one, "second": two}

    def _settings(self, name: str) -> dict[str, list[Any]]:
        one, two = (ops[name].settings for ops in self._ops)
        names = sorted({*one, *two} - {"implementation"})
        return {n: [one.get(n), two.get(n)] for n in names if one.get(n) != two.get(n)}

    def _note(self, op: Op, why: str, figures: Mapping[str, Any]) -> None:
        alone = [self._alone(index, op.name) for index in (0, 1)]
        blamed = op.name
        for ops, words in zip(alone, ("only in the first", "only in the second"), strict=True):
            if ops:
                blamed, why = ops[0], words
                break
        item = Divergence(
            blamed,
            next(ops[blamed] for ops in self._ops if blamed in ops).kind,
            why,
            op.name,
            figures,
            tuple(alone[0]),
            tuple(alone[1]),
            self._settings(op.name),
        )
        self._found.setdefault(blamed, item)

    def _alone(self, index: int, name: str) -> list[str]:
        """Ops that only this run has, on the way to the op from those that both have."""
        ops = self._ops[index]
        found = {op.name for op in reached(ops, ops[name], self._shared.__contains__)}
        return [name for name in ops if name in found]
