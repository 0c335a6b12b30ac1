"""Times one-token products: packed ternary (C++ and XLA forms) against float32 `x @ W`.

Weights stream from memory: each timed call runs a chain of products over different
matrices, and the matrices together are larger than the last-level cache. A product's
input depends on the one before, so nothing overlaps. The variants take turns within
every round, and the figure is the median over rounds: the machine's drift hits all alike.

    python benchmarks/ternary_matmul.py [--rounds 40] [--output results/ternary_matmul.json]
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.ops.native.library import status
from bitnet_jax.ops.ternary_matmul import ternary_matmul
from bitnet_jax.quant.packing import codes_shape
from bitnet_jax.quant.tensor import QuantTensor

SHAPES = ((2560, 2560), (6912, 2560), (2560, 6912))  # [out, in]
PACKED_BYTES = 288 << 20
FLOAT_BYTES = 640 << 20
CHAIN = 8  # products in one jitted call, so that Python's dispatch does not count
HUGE = 2 << 20


def huge_buffer(size: int) -> np.ndarray:
    """Bytes at a 2 MiB boundary, in 2 MiB pages where the system gives them."""
    # Private: the shared memory that mmap gives by itself gets no huge pages.
    region = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    region.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(region, np.uint8)
    start = -whole.ctypes.data % HUGE
    return whole[start : start + size]


def packed_weights(rng, out: int, inputs: int, *, huge: bool) -> list[QuantTensor]:
    shape = codes_shape(out, inputs)
    size = int(np.prod(shape))
    count = -(-PACKED_BYTES // size // CHAIN) * CHAIN
    buffer = huge_buffer(count * size) if huge else None
    weights = []
    for index in range(count):
        low = rng.integers(0, 2, shape, np.uint8) * np.uint8(0x55)  # codes 0 and 1 ...
        codes = low | (np.uint8(0xAA) & ~(low << 1) & rng.integers(0, 256, shape, np.uint8))
        if buffer is not None:
            place = buffer[index * size : (index + 1) * size].reshape(shape)
            place[...] = codes
            codes = place
        weights.append(
            QuantTensor(
                codes=jax.device_put(codes),
                scale=jax.device_put(np.float32(0.02)),
                shape=(out, inputs),
                dtype="float32",
                stack_axes=(),
                out_axes=(0,),
                in_axes=(1,),
            )
        )
    return weights


def float_weights(rng, out: int, inputs: int, *, huge: bool) -> list[jax.Array]:
    size = out * inputs * 4
    count = -(-FLOAT_BYTES // size // CHAIN) * CHAIN
    buffer = huge_buffer(count * size) if huge else np.empty(count * size, np.uint8)
    values = rng.standard_normal((inputs, out), np.float32)
    weights = []
    for index in range(count):
        place = buffer[index * size : (index + 1) * size].view(np.float32).reshape(inputs, out)
        place[...] = values
        weights.append(jax.device_put(place))
    return weights


def chained(product):
    """A jitted chain of `product`s over CHAIN weights, each waiting for the one before."""

    @jax.jit
    def run(x, weights):
        y = product(x, weights[0])
        for w in weights[1:]:
            y = product(x + y[:, :1] * np.float32(1e-30), w)
        return y

    return run


def variants(rng, out: int, inputs: int) -> dict:
    def with_weights(product, weights):
        groups = [weights[i : i + CHAIN] for i in range(0, len(weights), CHAIN)]
        return chained(product), groups

    def matmul(implementation):
        return lambda x, w: ternary_matmul(x, w, implementation=implementation)

    packed = packed_weights(rng, out, inputs, huge=False)
    return {
        "float32": with_weights(jnp.matmul, float_weights(rng, out, inputs, huge=False)),
        "float32, 2 MiB pages": with_weights(
            jnp.matmul, float_weights(rng, out, inputs, huge=True)
        ),
        "xla": with_weights(matmul("xla"), packed[:CHAIN]),
        "native": with_weights(matmul("native"), packed),
        "native, 2 MiB pages": with_weights(
            matmul("native"), packed_weights(rng, out, inputs, huge=True)
        ),
    }


def measure(out: int, inputs: int, rounds: int) -> list[dict]:
    rng = np.random.default_rng(0)
    x = jax.device_put(rng.standard_normal((1, inputs), np.float32))
    table = variants(rng, out, inputs)
    for run, groups in table.values():
        run(x, groups[0]).block_until_ready()
    times: dict[str, list[float]] = {name: [] for name in table}
    for index in range(rounds):
        for name, (run, groups) in table.items():
            if name == "xla" and index >= 5:
                continue  # a hundred times slower: a few rounds say enough
            group = groups[index % len(groups)]
            started = time.perf_counter()
            run(x, group).block_until_ready()
            times[name].append((time.perf_counter() - started) / CHAIN)
    base = statistics.median(times["float32"])
    rows = []
    for name, seconds in times.items():
        median = statistics.median(seconds)
        size = out * inputs * (4 if name.startswith("float32") else 0.25)
        rows.append(
            {
                "out": out,
                "in": inputs,
                "variant": name,
                "microseconds": round(median * 1e6, 1),
                "quartiles": [round(q * 1e6, 1) for q in statistics.quantiles(seconds)[::2]],
                "gigabytes_per_second": round(size / median / 1e9, 2),
                "speedup_over_float32": round(base / median, 2),
                "rounds": len(seconds),
            }
        )
    return rows


def machine() -> dict:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "isa": status().isa,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = []
    print(f"{'out x in':>12}  {'variant':<22} {'us':>9} {'GB/s':>7} {'x float32':>9}")
    for out, inputs in SHAPES:
        for row in measure(out, inputs, args.rounds):
            rows.append(row)
            print(
                f"{out:>6}x{inputs:<5}  {row['variant']:<22} {row['microseconds']:>9} "
                f"{row['gigabytes_per_second']:>7} {row['speedup_over_float32']:>9}"
            )
    if args.output:
        record = {
            "schema": "bitnet/1",
            "benchmark": "ternary_matmul",
            "tokens": 1,
            "method": " ".join(__doc__.split("\n\n")[1].split()),
            "chain": CHAIN,
            "packed_bytes": PACKED_BYTES,
            "float_bytes": FLOAT_BYTES,
            "machine": machine(),
            "results": rows,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
