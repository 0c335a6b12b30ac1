"""Fixed-length windows of a token stream, in an order that a checkpoint can hold.

A `DataState` is three integers; the batch that follows it is a pure function of
the tokens and of them. Also the yardstick of a training run: the unigram entropy
of the very tokens its held-out loss is measured on. Knows nothing of text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bitnet_jax.core.errors import BadData


@dataclass(frozen=True)
class DataState:
    """Where the next batch starts: `position` windows into pass number `epoch`."""

    seed: int
    epoch: int = 0
    position: int = 0


@dataclass(frozen=True)
class Windows:
    """Every pass cuts `tokens` anew into windows of `length` + 1 and shuffles them.

    Window k of a pass is ``tokens[o + k*length : o + (k+1)*length + 1]``, where the
    offset o < length is drawn per pass; so each token is a target once a pass (less
    the ends), and the next pass sees it in another context.
    """

    tokens: np.ndarray
    length: int

    def __post_init__(self):
        # 2 * length: with any offset at least one window remains.
        if len(self.tokens) < 2 * self.length + 1:
            raise BadData(
                "train.data_too_small",
                f"{len(self.tokens)} tokens do not fill windows of {self.length} + 1 tokens",
                "give more text, or a smaller sequence length",
            )

    def order(self, state: DataState) -> np.ndarray:
        """Returns the start of each window of the state's pass, in the order they are read."""
        random = np.random.Generator(np.random.Philox(key=[state.seed, state.epoch]))
        offset = int(random.integers(self.length))
        count = (len(self.tokens) - 1 - offset) // self.length
        return offset + self.length * random.permutation(count)

    def next_batch(self, state: DataState, batch: int) -> tuple[np.ndarray, DataState]:
        """Returns int32 [batch, length + 1] and the state after it.

        A batch may straddle two passes, so no window is ever dropped.
        """
        starts: list[int] = []
        while len(starts) < batch:
            order = self.order(state)
            taken = order[state.position : state.position + batch - len(starts)]
            starts.extend(taken.tolist())
            position = state.position + len(taken)
            state = replace(state, position=position)
            if position >= len(order):
                state = replace(state, epoch=state.epoch + 1, position=0)
        index = np.asarray(starts)[:, None] + np.arange(self.length + 1)
        return self.tokens[index].astype(np.int32), state


def heldout_windows(tokens: np.ndarray, length: int, count: int) -> np.ndarray:
    """Returns int32 [n, length + 1], n <= count: windows spread evenly over `tokens`.

    Raises:
      BadData: not even one window fits.
    """
    available = (len(tokens) - 1) // length
    if available < 1:
        raise BadData(
            "train.heldout_too_small",
            f"{len(tokens)} held-out tokens do not fill one window of {length} + 1",
            "give more text, or a smaller sequence length",
        )
    picked = np.unique(np.linspace(0, available - 1, min(count, available)).astype(np.int64))
    return tokens[picked[:, None] * length + np.arange(length + 1)].astype(np.int32)


def unigram_entropy(targets: np.ndarray) -> float:
    """Returns the entropy in nats of the tokens' own distribution.

    No model that ignores context can have a lower loss on these very tokens.
    """
    counts = np.unique(np.asarray(targets).ravel(), return_counts=True)[1]
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum())


def unigram_cross_entropy(train: np.ndarray, targets: np.ndarray, vocab_size: int) -> float:
    """Returns the loss in nats on `targets` of the unigram model of `train` (add-one)."""
    counts = np.bincount(np.asarray(train).ravel(), minlength=vocab_size) + 1.0
    return float(-np.log(counts / counts.sum())[np.asarray(targets).ravel()].mean())
