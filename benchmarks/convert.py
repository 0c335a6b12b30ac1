"""Converting against copying: bytes a second, processor time and peak memory, on one machine.

    python benchmarks/convert.py [--shape 8b] [--layers N] [--rounds 3] [--folder DIR]
                                 [--output results/convert.json]

Makes a random model, copies it and converts it in turns (so that both meet the same machine), each
conversion in a process of its own, without the probe: a copy has none. Prints a line a round and
the median of their ratios. The reading is of files that the system has in its cache, for both.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ternary_matmul import machine

CONVERT = """
import json, os, sys
from bitnet_jax.core.pages import peak_resident
from bitnet_jax.workflows.convert import convert
record = convert(sys.argv[1], sys.argv[2], force=True, probe=False)
print(json.dumps({"seconds": record["seconds"], "peak": peak_resident(os.getpid())}))
"""


def copied(source: Path, target: Path) -> float:
    """Seconds that a plain copy takes."""
    started = time.perf_counter()
    subprocess.run(["cp", "-r", source, target], check=True)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return seconds


def converted(source: Path, target: Path) -> dict[str, float]:
    """What a conversion with digests takes, its imports left out."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, source, target], check=True, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    record = json.loads(done.stdout)
    return {
        "seconds": record["seconds"]["convert"] + record["seconds"]["verify"],
        "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak": record["peak"],
    }


def main() -> None:
    """Runs the rounds and prints them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="8b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path, help="where the record is written")
    args = parser.parse_args()
    from bitnet_jax.workflows.create import create

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source = Path(folder, "m.hf")
        create(shape=args.shape, layers=args.layers, output=source)
        size = sum(path.stat().st_size for path in source.iterdir())
        rounds = []
        for _ in range(args.rounds):
            row = {"copy_seconds": copied(source, Path(folder, "copy"))}
            row |= converted(source, Path(folder, "m.bitnet"))
            row["share_of_copy"] = row["copy_seconds"] / row["seconds"]
            rounds.append(row)
            print(
                f"{size / 1e9:.2f} GB: copied in {row['copy_seconds']:.1f} s, converted in "
                f"{row['seconds']:.1f} s, {row['processor']:.1f} s of processor, "
                f"peak {row['peak'] / 1e6:.0f} MB",
                flush=True,
            )
    share = statistics.median(row["share_of_copy"] for row in rounds)
    print(f"a conversion has {share:.2f} of a copy's throughput (median of {len(rounds)} rounds)")
    if args.output:
        record = {
            "what": f"converting the shape {args.shape} from Hugging Face to .bitnet",
            "method": "benchmarks/convert.py",
            "machine": machine(),
            "bytes": size,
            "share_of_copy": share,
            "rounds": rounds,
        }
        args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
