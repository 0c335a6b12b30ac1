"""The probe: source and output of a conversion run side by side, a layer's weights at a time.

By the parity rules of the numerics contract: (a) each product with weights, from the same
input; (b) the logits, end to end. Knows no file format and no family: `runtime.stepwise` runs
whatever can be traced.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.runtime.stepwise import Forms, Stepwise, apply, narrow_floats
from bitnet_jax.workflows.parity import Parity, compare_logits

PROBE_TOKENS = 24
# docs/decisions/0002, rule (a): one linear, same input.
PRODUCT_LIMIT = 1e-6


@dataclass(frozen=True)
class Product:
    """One operation with weights, and how far its two results are from the same input.

    Attributes:
      weights: the tensors that it multiplies or looks up.
      difference: the largest, relative to the source's largest result.
    """

    weights: tuple[str, ...]
    difference: float


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Attributes:
      parity: of the logits.
      products: how many operations with weights were compared from the same input, or None
        where the two models are not the same sequence of operations.
      worst: the one that differs most; None where there is none that differs.
      differing: those that differ by more than rule (a) allows, in their order.
    """

    parity: Parity
    products: int | None
    worst: Product | None
    differing: tuple[Product, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        """Rules (a) and (b)."""
        return self.parity.holds and not self.differing

    def to_json(self) -> dict[str, Any]:
        """As it stands in records; the time stands apart."""
        worst = None if self.worst is None else asdict(self.worst)
        return {
            **asdict(self.parity),
            "holds": self.holds,
            "products": self.products,
            "worst_product": worst and {**worst, "weights": list(worst["weights"])},
        }


def probe(
    before: Checkpoint, after: Checkpoint, forms: tuple[Forms, Forms], progress: Any = None
) -> Probe:
    """Runs both models on fixed random tokens, and compares.

    Holds the weights of one operation of each at a time; a table of embeddings, some rows.

    Args:
      forms: `stepwise.form_of` every tensor of either.

    Raises:
      BadData: a tensor cannot be read.
    """
    started = time.perf_counter()
    length = min(PROBE_TOKENS, before.spec.max_positions)
    tokens = np.random.default_rng(0).integers(0, before.spec.vocab_size, (1, length), np.int32)
    # Held alike in both: else the one would widen where the other need not.
    narrow = narrow_floats(forms[0]) & narrow_floats(forms[1])
    one = Stepwise(before, forms[0], narrow, tokens)
    other = Stepwise(after, forms[1], narrow, tokens, like=one)
    label = "comparing the two models"
    task = progress.task(label, len(one.equations), "operations") if progress else _Silent()
    with task:
        if _names(one) == _names(other):
            products = _side_by_side(one, other, task)
            logits = one.result(), other.result()
        else:
            products = None
            logits = one.run(), other.run()
    worst = max(products or (), key=lambda product: product.difference, default=None)
    same = _equal(*logits)  # even NaN, where they were let pass
    return Probe(
        parity=Parity(0.0, 0.0, 1.0, 1.0, length) if same else compare_logits(*logits),
        products=None if products is None else len(products),
        worst=worst if worst is not None and worst.difference else None,
        differing=tuple(p for p in products or () if not p.difference <= PRODUCT_LIMIT),
        seconds=time.perf_counter() - started,
    )


def _names(run: Stepwise) -> list[str]:
    return [eqn.primitive.name for eqn in run.equations]


def _side_by_side(one: Stepwise, other: Stepwise, task: Any) -> list[Product]:
    found = []
    for left, right in zip(one.equations, other.equations, strict=True):
        theirs, ours = one.operands(left), other.operands(right)
        expected, results = apply(left, theirs), apply(right, ours)
        kept = [other.is_weight(atom) for atom in right.invars]
        if any(kept) and not all(kept):
            same = all(k or _equal(a, b) for k, a, b in zip(kept, theirs, ours, strict=True))
            mixed = [b if k else a for k, a, b in zip(kept, theirs, ours, strict=True)]
            reached = results if same else apply(right, mixed)
            worst = max(_difference(a, b) for a, b in zip(expected, reached, strict=True))
            found.append(Product(tuple(one.parameters_of(left)), worst))
        one.put(left, expected)
        other.put(right, results)
        task.update(1)
    return found


def _equal(left: Any, right: Any) -> bool:
    left, right = np.asarray(left), np.asarray(right)
    return left.dtype == right.dtype and left.tobytes() == right.tobytes()


def _difference(expected: Any, found: Any) -> float:
    """The largest difference, relative to the largest expected; infinite where NaN differs."""
    if _equal(expected, found):
        return 0.0
    left, right = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        worst = float(np.abs(left - right).max() / np.abs(left).max())
    return worst if np.isfinite(worst) else float("inf")


class _Silent:
    def update(self, n: int) -> None: ...

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *exc: object) -> None: ...
