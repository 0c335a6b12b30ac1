"""Named shapes of models: the released ones, and one small enough for a test.

Data only; `create.py` fills them with random weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bitnet_jax.core.errors import UsageError, did_you_mean
from bitnet_jax.ir.spec import ModelSpec

# Token ids of the Llama 3 vocabulary: specials follow the 128000 merges.
_LLAMA3: dict[str, Any] = {
    "vocab_size": 128256,
    "bos_token_id": 128000,
    "eos_token_ids": (128001, 128009),
}

SHAPES: dict[str, ModelSpec] = {
    # microsoft/bitnet-b1.58-2B-4T
    "bitnet-2b-4t": ModelSpec(
        family="bitnet", hidden_size=2560, intermediate_size=6912, num_layers=30, num_heads=20,
        num_kv_heads=5, head_dim=128, max_positions=4096, **_LLAMA3,
    ),
    # the 700M of "The Era of 1-bit LLMs", in this family's blocks
    "700m": ModelSpec(
        family="bitnet", hidden_size=1536, intermediate_size=4096, num_layers=24, num_heads=24,
        num_kv_heads=24, head_dim=64, max_positions=2048, **_LLAMA3,
    ),
    # the size of Llama 3 8B, in this family's blocks
    "8b": ModelSpec(
        family="bitnet", hidden_size=4096, intermediate_size=14336, num_layers=32, num_heads=32,
        num_kv_heads=8, head_dim=128, max_positions=8192, tie_embeddings=False, **_LLAMA3,
    ),
    "tiny": ModelSpec(
        family="bitnet", hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4,
        num_kv_heads=2, head_dim=16, max_positions=256, vocab_size=512, bos_token_id=256,
        eos_token_ids=(257, 265),
    ),
}  # fmt: skip

SPECIALS = 256
# Fewer would not hold <|eot_id|>, the tenth.
_FEWEST_SPECIALS = 16
BYTES = 256


def special_tokens(vocab_size: int) -> int:
    """How many ids at the end of a vocabulary of this size are special tokens."""
    return min(SPECIALS, vocab_size - BYTES)


def shape(name: str, layers: int | None = None, vocab_size: int | None = None) -> ModelSpec:
    """Returns the spec of a named shape, cut to `layers` and to `vocab_size`.

    Raises:
      UsageError: the name is not known, or the cut leaves nothing.
    """
    if name not in SHAPES:
        raise UsageError(
            "create.unknown_shape", f"shape `{name}` is not known", did_you_mean(name, SHAPES)
        )
    spec = SHAPES[name]
    if layers is not None:
        if not 0 < layers <= 4096:
            raise UsageError("create.layers", f"a model of {layers} layers cannot be made")
        spec = replace(spec, num_layers=layers)
    if vocab_size is not None:
        if vocab_size < BYTES + _FEWEST_SPECIALS:
            raise UsageError(
                "create.vocab_size",
                f"a vocabulary of {vocab_size} does not hold 256 bytes and 16 special tokens",
                f"at least {BYTES + _FEWEST_SPECIALS}",
            )
        base = vocab_size - special_tokens(vocab_size)
        spec = replace(
            spec, vocab_size=vocab_size, bos_token_id=base, eos_token_ids=(base + 1, base + 9)
        )
    return spec.validate()
