"""What an ONNX export and its probe take: peak memory and time, with the probe and without it.

    python benchmarks/onnx_probe.py [--shape 8b] [--layers 4] [--optimize-for portable size]
                                    [--folder DIR] [--output results/onnx_probe.json]

Makes a random model and exports it in a process of its own for each profile, with and without the
probe. The peak is the process's largest resident set, as the system counts it: pages of files that
it maps (the weights, as ONNX Runtime reads them) are in it. Beside it stands what is aimed at:
three times the largest tensor, and 300 MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from ternary_matmul import machine

EXPORT = """
import json, os, sys, time
from bitnet_jax.core.errors import BadData
from bitnet_jax.core.pages import peak_resident
from bitnet_jax.workflows.export import export_model
started = time.perf_counter()
refused = None
try:
    record = export_model(sys.argv[1], sys.argv[2], optimize_for=sys.argv[3], force=True,
                          probe=sys.argv[4] == "probe")
except BadData as error:
    record, refused = {}, error.message
print(json.dumps({"seconds": time.perf_counter() - started, "peak": peak_resident(os.getpid()),
                  "largest_difference": record.get("max_logit_difference"),
                  "by_piece": record.get("by_piece"), "refused": refused}))
"""
ALLOWED = 3, 300_000_000


def exported(source: Path, target: Path, profile: str, *, probe: bool) -> dict[str, object]:
    """What one export takes, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, source, target, profile, "probe" if probe else "none"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {"profile": profile, "probe": probe, **json.loads(done.stdout)}


def largest(source: Path) -> int:
    """Bytes that the largest tensor takes: floats as they are stored, two for a trit."""
    from bitnet_jax.formats.open import open_checkpoint
    from bitnet_jax.formats.survey import size

    return max(size(entry) for entry in open_checkpoint(source).entries.values())


def main() -> None:
    """Runs the exports and prints them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="8b")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--optimize-for", nargs="+", default=["portable", "size"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path, help="where the record is written")
    args = parser.parse_args()
    from bitnet_jax.workflows.create import create

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source = Path(folder, "m.bitnet")
        create(shape=args.shape, layers=args.layers, output=source)
        allowed = ALLOWED[0] * largest(source) + ALLOWED[1]
        rows = []
        for profile in args.optimize_for:
            for probe in (True, False):
                row = exported(source, Path(folder, "m.onnx"), profile, probe=probe)
                rows.append(row)
                print(
                    f"{profile}, {'probed' if probe else 'not probed'}: {row['seconds']:.0f} s, "
                    f"peak {row['peak'] / 1e6:.0f} MB of {allowed / 1e6:.0f} MB",
                    flush=True,
                )
        bytes_ = source.stat().st_size
    if args.output:
        record = {
            "what": f"exporting the shape {args.shape}, {args.layers} layers, to ONNX",
            "method": "benchmarks/onnx_probe.py",
            "machine": machine(),
            "bytes": bytes_,
            "allowed": allowed,
            "rows": rows,
        }
        args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
