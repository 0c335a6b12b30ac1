"""Times the ternary product in both layouts against what the machine can do at most.

The library's own entry is called on plain arrays: no XLA, no Python inside what is timed.
Weights stream from memory: each call takes the next matrix of a pool larger than 256 MiB, in
pages of 4 KiB or of 2 MiB (madvise). Every round times each variant once, and beside them the
limits: reading such a pool (the best of one and four streams), and VPDPBUSD on registers alone.
Figures are medians over rounds. One thread is timed by what it ran, so that other work takes only
caches and memory from it; more threads by the clock on the wall, which wants a quiet machine.

    nice -n -10 python benchmarks/ternary_product.py [--rounds 40] [--onnxruntime] [--output FILE]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from ternary_matmul import SHAPES, huge_buffer, machine

from bitnet_jax.ops.native.library import library
from bitnet_jax.ops.native.selftest import LAYOUT_IDS, SCALE_KINDS
from bitnet_jax.quant.layouts import layout_of

POOL = 288 << 20
TOKENS = (1, 8, 64, 512)
LAYOUTS = {"2 bits": "t2.16x16", "1.6 bits": "t1.16x20"}
CHAIN = 8  # products of few tokens in one measurement
READS = ((1, 8192), (4, 2048))  # (streams, bytes fetched ahead)


def clock_for(threads: int):
    """The clock that a product on so many threads is timed by."""
    return time.thread_time if threads == 1 else time.perf_counter


class Limits:
    """The probes of limits.cc, compiled here."""

    def __init__(self, folder: Path, threads: int):
        path = folder / "limits.so"
        source = Path(__file__).with_name("limits.cc")
        command = ["c++", "-std=c++17", "-O3", "-shared", "-fPIC", "-pthread"]
        subprocess.run([*command, str(source), "-o", str(path)], check=True)
        self._probes = ctypes.CDLL(str(path))
        for probe in (self._probes.read_seconds, self._probes.multiply_seconds):
            probe.restype = ctypes.c_double
        self._threads = ctypes.c_int64(threads)

    def read(self, pool: np.ndarray) -> float:
        """Bytes a second."""
        return pool.nbytes / min(
            self._probes.read_seconds(
                ctypes.c_void_p(pool.ctypes.data), ctypes.c_int64(pool.nbytes), self._threads,
                ctypes.c_int64(streams), ctypes.c_int64(ahead),
            )
            for streams, ahead in READS
        )  # fmt: skip

    def multiply(self) -> float:
        """Operations a second; a product and a sum are two."""
        rounds = 100_000
        seconds = self._probes.multiply_seconds(ctypes.c_int64(rounds), self._threads)
        return 2 * 64 * 12 * rounds * self._threads.value / seconds


def small_pages(size: int) -> np.ndarray:
    """Bytes in pages of 4 KiB: numpy by itself asks for huge ones."""
    region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    region.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(region, np.uint8)


def huge_share() -> float:
    """How much of this process's memory lies in pages of 2 MiB."""
    fields = dict(
        line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    )
    return int(fields["AnonHugePages"].split()[0]) / int(fields["Rss"].split()[0])


