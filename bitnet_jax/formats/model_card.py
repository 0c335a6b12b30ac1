"""The model card (`README.md`) of a checkpoint: what it is, and how it is run.

From the checkpoint alone: no path, no time, so the same model gives the same bytes. Cards of people
are left alone: ours are known by their last line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.metadata import PREFIX
from bitnet_jax.models.families import family_of

NAME = "README.md"
_MARK = "<!-- written by bitnet-jax; remove this line to keep your own text -->"
# Front matter of the hub's cards: our metadata's key, and theirs.
_FRONT = (
    ("license", "license"),
    ("base_model", "base_model"),
    ("languages", "language"),
)


def is_ours(card: bytes) -> bool:
    """True for a card that `model_card` wrote and nobody took over."""
    return _MARK.encode() in card


def model_card(
    checkpoint: Checkpoint, encoding: str | None = None, digest: Mapping[str, str] | None = None
) -> bytes:
    """The card's text, UTF-8.

    Args:
      encoding: how the weights are stored there.
      digest: of the trits, and of trits and scales, where they are known.
    """
    metadata = {
        key.removeprefix(PREFIX): value
        for key, value in checkpoint.metadata.items()
        if key.startswith(PREFIX)
    }
    title = _line(metadata.get("name") or f"{checkpoint.spec.family} model")
    parts = [*_front(metadata, checkpoint), "", f"# {title}", ""]
    if metadata.get("description"):
        parts += [str(metadata["description"]).strip(), ""]
    parts += ["| | |", "|---|---|"]
    parts += [f"| {name} | {_cell(value)} |" for name, value in _facts(checkpoint, encoding)]
    if digest is not None:
        parts += [f"| digest of the trits | `{digest['trits']}` |"]
        parts += [f"| digest of trits and scales | `{digest['trits_scales']}` |"]
    parts += ["", *_use(checkpoint), "", _MARK, ""]
    return "\n".join(parts).encode()


def _front(metadata: Mapping[str, Any], checkpoint: Checkpoint) -> list[str]:
    ternary = any(entry.ternary for entry in checkpoint.entries.values())
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    # JSON texts are YAML too: what a stranger wrote stays one value.
    lines += [
        f"{theirs}: {json.dumps(metadata[ours], ensure_ascii=False)}"
        for ours, theirs in _FRONT
        if metadata.get(ours)
    ]
    tags = (["bitnet", "ternary", "1.58-bit"] if ternary else []) + [
        tag.strip() for tag in str(metadata.get("tags") or "").split(",") if tag.strip()
    ]
    if tags:
        lines += ["tags:", *(f"- {json.dumps(tag, ensure_ascii=False)}" for tag in tags)]
    return [*lines, "---"]


def _facts(checkpoint: Checkpoint, encoding: str | None) -> list[tuple[str, Any]]:
    spec, entries = checkpoint.spec, checkpoint.entries.values()
    huggingface = family_of(spec.family).huggingface
    total = sum(math.prod(entry.shape) for entry in entries)
    ternary = sum(math.prod(entry.shape) for entry in entries if entry.ternary)
    return [
        ("architecture", huggingface.architecture if huggingface else spec.family),
        ("parameters", f"{total:,}"),
        ("of them ternary (−1, 0, +1)", f"{ternary:,}"),
        ("layers", spec.num_layers),
        ("hidden size", spec.hidden_size),
        ("feed-forward size", spec.intermediate_size),
        ("attention heads, key and value heads", f"{spec.num_heads}, {spec.num_kv_heads}"),
        ("context", f"{spec.max_positions:,} tokens"),
        ("vocabulary", f"{spec.vocab_size:,}"),
        ("activation", spec.activation),
        *([("weights stored as", encoding)] if encoding else []),
    ]


def _use(checkpoint: Checkpoint) -> list[str]:
    chat = bool(checkpoint.tokenizer and checkpoint.tokenizer.chat_template)
    lines = [
        "## Run it",
        "",
        "```",
        f"bitnet {'chat' if chat else 'generate'} PATH_OF_THIS_FOLDER"
        + ("" if chat else ' "Once upon a time"'),
        "```",
    ]
    if any(entry.ternary for entry in checkpoint.entries.values()):
        lines += [
            "",
            "The weights of its linear layers are −1, 0 or +1 times a scale, and activations are "
            "rounded to",
            "8 bits at each of them. Software that skips that rounding computes another function.",
        ]
    return lines


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def _cell(text: Any) -> str:
    return _line(text).replace("|", "\\|")
