"""Times a decode step behind contexts of up to 32k tokens, the KV cache in float32 and in int8.

The cache is filled with random rows: pages that are alike may be one page to whoever runs the
machine. Contexts take turns in rounds, with a read of a large buffer in each, so that a step can
be set beside what its bytes take at least.

    python benchmarks/long_context.py model.bitnet [--rounds 7] [--output results/long_context.json]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ternary_matmul import machine

import bitnet_jax as bj
from bitnet_jax.bench.probes import bandwidth
from bitnet_jax.bench.steps import cache_bytes, read_bytes
from bitnet_jax.models.cache import KVCache
from bitnet_jax.quant.cache_rows import CACHES, stored
from bitnet_jax.runtime.engine import Engine
from bitnet_jax.stats.medians import median

CONTEXTS = (128, 1024, 4096, 16384, 32768)


def filled(engine: Engine, capacity: int) -> KVCache:
    """A cache of `capacity` random rows, no two layers alike."""
    spec, dtype = engine.spec, CACHES[engine.kv]
    shape = (1, capacity, spec.num_kv_heads, spec.head_dim)

    def rows(seed: int):
        return stored(jax.random.normal(jax.random.key(seed), shape, jnp.float32), dtype)

    layers = range(spec.num_layers)
    return KVCache(tuple(rows(2 * n) for n in layers), tuple(rows(2 * n + 1) for n in layers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    model = bj.load(args.model, head="int6")
    spec = replace(model.spec, max_positions=max(CONTEXTS))
    probe, results = bandwidth(), []
    for kv in CACHES:
        engine = Engine(spec, model.packed, kv=kv)
        capacity = max(CONTEXTS)
        held, zero = [filled(engine, capacity)], np.zeros(1, np.int32)
        step = engine.decode_executable(1, capacity)
        token = np.asarray([[7]], np.int32)

        def once(context: int, step=step, held=held, token=token, zero=zero) -> float:
            begun = time.perf_counter()
            where = np.asarray([context - 1], np.int32)
            logits, cache, _ = step(model.packed, token, held.pop(), where, zero)
            jax.block_until_ready(logits)
            held.append(cache)
            return time.perf_counter() - begun

        seconds: dict[int, list[float]] = {context: [] for context in CONTEXTS}
        speeds = []
        for _ in range(args.rounds + 1):
            speeds.append(probe.again())
            for context, values in seconds.items():
                values.append(median([once(context) for _ in range(3)]))
        weights = read_bytes(model.packed, spec, 1, 1)
        for context, values in seconds.items():
            read = cache_bytes(engine, 1, context)
            least = (weights + read) / median(speeds) / 1e9
            results.append(
                {
                    "kv": kv,
                    "context": context,
                    "milliseconds": 1e3 * median(values[1:]),
                    "weight_bytes": weights,
                    "kv_bytes": read,
                    "bandwidth_gb_s": median(speeds),
                    "share_of_bandwidth": least / median(values[1:]),
                }
            )
            row = results[-1]
            print(
                f"{kv:8} {context:6} tokens: {row['milliseconds']:7.1f} ms, "
                f"{read / 1e6:7.1f} MB of keys and values, {row['share_of_bandwidth']:.0%} of "
                f"{row['bandwidth_gb_s']:.1f} GB/s",
                flush=True,
            )
    record = {
        "what": "decode of one token behind a context, 2B4T shape, head in int6",
        "method": "benchmarks/long_context.py",
        "machine": machine(),
        "results": results,
    }
    if args.output:
        args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
