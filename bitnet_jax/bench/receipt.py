"""The receipt of a benchmark: which programs ran, and the proof that no weight was unpacked.

Read off what was compiled (`hlo`), not off what was asked for. Knows nothing of times.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bitnet_jax.bench.hlo import count, largest_buffer, parse, unpacked
from bitnet_jax.bench.steps import Row
from bitnet_jax.compiler.compile import Executable
from bitnet_jax.runtime.engine import Engine


def receipt(engine: Engine, rows: Iterable[Row]) -> dict[str, Any]:
    """The programs that ran: kernels, hashes, bytes held, and that no weight was unpacked."""
    packed = engine.packed.ternary()
    smallest = min((count(tuple(tensor.shape)) for tensor in packed.values()), default=0)
    programs = []
    for row in rows:
        found = proof(row.executable, smallest)
        programs.append({"phase": row.phase, "batch": row.batch, **found})
    checked = [p["unpacked_weights"] for p in programs]
    first = next((p for p in programs if p["phase"] == "decode"), programs[0])
    names = ("kernel", "kernel_reason", "kernel_calls", "hlo_sha256", "weight_bytes", "float_bytes")
    return {
        **{name: first[name] for name in names},
        "unpacked_weights": None if None in checked else sum(map(len, checked)),
        "smallest_weight": smallest,
        "programs": programs,
    }


def proof(executable: Executable, smallest: int) -> dict[str, Any]:
    """A program's receipt, the float buffers that are weights again, and its largest buffer."""
    module = parse(executable.compiled.as_text())
    analysis = executable.compiled.memory_analysis()
    assignment = getattr(analysis, "serialized_buffer_assignment_proto", b"") or b""
    return {
        **executable.receipt.to_json(),
        "unpacked_weights": unpacked(module, smallest),
        "largest_buffer_bytes": largest_buffer(assignment),
    }
