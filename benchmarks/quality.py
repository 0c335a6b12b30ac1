"""What profile `fast` costs: perplexity and divergence of heads and KV caches in fewer bits.

Trains the quickstart's model, then scores held-out text of this machine once for each way to hold
it, token by token through the KV cache as a generation reads it, all rows with the same tokens.
Differences are taken token by token, and intervals by drawing whole rows again and again.

    python benchmarks/quality.py [--minutes 2] [--rows 64] [--output results/quality.json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from ternary_matmul import machine

import bitnet_jax as bj
from bitnet_jax.runtime.score import token_logprobs
from bitnet_jax.train.data import heldout_windows
from bitnet_jax.workflows.quickstart import recipe
from bitnet_jax.workflows.train import prepare_scratch

LENGTH = 128
WAYS = (
    {},
    {"head": "int8"},
    {"head": "int6"},
    {"head": "int4"},
    {"kv": "int8"},
    {"head": "int6", "kv": "int8"},
)
DRAWS = 10_000


def every_step(model, rows: np.ndarray) -> np.ndarray:
    """Log-probabilities [rows, LENGTH, vocab], float32, of each next token."""
    engine, batch = model.engine, len(rows)
    capacity = engine.capacity(LENGTH)
    step, cache = engine.decode_executable(batch, capacity), engine.new_cache(batch, capacity)
    zero, found = np.zeros(batch, np.int32), []
    for at in range(LENGTH):
        where = np.full(batch, at, np.int32)
        logits, cache, finite = step(model.packed, rows[:, at : at + 1], cache, where, zero)
        assert bool(finite)
        logits = np.asarray(logits, np.float64)
        logits -= logits.max(-1, keepdims=True)
        found.append(np.float32(logits - np.log(np.exp(logits).sum(-1, keepdims=True))))
    return np.stack(found, axis=1)


def interval(by_row: np.ndarray) -> list[float]:
    """The 95 % interval of the mean of rows, drawn again."""
    drawn = np.random.default_rng(0).integers(0, len(by_row), (DRAWS, len(by_row)))
    return [float(x) for x in np.quantile(by_row[drawn].mean(-1), [0.025, 0.975])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trained = bj.quickstart(Path(folder) / "run", minutes=args.minutes)
        file = Path(folder) / "run" / "model.bitnet"
        heldout = prepare_scratch(recipe(args.minutes)).data.heldout
        rows = heldout_windows(heldout, LENGTH, args.rows)
        targets = rows[:, 1:]
        results, exact, exact_loss = [], None, None
        for way in WAYS:
            model = bj.load(file, **way)
            told = every_step(model, rows)
            loss = -token_logprobs(told, targets)
            if exact is None or exact_loss is None:
                exact, exact_loss = told, loss
            each = (loss - exact_loss).mean(-1)
            kl = (np.exp(np.float64(exact)) * (np.float64(exact) - told)).sum(-1).mean(-1)
            result = {
                "head": way.get("head", "as it is"),
                "kv": way.get("kv", "float32"),
                "profile": model.profile,
                "perplexity": float(np.exp(loss.mean())),
                "perplexity_ratio": float(np.exp(each.mean())),
                "perplexity_ratio_interval": [float(np.exp(x)) for x in interval(each)],
                "kl_nats": float(kl.mean()),
                "kl_interval": interval(kl),
                "same_best_token": float((told.argmax(-1) == exact.argmax(-1)).mean()),
            }
            results.append(result)
            more = [result["perplexity_ratio"], *result["perplexity_ratio_interval"]]
            ratio, low, high = (f"{100 * (value - 1):+.3f} %" for value in more)
            print(
                f"head {result['head']:9} kv {result['kv']:8} perplexity "
                f"{result['perplexity']:.3f}, {ratio} [{low}, {high}], KL "
                f"{result['kl_nats']:.2e} nats, same best token {result['same_best_token']:.2%}",
                flush=True,
            )
    record = {
        "what": "cost of heads and KV caches in fewer bits, on the quickstart's model",
        "method": "benchmarks/quality.py",
        "machine": machine(),
        "model": {"minutes": args.minutes, "parameters": trained["parameters"]},
        "tokens": int(targets.size),
        "results": results,
    }
    if args.output:
        args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
