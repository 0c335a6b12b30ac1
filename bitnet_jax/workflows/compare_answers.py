"""What two models answer to the same text: by token where their tokens are one, else by byte.

One model is in memory at a time, the logits of the first stay. Looks at no weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bitnet_jax.analysis.differences import words
from bitnet_jax.bench.progress import task
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.runtime.model import Model
from bitnet_jax.runtime.score import score, token_logprobs
from bitnet_jax.runtime.tokenizer import Tokenizer
from bitnet_jax.stats.means import mean_interval
from bitnet_jax.workflows.compare_weights import Pair, not_compared
from bitnet_jax.workflows.measured_text import Windows, read_characters, read_windows
from bitnet_jax.workflows.model_pair import exp, kl_of
from bitnet_jax.workflows.parity import compare_parts

# Characters that are read where tokens differ.
CHARACTERS = 4000
_WINDOW = 128
_ROWS = 64  # positions turned into probabilities at a time


def compare_answers(
    pair: Pair,
    text: Any,
    tokens: int,
    missing: list[dict[str, str]],
    progress: Any,
) -> dict[str, Any]:
    """KL, first choices and perplexity on the same tokens; bits per byte where they are not.

    Args:
      text, tokens: as `compare` takes them.
      missing: what could not be compared is added to it.
    """
    why = _other_tokens(pair)
    if why is None:
        return _same_tokens(pair, text, tokens, missing, progress)
    for what in ("KL", "top-1 agreement", "perplexity"):
        not_compared(missing, what, why)
    return _by_bytes(pair, text, missing, progress)


def _other_tokens(pair: Pair) -> str | None:
    """Why the same token ids mean something else to the two; None where they do not."""
    one, two = pair
    if one.spec.vocab_size != two.spec.vocab_size:
        sizes = f"{one.spec.vocab_size} and {two.spec.vocab_size}"
        return f"their vocabularies differ in size ({sizes}): a token of one is none of the other"
    files = [model.tokenizer for model in pair]
    if files[0] is None or files[1] is None or files[0].tokenizer_json == files[1].tokenizer_json:
        return None
    if any(item.part == "tokenizer" and item.name.startswith("model.") for item in words(*pair)):
        return "their tokenizers differ: the same text becomes other tokens"
    return None


def _same_tokens(
    pair: Pair, text: Any, tokens: int, missing: list[dict[str, str]], progress: Any
) -> dict[str, Any]:
    reader = pair[0] if pair[0].tokenizer is not None else pair[1]
    shortest = min(model.spec.max_positions for model in pair)
    if reader.tokenizer is None and text is None:
        not_compared(
            missing, "perplexity", "neither model holds a tokenizer: both ran on made-up tokens"
        )
        length = min(_WINDOW, shortest)
        drawn = np.random.default_rng(0).integers(0, reader.spec.vocab_size, (2, length))
        windows = Windows(drawn.astype(np.int32), "tokens drawn at random")
    else:
        length = min(_WINDOW, shortest)
        windows = read_windows(reader, text, tokens=tokens, length=length)
    kl: list[np.ndarray] = []
    same: list[np.ndarray] = []
    costs: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    with task(progress, "running both models", 2 * len(windows.tokens), "windows") as told:
        # The first model is let go with its iterator, before the second is read.
        firsts = list(_logits(pair[0], windows.tokens, told))

        def both() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            # One window's at a time of the second: all logits of both would be twice as much.
            seconds = _logits(pair[1], windows.tokens, told)
            for row, first, second in zip(windows.tokens, firsts, seconds, strict=True):
                kl.append(_kl(first, second))
                same.append((first.argmax(-1) == second.argmax(-1)).astype(float))
                for cost, logits in zip(costs, (first, second), strict=True):
                    cost.append(_cost(logits, row))
                yield first, second

        parity = compare_parts(both())
    found: dict[str, Any] = {"text": windows.to_json()}
    found["kl"] = mean_interval(kl).to_json()
    found["top1_agreement"] = mean_interval(same).to_json()
    found["max_logit_difference"] = parity.max_logit_difference
    found["median_logit_difference"] = parity.median_logit_difference
    if not any(row["what"] == "perplexity" for row in missing):
        losses = [mean_interval(cost) for cost in costs]
        found["perplexity"] = [loss.through(exp).to_json() for loss in losses]
        change = [two - one for one, two in zip(*costs, strict=True)]
        found["perplexity_ratio"] = mean_interval(change).through(exp).to_json()
    return found


def _cost(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """-log p of each token of a window after the first, nats."""
    return -token_logprobs(logits[:-1], tokens[1:])


def _logits(
    model: Checkpoint, windows: np.ndarray, told: Callable[[], Any]
) -> Iterator[np.ndarray]:
    """Logits of each window, [length, vocab]."""
    run = Model(model).logits
    for row in windows:
        yield run(row[None])[0]
        told()


def _kl(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """As `kl_of`, in float64: two formats of one model may be that close."""
    cut = range(_ROWS, len(one), _ROWS)
    parts = zip(np.split(one, cut), np.split(two, cut), strict=True)
    return np.concatenate([kl_of(p.astype(np.float64), q.astype(np.float64)) for p, q in parts])


def _by_bytes(
    pair: Pair, text: Any, missing: list[dict[str, str]], progress: Any
) -> dict[str, Any]:
    """Bits that each byte of a text costs each model, whatever its tokens are."""
    characters = read_characters(text, CHARACTERS)
    size = len(characters.encode())
    bits: list[float | None] = []
    with task(progress, "running both models", 2, "models") as told:
        for number, model in enumerate(pair):
            if model.tokenizer is None:
                which = ("first", "second")[number]
                not_compared(missing, "bits per byte", f"the {which} model holds no tokenizer")
                bits.append(None)
                continue
            ids = Tokenizer.from_files(model.tokenizer).encode(characters)
            length = min(_WINDOW, model.spec.max_positions, max(len(ids), 2))
            found = score(Model(model).logits, [ids], length=length, overlap=max(length // 4, 1))
            bits.append(found.nll / math.log(2) / size)
            told()
    return {"text": {"bytes": size, "source": str(text or "built in")}, "bits_per_byte": bits}
