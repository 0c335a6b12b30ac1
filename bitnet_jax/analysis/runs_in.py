"""Where a model will run: each engine, how (exactly, changed, wrongly, refused), and why.

A table of rows, one per engine; each is a function of the spec and of how the file
stores the weights. What it says of other projects was seen in November 2026; the
date is part of the record.
"""

from __future__ import annotations

from collections.abc import Callable

from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.models.families import family_of

SEEN = "2026-11"
Verdict = tuple[str, str]


def _ours(checkpoint: Checkpoint) -> Verdict:
    return "exactly", "this package"


def _unknown_there(checkpoint: Checkpoint, engine: str) -> Verdict | None:
    """The verdict on a family that only its plugin knows."""
    huggingface = family_of(checkpoint.spec.family).huggingface
    if huggingface is not None and huggingface.in_transformers:
        return None
    return "refused", f"{engine} has no architecture for the family `{checkpoint.spec.family}`"


def _transformers(checkpoint: Checkpoint) -> Verdict:
    unknown = _unknown_there(checkpoint, "transformers")
    if unknown is not None:
        return unknown
    if checkpoint.source.format != "huggingface":
        return "refused", "another file format: `bitnet model convert … --format huggingface`"
    if checkpoint.source.encoding == "autobitlinear":
        return "exactly", "in bfloat16 only: loading packed `autobitlinear` as float32 raises"
    return "exactly", "in float32; bfloat16 rounds activations differently"


def _gguf_only(engine: str) -> Callable[[Checkpoint], Verdict]:
    def judge(checkpoint: Checkpoint) -> Verdict:
        unknown = _unknown_there(checkpoint, engine)
        if unknown is not None:
            return unknown
        reason = "it reads GGUF files only"
        if checkpoint.spec.activation == "relu2":
            reason += f"; from one, {engine} would run SiLU where the model has squared ReLU"
        return "refused", reason

    return judge


def _onnx(checkpoint: Checkpoint) -> Verdict:
    return "refused", "needs an ONNX file; this version does not export one"


def _mlx(checkpoint: Checkpoint) -> Verdict:
    unknown = _unknown_there(checkpoint, "mlx-lm")
    if unknown is not None:
        return unknown
    if checkpoint.source.format != "huggingface":
        return "refused", "another file format: `bitnet model convert … --format huggingface`"
    if checkpoint.source.encoding != "packed":
        return "unknown", "seen with packed files only"
    return "as W1.58A16", "activations stay 16-bit; the model was trained with int8 ones"


ENGINES: dict[str, Callable[[Checkpoint], Verdict]] = {
    "bitnet-jax": _ours,
    "transformers": _transformers,
    "llama.cpp": _gguf_only("its `bitnet` architecture"),
    "bitnet.cpp": _gguf_only("its current fork of llama.cpp"),
    "ONNX Runtime": _onnx,
    "mlx-lm": _mlx,
}


def runs_in(checkpoint: Checkpoint) -> list[dict[str, str]]:
    """A row per engine: `engine`, `how`, `reason`, `seen` (year and month)."""
    rows = []
    for engine, judge in ENGINES.items():
        how, reason = judge(checkpoint)
        rows.append({"engine": engine, "how": how, "reason": reason, "seen": SEEN})
    return rows
