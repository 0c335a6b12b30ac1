"""Converting against copying: bytes a second, processor time and peak memory, on one machine.

    python benchmarks/convert.py [--shape 8b] [--layers N] [--rounds 3] [--folder DIR]
                                 [--output results/convert.json]

Makes a random model, copies it and converts it in turns (so that both meet the same machine), each
conversion in a process of its own, without the probe: a copy has none. Prints a line a round and
the medians of their ratios. The reading is of files that the system has in its cache, for both.

Three yardsticks: a copy (``cp``), which leaves its bytes to the system; a copy that is on the disk
when it ends (``cp`` and ``sync``), as a conversion's output is; and the SHA-256 of the source's
files and then of the output's, one thread each as a file's bytes must be taken in order. The
receipt states both, and a `.bitnet` file's first bytes (its checksums) are written last, so its
hash begins when all is written: no conversion to one can be faster.
"""

from __future__ import annotations

import argparse
import hashlib
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

# What a row tells -> of which of its times.
SHARES = {
    "share_of_copy": "copy_seconds",
    "share_of_synced_copy": "synced_copy_seconds",
    "share_of_hash": "hash_seconds",
}

CONVERT = """
import json, os, sys
from bitnet_jax.core.pages import peak_resident
from bitnet_jax.workflows.convert import convert
record = convert(sys.argv[1], sys.argv[2], force=True, probe=False)
print(json.dumps({"seconds": record["seconds"], "peak": peak_resident(os.getpid())}))
"""


def copied(source: Path, target: Path) -> dict[str, float]:
    """Seconds that a plain copy takes, and one that is on the disk when it ends."""
    started = time.perf_counter()
    subprocess.run(["cp", "-r", source, target], check=True)
    seconds = time.perf_counter() - started
    subprocess.run(["sync", *target.iterdir()], check=True)
    synced = time.perf_counter() - started
    shutil.rmtree(target)
    return {"copy_seconds": seconds, "synced_copy_seconds": synced}


def hashed(*models: Path) -> float:
    """Seconds that the SHA-256 of each file takes, one after another."""
    started = time.perf_counter()
    for model in models:
        for path in sorted(model.iterdir()) if model.is_dir() else [model]:
            with path.open("rb") as stream:
                hashlib.file_digest(stream, "sha256")
    return time.perf_counter() - started


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
            row = copied(source, Path(folder, "copy"))
            row |= converted(source, Path(folder, "m.bitnet"))
            row["hash_seconds"] = hashed(source, Path(folder, "m.bitnet"))
            for share, yardstick in SHARES.items():
                row[share] = row[yardstick] / row["seconds"]
            rounds.append(row)
            print(
                f"{size / 1e9:.2f} GB: copied in {row['copy_seconds']:.1f} s, synced by "
                f"{row['synced_copy_seconds']:.1f} s; converted in {row['seconds']:.1f} s, "
                f"{row['processor']:.1f} s of processor, peak {row['peak'] / 1e6:.0f} MB; "
                f"SHA-256 alone {row['hash_seconds']:.1f} s",
                flush=True,
            )
    shares = {share: statistics.median(row[share] for row in rounds) for share in SHARES}
    print(
        f"of a conversion's time (median of {len(rounds)} rounds): a copy "
        f"{shares['share_of_copy']:.2f}, one on the disk {shares['share_of_synced_copy']:.2f}, "
        f"SHA-256 alone {shares['share_of_hash']:.2f}"
    )
    if args.output:
        record = {
            "what": f"converting the shape {args.shape} from Hugging Face to .bitnet",
            "method": "benchmarks/convert.py",
            "machine": machine(),
            "bytes": size,
            **shares,
            "rounds": rounds,
        }
        args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
