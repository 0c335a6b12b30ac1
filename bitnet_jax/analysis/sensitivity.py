"""What quantizing each linear costs: measured, and predicted from backward passes alone.

Works on any function ``forward(params, tokens) -> logits`` under rules. A few programs are
compiled, whatever the number of linears: which of them are quantized is an argument, a vector c
(`passes/quantize_chosen.py`). K(c) is the mean over tokens of KL(p ‖ q), p of the float model, q
of the one with the choice c. Two questions are asked of each linear i:

    alone   K(only i)              what it costs to quantize this one
    kept    K(all) - K(all but i)  what is gained by leaving this one as it is

The two orders differ: errors of several linears add up, and cancel. Predicted to second order:

    alone   ½ Fᵢᵢ(0)            K and its gradient are 0 at 0
    kept    ∂K/∂cᵢ - ½ Fᵢᵢ(1)   at c = 1

F is the Fisher matrix, which is K's second derivative at 0 and, up to a term that vanishes where
p = q, elsewhere (Martens, "New insights and perspectives on the natural gradient method", JMLR 21,
2020, section 9). Fᵢᵢ = E[(∂ log q(label)/∂cᵢ)²] over labels drawn from the model itself, so
that one backward pass for each draw serves all linears at once. Knows no file and no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.core.errors import CheckFailed
from bitnet_jax.ir.program import Program, trace
from bitnet_jax.passes.plan import make_plan
from bitnet_jax.passes.quantize_chosen import chosen_names, quantize_chosen
from bitnet_jax.quant.rules import Rule

# Float32 logits held at once, of one kind: [windows, length, vocabulary].
LOGITS_AT_ONCE = 1 << 25
MOST_WINDOWS = 8
# Draws of labels for each window: with 32 windows a prediction's own error is about 12 %.
DRAWS = 4

Told = Callable[[str], object]


@dataclass(frozen=True)
class Losses:
    """By window and token, float32 [windows, length - 1].

    Attributes:
      nll: -log q of the text's own next token, in nats.
      kl: KL(p ‖ q) from the float model's distribution, in nats.
      same: 1 where both models' first choice is the same.
    """

    nll: np.ndarray
    kl: np.ndarray
    same: np.ndarray


@dataclass(frozen=True)
class Predicted:
    """By linear, float64 [linears], in nats per token.

    Attributes:
      alone: the KL where only this linear is quantized.
      kept: how much lower the KL is where all but this linear are quantized, than where all are.
    """

    alone: np.ndarray
    kept: np.ndarray


class Sensitivity:
    """One model under rules, over fixed windows of text.

    Attributes:
      names: the linears, in the order of the program; a choice is float32 of their number.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        params: Any,
        rules: Sequence[Rule],
        windows: np.ndarray,
        vocabulary: int,
    ):
        """Traces `forward`.

        Args:
          forward: ``forward(params, tokens int32 [batch, length]) -> logits``, causal.
          windows: int32 [windows, length], length at least 2.

        Raises:
          UsageError: as `make_plan` (a rule that took nothing, …).
        """
        self._forward, self._params, self._windows = forward, params, windows
        most = max(1, LOGITS_AT_ONCE // (windows.shape[1] * vocabulary))
        self.batch = min(len(windows), MOST_WINDOWS, most)
        self._program = trace(forward, params, self._tokens(self.batch))
        self._rules = rules
        self.names = chosen_names(make_plan(self._program, rules))

    def _tokens(self, batch: int) -> Any:
        return jax.ShapeDtypeStruct((batch, self._windows.shape[1]), jnp.int32)

    # ------------------------------------------------------------------------- measured
    @cached_property
    def _run(self) -> Any:
        program: Program = quantize_chosen(self._program, self._rules)
        zeros = jnp.zeros(len(self.names), jnp.float32)

        def losses(params: Any, tokens: Any, choices: Any) -> Any:
            reference = _logprobs(program(params, tokens, zeros))

            def one(choice: Any) -> tuple[Any, Any, Any]:
                return _losses(_logprobs(program(params, tokens, choice)), reference, tokens)

            return jax.lax.map(one, choices)

        return jax.jit(losses)

    def measure(self, choices: np.ndarray, told: Told = lambda words: None) -> list[Losses]:
        """The losses under each choice.

        Args:
          choices: float32 [n, linears], 1 where a linear is quantized.

        Raises:
          CheckFailed: the model gives no finite numbers (``score.not_finite``).
        """
        choices = np.asarray(choices, np.float32).reshape(-1, len(self.names))
        parts: list[tuple[np.ndarray, ...]] = []
        for start in range(0, len(self._windows), self.batch):
            tokens, count = self._batch_at(start)
            found = jax.device_get(self._run(self._params, tokens, choices))
            parts.append(tuple(array[:, :count] for array in found))
            told(f"window {min(start + self.batch, len(self._windows))} of {len(self._windows)}")
        nll, kl, same = (np.concatenate(arrays, 1) for arrays in zip(*parts, strict=True))
        if not (np.isfinite(nll).all() and np.isfinite(kl).all()):
            raise CheckFailed("score.not_finite", "the model's logits are not finite numbers")
        return [Losses(*arrays) for arrays in zip(nll, kl, same, strict=True)]

    def _batch_at(self, start: int) -> tuple[np.ndarray, int]:
        """A full batch of windows, the last repeated where there are too few, and how many."""
        found = self._windows[start : start + self.batch]
        lacking = self.batch - len(found)
        return np.concatenate([found, np.repeat(found[-1:], lacking, 0)]), len(found)

    def alone(self) -> np.ndarray:
        """The choices in which one linear is quantized."""
        return np.eye(len(self.names), dtype=np.float32)

    def without(self) -> np.ndarray:
        """The choices in which all linears but one are quantized."""
        return 1 - self.alone()

    # ------------------------------------------------------------------------ predicted
    def predict(self, *, draws: int = DRAWS, seed: int = 0) -> Predicted:
        """The predictions for every linear, from backward passes through the whole model."""
        program = quantize_chosen(
            trace(self._forward, self._params, self._tokens(1)), self._rules, smooth=True
        )
        zeros = jnp.zeros(len(self.names), jnp.float32)
        ones = jnp.ones(len(self.names), jnp.float32)

        def drawn(choice: Any, params: Any, tokens: Any, key: Any) -> Any:
            logprobs = _logprobs(program(params, tokens, choice))
            labels = jax.random.categorical(key, jax.lax.stop_gradient(logprobs))
            return jnp.take_along_axis(logprobs, labels[..., None], -1).sum()

        def price(choice: Any, params: Any, tokens: Any) -> Any:
            reference = jax.lax.stop_gradient(_logprobs(program(params, tokens, zeros)))
            return _kl(_logprobs(program(params, tokens, choice)), reference).sum()

        fisher, slope = jax.jit(jax.grad(drawn)), jax.jit(jax.grad(price))
        alone, kept = np.zeros((2, len(self.names)))
        keys = jax.random.split(jax.random.key(seed), (len(self._windows), draws))
        for window, own in zip(self._windows, keys, strict=True):
            args = (self._params, window[None])
            kept += np.asarray(slope(ones, *args), np.float64)
            for key in own:
                at_float = np.asarray(fisher(zeros, *args, key), np.float64)
                at_quantized = np.asarray(fisher(ones, *args, key), np.float64)
                alone += at_float**2 / (2 * draws)
                kept -= at_quantized**2 / (2 * draws)
        tokens = len(self._windows) * (self._windows.shape[1] - 1)
        return Predicted(alone / tokens, kept / tokens)


def _logprobs(logits: Any) -> Any:
    """Of each position that predicts a token of the window: float32 [batch, length - 1, V]."""
    return jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))


def _kl(found: Any, reference: Any) -> Any:
    return jnp.sum(jnp.exp(reference) * (reference - found), -1)


def _losses(found: Any, reference: Any, tokens: Any) -> tuple[Any, Any, Any]:
    nll = -jnp.take_along_axis(found, tokens[:, 1:, None], -1)[..., 0]
    kl = _kl(found, reference)
    same = (jnp.argmax(found, -1) == jnp.argmax(reference, -1)).astype(jnp.float32)
    return nll, kl, same
