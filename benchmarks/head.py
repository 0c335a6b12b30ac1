"""Times the head of the 2B4T shape (128256 x 2560): integer and float weights, C++ and XLA.

Each round takes every variant once, and reads the bytes of its weights once with numpy on as
many threads: `share` is the median over rounds of that time by the product's. The weights
are larger than any cache, and lie in 2 MiB pages where the system gives them.

    nice -n -10 python benchmarks/head.py [--rounds 15] [--output results/head.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from ternary_matmul import huge_buffer, machine

from bitnet_jax.core.system import usable_cores
from bitnet_jax.ops.dense_matmul import dense_matmul
from bitnet_jax.ops.integer_matmul import integer_matmul
from bitnet_jax.quant.kinds import KINDS
from bitnet_jax.quant.layouts import LAYOUT_OF, pack_codes
from bitnet_jax.quant.tensor import QuantTensor

OUT, IN = 128_256, 2560
TOKENS = (1, 8, 64, 512)
# Rows made at random; the others repeat them.
OWN_ROWS = 512
# Of what takes seconds, a few rounds say enough.
FEW_ROUNDS, FEW = 3, ("xla", "reference")


def repeated(rows: np.ndarray) -> np.ndarray:
    """`rows` [OWN_ROWS, ...] again and again, OUT of them, in huge pages."""
    size = OUT * rows[0].nbytes
    whole = huge_buffer(size).view(rows.dtype).reshape(OUT, *rows.shape[1:])
    for at in range(0, OUT, OWN_ROWS):
        whole[at : at + OWN_ROWS] = rows[: OUT - at]
    return whole


def integers(rng, kind: str) -> tuple[np.ndarray, QuantTensor]:
    high = KINDS[kind].high
    codes = rng.integers(-high, high + 1, (OWN_ROWS, IN)).astype(np.int8)
    packed = repeated(pack_codes(codes, LAYOUT_OF[kind]))
    weights = QuantTensor(
        codes=jax.device_put(packed),
        scale=jax.device_put(np.full(OUT, 0.01, np.float32)),
        shape=(OUT, IN),
        dtype="float32",
        stack_axes=(),
        out_axes=(0,),
        in_axes=(1,),
        kind=kind,
        layout=LAYOUT_OF[kind],
        scale_kind="row",
    )
    return packed, weights


def floats(rng, dtype: Any) -> tuple[np.ndarray, jax.Array]:
    weights = repeated(rng.standard_normal((OWN_ROWS, IN), np.float32).astype(dtype))
    return weights, jax.device_put(weights)


# name -> (bytes that a product reads, weights), the op, and its implementations
WEIGHTS: dict[str, tuple[Callable, Callable, tuple[str, ...]]] = {
    "int8": (lambda rng: integers(rng, "int8"), integer_matmul, ("native", "xla")),
    "int6": (lambda rng: integers(rng, "int6"), integer_matmul, ("native", "xla")),
    "int4": (lambda rng: integers(rng, "int4"), integer_matmul, ("native", "xla")),
    "bfloat16": (lambda rng: floats(rng, ml_dtypes.bfloat16), dense_matmul, ("native",)),
    "float32": (lambda rng: floats(rng, np.float32), dense_matmul, ("native", "reference")),
}


def reader(held: np.ndarray, pool: ThreadPoolExecutor, threads: int) -> Callable[[], None]:
    words = held.reshape(-1).view(np.uint64)
    parts = np.array_split(words, threads)
    return lambda: list(pool.map(np.bitwise_xor.reduce, parts)) and None


def seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - started


def measure(name: str, rounds: int, threads: int) -> list[dict]:
    rng = np.random.default_rng(0)
    make, op, implementations = WEIGHTS[name]
    held, weights = make(rng)
    calls = {}
    for tokens in TOKENS:
        x = jax.device_put(rng.standard_normal((tokens, IN), np.float32))
        for form in implementations:
            product = jax.jit(lambda x, w, form=form: op(x, w, implementation=form))
            calls[tokens, form] = lambda product=product, x=x: product(x, weights)
    times: dict[tuple, list[float]] = {key: [] for key in calls}
    shares: dict[tuple, list[float]] = {key: [] for key in calls}
    reads = []
    with ThreadPoolExecutor(threads) as pool:
        read = reader(held, pool, threads)
        for call in calls.values():
            jax.block_until_ready(call())
        for index in range(rounds):
            for key, call in calls.items():
                if index >= FEW_ROUNDS and (key[1] in FEW or key[0] == TOKENS[-1]):
                    continue
                reads.append(seconds(read))
                times[key].append(seconds(call))
                shares[key].append(reads[-1] / times[key][-1])
    return [
        {
            "weights": name,
            "tokens": tokens,
            "form": form,
            "milliseconds": round(statistics.median(taken) * 1e3, 2),
            "best": round(min(taken) * 1e3, 2),
            "gigabytes_per_second": round(held.nbytes / statistics.median(taken) / 1e9, 2),
            "read_gigabytes_per_second": round(held.nbytes / statistics.median(reads) / 1e9, 2),
            "read_best": round(held.nbytes / min(reads) / 1e9, 2),
            "share": round(statistics.median(shares[tokens, form]), 3),
            "gigaops_per_second": round(2 * tokens * OUT * IN / min(taken) / 1e9),
            "rounds": len(taken),
        }
        for (tokens, form), taken in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    threads = usable_cores() or 1
    rows = []
    print(f"{'weights':<9} {'tokens':>6} {'form':<9} {'ms':>8} {'best':>8} {'GB/s':>6} {'read':>6}")
    for name in args.weights:
        for row in measure(name, args.rounds, threads):
            rows.append(row)
            print(
                f"{name:<9} {row['tokens']:>6} {row['form']:<9} {row['milliseconds']:>8} "
                f"{row['best']:>8} {row['gigabytes_per_second']:>6} "
                f"{row['read_gigabytes_per_second']:>6}  share {row['share']}, "
                f"{row['gigaops_per_second']} GOP/s",
                flush=True,
            )
    if args.output:
        record = {
            "schema": "bitnet/1",
            "benchmark": "head",
            "method": " ".join(__doc__.split("\n\n")[1].split()),
            "threads": threads,
            "machine": machine(),
            "results": rows,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
