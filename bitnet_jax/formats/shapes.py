"""Named shapes of models: each family's (`Family.shapes`), whole or cut down.

`create.py` fills them with random weights.
"""

from __future__ import annotations

from dataclasses import replace

from bitnet_jax.core.errors import UsageError, did_you_mean
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.families import check_spec, shapes

SPECIALS = 256
BYTES = 256
# Fewer specials than 16 would not hold <|eot_id|>, the tenth.
SMALLEST = BYTES + 16


def special_tokens(vocab_size: int) -> int:
    """How many ids at the end of a vocabulary of this size are special tokens."""
    return min(SPECIALS, vocab_size - BYTES)


def shape(name: str, layers: int | None = None, vocab_size: int | None = None) -> ModelSpec:
    """Returns the spec of a named shape, cut to `layers` and to `vocab_size`.

    Raises:
      UsageError: the name is not known, or the cut leaves nothing.
    """
    known = shapes(packages=False)
    if name not in known:  # only then are packages imported
        known = shapes(packages=True)
    if name not in known:
        raise UsageError(
            "create.unknown_shape", f"shape `{name}` is not known", did_you_mean(name, known)
        )
    spec = known[name]
    if layers is not None:
        if not 0 < layers <= 4096:
            raise UsageError("create.layers", f"a model of {layers} layers cannot be made")
        spec = replace(spec, num_layers=layers)
    if vocab_size is not None:
        if vocab_size < SMALLEST:
            raise UsageError(
                "create.vocab_size",
                f"a vocabulary of {vocab_size} does not hold 256 bytes and 16 special tokens",
                f"at least {SMALLEST}",
            )
        spec = replace(spec, vocab_size=vocab_size)
    if vocab_size is not None or (spec.bos_token_id is None and spec.vocab_size >= SMALLEST):
        base = spec.vocab_size - special_tokens(spec.vocab_size)
        spec = replace(spec, bos_token_id=base, eos_token_ids=(base + 1, base + 9))
    check_spec(spec)
    return spec