def pools(rng: np.random.Generator) -> dict[tuple[str, str], np.ndarray]:
    """By layout and page size: random legal codes (their values do not change the time)."""
    made = {}
    for name in LAYOUTS:
        if name == "2 bits":
            low = rng.integers(0, 2, POOL // 64, np.uint8) * np.uint8(0x55)
            block = low | (np.uint8(0xAA) & ~(low << 1) & rng.integers(0, 256, low.size, np.uint8))
        else:
            block = rng.integers(0, 243, POOL // 64, np.uint8)
        for pages, buffer in (("2 MiB", huge_buffer(POOL)), ("4 KiB", small_pages(POOL))):
            buffer.reshape(64, -1)[...] = block
            made[name, pages] = buffer
    return made


class Product:
    """One shape, layout and number of tokens, on the next matrices of a pool at each call."""

    def __init__(self, pool, layout: str, out: int, inputs: int, tokens: int, threads: int):
        self._clock = clock_for(threads)
        shape = layout_of(layout).shape(out, inputs)
        self.bytes = int(np.prod(shape))
        self._base, self._count, self._next = pool.ctypes.data, POOL // self.bytes, 0
        self._calls = CHAIN if tokens <= 8 else 1
        x = np.random.default_rng(0).standard_normal((tokens, inputs), np.float32)
        y, scale = np.empty((tokens, out), np.float32), np.float32([0.02])
        sizes = (1, tokens, out, inputs, SCALE_KINDS["tensor"], 0, 0, 0, LAYOUT_IDS[layout])
        found = library()
        self._run = found.handle.bitnet_run
        isa = found.isa_id(found.usable_isas[0])
        self._head = (ctypes.c_int64(isa), ctypes.c_int64(threads), (ctypes.c_int64 * 9)(*sizes))
        self._ends = tuple(ctypes.c_void_p(array.ctypes.data) for array in (x, scale, y))
        self._keep = (pool, x, scale, y)

    def seconds(self) -> float:
        x, scale, y = self._ends
        started = self._clock()
        for _ in range(self._calls):
            codes = ctypes.c_void_p(self._base + self._next * self.bytes)
            if self._run(*self._head, x, codes, scale, y):
                raise RuntimeError("the kernel failed")
            self._next = (self._next + 1) % self._count
        return (self._clock() - started) / self._calls


class OnnxRuntime:
    """MatMulNBits with 2 bits, groups of 128 and int8 activations (accuracy level 4)."""

    def __init__(self, folder: Path, out: int, inputs: int, threads: int):
        import onnx
        import onnxruntime as ort
        from onnx import TensorProto, helper

        self.bytes, self._clock = out * inputs // 4, clock_for(threads)
        self._count = POOL // self.bytes
        rng = np.random.default_rng(0)
        nodes, weights, outputs = [], [], []
        for i in range(self._count):
            codes = rng.integers(0, 256, (out, inputs // 128, 32), np.uint8)
            scales = np.full(out * inputs // 128, 0.02, np.float32)
            weights += [
                onnx.numpy_helper.from_array(codes, f"b{i}"),
                onnx.numpy_helper.from_array(scales, f"s{i}"),
            ]
            nodes.append(
                helper.make_node(
                    "MatMulNBits", ["x", f"b{i}", f"s{i}"], [f"y{i}"], domain="com.microsoft",
                    K=inputs, N=out, bits=2, block_size=128, accuracy_level=4,
                )
            )  # fmt: skip
            outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [1, out]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inputs])
        graph = helper.make_graph(nodes, "products", [x], outputs, weights)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        path = folder / "products.onnx"
        path.write_bytes(model.SerializeToString())
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._x = {"x": rng.standard_normal((1, inputs), np.float32)}

    def seconds(self) -> float:
        """Of one product; a call makes as many as fill the pool."""
        started = self._clock()
        self._session.run(None, self._x)
        return (self._clock() - started) / self._count


def commit() -> str:
    """The commit that was measured, with a mark where the tree differs from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def summary(values: list[float]) -> dict[str, float]:
    """Median, quartiles and the fastest tenth."""
    ordered = sorted(values)
    low, _, high = statistics.quantiles(ordered)
    return {
        "median": statistics.median(ordered),
        "quartiles": [low, high],
        "fastest_tenth": ordered[len(ordered) // 10],
    }


def measure(args, folder: Path) -> dict:
    limits = Limits(folder, args.threads)
    made = pools(np.random.default_rng(0))
    variants: dict[tuple, Product | OnnxRuntime] = {
        (out, inputs, tokens, name, pages): Product(
            pool, LAYOUTS[name], out, inputs, tokens, args.threads
        )
        for out, inputs in SHAPES
        for tokens in TOKENS
        for (name, pages), pool in made.items()
        if pages == "2 MiB" or tokens == 1
    }
    if args.onnxruntime:
        out, inputs = 6912, 2560
        variants[out, inputs, 1, "onnxruntime, 2 bits", "own"] = OnnxRuntime(
            folder, out, inputs, args.threads
        )
    seconds: dict[tuple, list[float]] = {key: [] for key in variants}
    reads: dict[str, list[float]] = {"4 KiB": [], "2 MiB": []}
    peaks: list[float] = []
    for index in range(args.rounds):
        peaks.append(limits.multiply())
        for pages, found in reads.items():
            if index < 12:  # a pool takes a while to read
                found.append(limits.read(made["2 bits", pages]))
        for key, variant in variants.items():
            seconds[key] += [variant.seconds() for _ in range(4 if key[2] <= 8 else 1)]
    read = {pages: summary([-value for value in found]) for pages, found in reads.items()}
    peak = summary([-value for value in peaks])
    rows = []
    for (out, inputs, tokens, name, pages), values in seconds.items():
        found, size = summary(values), variants[out, inputs, tokens, name, pages].bytes
        bandwidth = read.get(pages, read["2 MiB"])
        operations = 2 * tokens * out * inputs
        row = {"out": out, "in": inputs, "tokens": tokens, "variant": name, "pages": pages}
        for which in ("median", "fastest_tenth"):
            row[which] = {
                "microseconds": round(found[which] * 1e6, 1),
                "gigabytes_per_second": round(size / found[which] / 1e9, 2),
                "share_of_read": round(size / found[which] / -bandwidth[which], 3),
                "gigaoperations_per_second": round(operations / found[which] / 1e9, 1),
                "share_of_peak": round(operations / found[which] / -peak[which], 3),
            }
        rows.append(row | {"measurements": len(values)})
    return {
        "share_of_memory_in_huge_pages": round(huge_share(), 2),
        "read_gigabytes_per_second": {
            pages: {k: round(-found[k] / 1e9, 2) for k in ("median", "fastest_tenth")}
            for pages, found in read.items()
        },
        "peak_gigaoperations_per_second": {
            k: round(-peak[k] / 1e9, 1) for k in ("median", "fastest_tenth")
        },
        "results": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--onnxruntime", action="store_true", help="time its MatMulNBits too")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = measure(args, Path(folder))
    print("in huge pages", record["share_of_memory_in_huge_pages"])
    print("read GB/s", record["read_gigabytes_per_second"])
    print("peak GOP/s", record["peak_gigaoperations_per_second"])
    head = f"{'out x in':>12} {'M':>4} {'variant':<20} {'pages':<6}"
    print(head + f"{'us':>9} {'GB/s':>6} {'read':>5} {'GOP/s':>7} {'peak':>5}   fastest tenth")
    for row in record["results"]:
        cells = [
            f"{v['microseconds']:>9} {v['gigabytes_per_second']:>6} {v['share_of_read']:>5.0%} "
            f"{v['gigaoperations_per_second']:>7} {v['share_of_peak']:>5.0%}"
            for v in (row["median"], row["fastest_tenth"])
        ]
        print(
            f"{row['out']:>6}x{row['in']:<5} {row['tokens']:>4} {row['variant']:<20} "
            f"{row['pages']:<6}" + " ".join(cells)
        )
    if args.output:
        text = {
            "schema": "bitnet/1",
            "benchmark": "ternary_product",
            "method": " ".join(__doc__.split("\n\n")[1].split()),
            "threads": args.threads,
            "pool_bytes": POOL,
            "machine": machine(),
            "commit": commit(),
            **record,
        }
        args.output.write_text(json.dumps(text, indent=2) + "\n")


if __name__ == "__main__":
    main()
