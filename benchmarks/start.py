"""How long a model takes from nothing to its first token, and how much memory it holds.

Reading: the file's bytes into memory that is there already, the page cache warm. Loading: a call of
`bj.load`, after the import. Start: the process `bitnet serve generate` until its first
byte of text, with an empty cache of compiled programs and then with a full one. Memory: what a
process holds after a generation, less what one holds that compiled the same programs for abstract
weights. Everything is taken several times; medians are said.

    python benchmarks/start.py model.bitnet [--rounds 5] [--output results/start.json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from ternary_matmul import machine

PROMPT = "the quick brown fox"
LOAD = """
import json, sys, time
import psutil
import bitnet_jax as bj
import jax
jax.devices()
path, head = sys.argv[1], sys.argv[2] or None
begun = time.perf_counter()
model = bj.load(path, head=head)
seconds = time.perf_counter() - begun
made = model.generate({prompt!r}, max_tokens=4)
held = psutil.Process().memory_info().rss
engine = model.engine
kv = sum(x.nbytes for x in jax.tree.leaves(engine.new_cache(1, engine.capacity(16))))
leaves = jax.tree.leaves(model.packed)
print(json.dumps({{"seconds": seconds, "held": held, "kv": kv,
                  "weights": sum(x.nbytes for x in leaves)}}))
"""
# The shapes come from the model itself, which is gone when the programs are compiled.
ABSTRACT = """
import gc, json, sys
import psutil
import bitnet_jax as bj
import jax
from bitnet_jax.runtime.engine import Engine
from bitnet_jax.runtime.sampling import SamplingParams
path, head = sys.argv[1], sys.argv[2] or None
model = bj.load(path, head=head)
spec, prompt = model.spec, len(model.tokenizer.encode({prompt!r}))
shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), model.packed)
del model
gc.collect()
engine = Engine(spec, shapes)
engine.warm_up(prompt, SamplingParams(max_tokens=4))
print(json.dumps({{"held": psutil.Process().memory_info().rss}}))
"""


def reading(path: Path) -> float:
    held = np.ones(path.stat().st_size, np.uint8)
    seconds = []
    for _ in range(4):
        begun = time.perf_counter()
        with path.open("rb", buffering=0) as stream:
            view, done = memoryview(held), 0
            while done < held.size:
                done += stream.readinto(view[done : done + (1 << 30)])
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def child(source: str, *arguments: str) -> dict:
    line = [sys.executable, "-c", source, *arguments]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def first_byte(model: str, head: str, cache: str) -> float:
    """Seconds from the start of the process to the first byte of generated text."""
    line = ["-m", "bitnet_cli", "serve", "generate", model, PROMPT, "-n", "2"]
    line += ["--head", head] if head else []
    environment = {**os.environ, "BITNET_CACHE_DIR": cache}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert process.stdout is not None
    process.stdout.read(1)
    seconds = time.perf_counter() - begun
    process.stdout.read()
    assert process.wait() == 0, process.returncode
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    size, results = args.model.stat().st_size, []
    load, abstract = (text.format(prompt=PROMPT) for text in (LOAD, ABSTRACT))
    for head in ("", "int6"):
        with tempfile.TemporaryDirectory() as cache:
            first_byte(str(args.model), head, cache)  # builds the kernels
            first, later, loads, reads = [], [], [], []
            for _ in range(args.rounds):
                reads.append(reading(args.model))
                loads.append(child(load, str(args.model), head))
                shutil.rmtree(Path(cache) / "executables")
                first.append(first_byte(str(args.model), head, cache))
                later.append(first_byte(str(args.model), head, cache))
        row = {
            "head": head or "as it is",
            "file_bytes": size,
            "read_seconds": median(reads),
            "load_seconds": median(x["seconds"] for x in loads),
            "first_start_seconds": median(first),
            "second_start_seconds": median(later),
            "held_bytes": median(x["held"] for x in loads),
            "held_without_weights_bytes": child(abstract, str(args.model), head)["held"],
            "weight_bytes": loads[0]["weights"],
            "kv_bytes": loads[0]["kv"],
        }
        more = row["held_bytes"] - row["held_without_weights_bytes"]
        row["memory_ratio"] = more / (row["weight_bytes"] + row["kv_bytes"])
        results.append(row)
        print(
            f"head {row['head']}: read {row['read_seconds']:.2f} s, loaded in "
            f"{row['load_seconds']:.2f} s ({row['load_seconds'] / row['read_seconds']:.1f} times), "
            f"first token after {row['first_start_seconds']:.2f} s at the first start and "
            f"{row['second_start_seconds']:.2f} s at the second; holds "
            f"{row['memory_ratio']:.2f} times its weights, keys and values "
            f"({row['weight_bytes'] / 1e9:.2f} + {row['kv_bytes'] / 1e9:.2f} GB)",
            flush=True,
        )
    record = {
        "what": "start of a model of the 2B4T shape",
        "method": "benchmarks/start.py",
        "machine": machine(),
        "results": results,
    }
    if args.output:
        args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
