"""`fused_linears`: equal in every bit to its parts as the kernels compute them one by one."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.ops.fused_linears import fused_linears
from bitnet_jax.ops.fused_linears.reference import fused_linears_reference
from bitnet_jax.quant.ternary import from_trits
from tests.ops.native.threads import threads
from tests.ops.order import rms_norm as in_order
from tests.thin import each_isa

EPS = 1e-5


@dataclass(frozen=True)
class Case:
    """One call: sizes, and what stands before and after the products."""

    tokens: int
    inputs: int
    outs: tuple[int, ...]
    gate: str = ""
    normed: bool = False
    added: bool = False
    scale: str = "tensor"
    group: int = 0


CASES = (
    Case(1, 64, (64, 32, 32), normed=True),
    Case(1, 250, (70,), normed=True, added=True),
    Case(1, 130, (33,), gate="relu2", normed=True, added=True),
    Case(7, 96, (40, 17), scale="row"),
    Case(8, 96, (40,), added=True, scale="group", group=32),
    Case(33, 80, (19, 16), gate="relu2"),
    Case(70, 48, (19, 5, 3, 64), normed=True, scale="row"),
)


@pytest.fixture(params=each_isa())
def isa(request, monkeypatch):
    monkeypatch.setenv("BITNET_ISA", request.param)
    jax.clear_caches()
    yield request.param
    jax.clear_caches()


@dataclass
class Call:
    """Arrays of a case."""

    case: Case
    x: np.ndarray
    up: np.ndarray | None
    norm: np.ndarray | None
    add: np.ndarray | None
    weights: list

    @classmethod
    def of(cls, case: Case, rng) -> "Call":
        x, up = rng.standard_normal((2, 1, case.tokens, case.inputs), np.float32)
        weights = []
        for out in case.outs:
            shape = {"tensor": (), "row": (out,), "group": (out, case.inputs // (case.group or 1))}
            scale = rng.random(shape[case.scale], np.float32) + np.float32(0.01)
            trits = rng.integers(-1, 2, (out, case.inputs), np.int8)
            weights.append(from_trits(trits, scale, scale_kind=case.scale, group_size=case.group))
        return cls(
            case,
            x,
            up if case.gate else None,
            rng.standard_normal(case.inputs, np.float32) if case.normed else None,
            rng.standard_normal((1, case.tokens, case.outs[0]), np.float32) if case.added else None,
            weights,
        )

    def first(self, tokens: int) -> "Call":
        cut = [None if v is None else v[:, :tokens] for v in (self.x, self.up, self.add)]
        return Call(self.case, cut[0], cut[1], self.norm, cut[2], self.weights)

    def run(self) -> list[np.ndarray]:
        y = fused_linears(
            self.x,
            [(jnp.asarray(w.codes)[None], jnp.asarray(w.scale)[None]) for w in self.weights],
            out_features=self.case.outs,
            up=self.up,
            gate=self.case.gate,
            norm=self.norm,
            eps=EPS,
            add=self.add,
            layout=self.weights[0].layout,
            scale_kind=self.case.scale,
            group_size=self.case.group,
        )
        return [np.asarray(part) for part in y]

    def expected(self) -> list[np.ndarray]:
        """Gate and norm in numpy, in the kernels' order; the products by the reference."""
        x = self.x
        if self.up is not None:
            positive = np.maximum(x, np.float32(0))
            x = positive * positive * self.up
        if self.norm is not None:
            x = np.stack([in_order(row, self.norm, EPS) for row in x[0]])[None]
        flat = [v for w in self.weights for v in (w.codes[None], np.asarray(w.scale)[None])]
        before = [] if self.add is None else [self.add]
        return fused_linears_reference(
            x,
            *before,
            *flat,
            gate="",
            normed=False,
            eps=0.0,
            added=self.add is not None,
            layout=self.weights[0].layout,
            scale_kind=self.case.scale,
            group_size=self.case.group,
            out_features=self.case.outs,
        )


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_its_parts(isa, rng, case):
    call = Call.of(case, rng)
    for found, want in zip(call.run(), call.expected(), strict=True):
        assert np.array_equal(found, want)


@pytest.mark.parametrize("case", [CASES[-1]], ids=str)
def test_a_token_depends_on_no_other_and_on_no_thread(rng, case):
    call = Call.of(case, rng)
    whole = call.run()
    for count in (1, 2, 3):
        with threads(count):
            for tokens in (1, 2, 7, 8, 33):
                for some, every in zip(call.first(tokens).run(), whole, strict=True):
                    assert np.array_equal(some, every[:, :tokens])


def test_a_nan_stays_in_its_token(rng):
    call = Call.of(CASES[-1], rng)
    call.x[0, 2, 5] = np.nan
    for y in call.run():
        assert np.isnan(y[0, 2]).all()
        assert np.isfinite(np.delete(y[0], 2, axis=0)).all()
