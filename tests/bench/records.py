"""Records as `bitnet bench` makes them, small: for tests of what reads or shows them."""

from __future__ import annotations

import copy
from typing import Any

MACHINE = {
    "processor": "Test CPU",
    "architecture": "x86_64",
    "cores": 2,
    "platform": "cpu",
    "device": "cpu",
    "devices": 1,
    "instruction_set": "avx2",
    "load_average": 0.2,
    "versions": {"bitnet-jax": "0.1.0"},
}
# Eight values around one, for the repetitions of a row.
SPREAD = (0.98, 1.0, 1.01, 0.99, 1.02, 1.0, 0.99, 1.01)


def result(phase: str, batch: int, speed: float) -> dict[str, Any]:
    values = [speed * one for one in SPREAD]
    prefill = phase == "prefill"
    return {
        "phase": phase,
        "batch": batch,
        "tokens": 512 if prefill else 64,
        "tokens_per_second": {
            "median": speed,
            "low": 0.99 * speed,
            "high": 1.01 * speed,
            "count": len(values),
            "values": values,
        },
        "bytes_per_token": 1e6,
        "bandwidth_share": 0.1 if prefill else 0.8,
        "int8_tops": 0.4,
        "int8_share": 0.5 if prefill else 0.01,
        "joules_per_token": None,
        "kernel": "native (avx2)",
    }


def run_record(speed: float = 20.0, gb_s: float = 30.0, tops: float = 1.0) -> dict[str, Any]:
    """The record of `bench run` at batches 1 and 4."""
    results = [result("prefill", 1, 10 * speed), result("prefill", 4, 11 * speed)]
    results += [result("decode", 1, speed), result("decode", 4, 3 * speed)]
    program = {
        "phase": "decode",
        "batch": 1,
        "kernel": "native (avx2)",
        "kernel_calls": 14,
        "weight_bytes": 1000,
        "float_bytes": 2000,
        "temp_bytes": 500,
        "largest_buffer_bytes": 100,
        "compile_seconds": 1.5,
        "hlo_sha256": "ab" * 32,
        "unpacked_weights": [],
    }
    return copy.deepcopy(
        {
            "schema": "bench-run/1",
            "model": "model.bitnet",
            "architecture": {"family": "bitnet", "hidden_size": 64},
            "machine": MACHINE,
            "settings": {"device": "cpu", "prompt_tokens": 512, "batch_sizes": [1, 4]},
            "profile": "exact",
            "bandwidth_gb_s": gb_s,
            "bandwidth": {
                "gb_s": gb_s,
                "values": [gb_s * one for one in SPREAD],
                "tried": [{"threads": 2, "pages": "small", "gb_s": gb_s}],
            },
            "int8_peak_tops": tops,
            "int8_peak": {"form": "avx2", "values": [tops * one for one in SPREAD]},
            "results": results,
            "roofline": {
                "points": [
                    {"name": "decode, batch 1", "operations_per_byte": 1.5, "tops": 0.04},
                    {"name": "prefill, batch 1", "operations_per_byte": 500.0, "tops": 0.4},
                ],
                "operations_per_byte": [1.0, 33.0, 500.0],
                "limit_tops": [0.03, 1.0, 1.0],
            },
            "consistency": {"tokens": [192, 64], "ratio": 1.01, "agrees": True},
            "energy": {"read": False, "counters": "no RAPL counters"},
            "memory": {"resident_bytes": 10, "peak_bytes": 20, "available_bytes": 30},
            "receipt": {**program, "unpacked_weights": 0, "programs": [program]},
        }
    )


def compare_record() -> dict[str, Any]:
    """The record of `bench compare` of two models at batch 1."""
    names = ["a.bitnet (bitnet-jax)", "b.gguf (llama.cpp)"]
    contestants = [
        {
            "name": name,
            "model": name.partition(" ")[0],
            "runtime": name.partition("(")[2].strip(")"),
            "file_bytes": 900,
            "version": "1.0",
            "kernel": "native",
            "weight_bytes": 800,
            "positions": 256,
            "peak_bytes": 5000,
        }
        for name in names
    ]
    results = [
        {
            "name": name,
            "phase": phase,
            "batch": 1,
            "tokens": 32,
            "tokens_per_second": {"median": speed, "low": 0.9 * speed, "high": 1.1 * speed},
            "latency_seconds": {"median": 1 / speed, "low": 0.9 / speed, "high": 1.1 / speed},
            "speedup": speed / 40.0,
            "speedup_interval": [speed / 41.0, speed / 39.0],
            "differs": speed != 40.0,
            "rounds": 6,
        }
        for phase in ("prefill", "decode")
        for name, speed in zip(names, (40.0, 10.0), strict=True)
    ]
    return {
        "schema": "bench-compare/1",
        "machine": copy.deepcopy(MACHINE),
        "settings": {"threads": 2, "batch_sizes": [1]},
        "contestants": contestants,
        "results": results,
    }


def validate_record() -> dict[str, Any]:
    """The record of `bench validate` with one check that did not hold."""
    tried = [{"threads": 2, "pages": "small", "gb_s": 30.0}]
    row = {"passed": True, "code": "", "fix": None, "message": "30 GB/s", "seconds": 2.5}
    failed = {"passed": False, "code": "bench.memory", "fix": "end what else runs"}
    return {
        "schema": "bench-validate/1",
        "passed": False,
        "failed": ["memory"],
        "skipped": [],
        "budget_seconds": 3.0,
        "seconds": 2.75,
        "checks": [
            {**row, "name": "bandwidth", "found": {"tried": tried}},
            {**row, **failed, "name": "memory", "message": "1 GiB is free", "seconds": 0.25},
        ],
        "machine": copy.deepcopy(MACHINE),
    }


def profile_record() -> dict[str, Any]:
    """The record of `bench profile` of a decode step, with memory and a trace."""
    group = {"seconds": 0.5, "share": 1.0, "count": 1, "bytes_read": 8, "bytes_written": 4}
    row = {"name": "ffi_call.1", "layer": "layer 0", "op": "bitnet_ternary_matmul"}
    return {
        "schema": "bench-profile/1",
        "model": "model.bitnet",
        "phase": "decode",
        "input_shape": [1, 1],
        "profile": "exact",
        "machine": copy.deepcopy(MACHINE),
        "wall_seconds": {"median": 0.75, "low": 0.7, "high": 0.8},
        "traced_seconds": 0.8,
        "instruction_seconds": 0.5,
        "runs": 9,
        "layers": [{"layer": "layer 0", **group}],
        "ops": [{"op": "bitnet_ternary_matmul", **group}],
        "instructions": [
            {
                **row,
                "weights": ["layers.0.mlp.up_proj"],
                "seconds": 0.5,
                "bytes_read": 8,
                "bytes_written": 4,
                "gb_s": 0.25,
                "shape": [1, 1, 64],
            }
        ],
        "cost": {"xla_flops": 10.0, "xla_gflop_s": 0.125, "int8_tops": 0.0625},
        "receipt": {"kernel": "native (avx2)"},
        "trace": ["trace/x.xplane.pb"],
        "memory": {
            "temp_bytes": 77,
            "peak_bytes": None,
            "largest": [{**row, "bytes_written": 4, "shape": [1, 1, 64]}],
        },
    }
