"""`ModelSpec`: the shape and semantics of a decoder, as plain data.

What the family function, the formats and the doctor must agree on. Knows no
file format's spelling of it: `formats` translates.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bitnet_jax.core.errors import BadData

ACTIVATIONS = ("relu2", "silu")

# Upper bounds far above any model, far below what would exhaust a machine's
# address arithmetic: a config beyond them is damage, not ambition.
_LIMITS = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 22,
    "num_layers": 4096,
    "num_heads": 1 << 16,
    "num_kv_heads": 1 << 16,
    "head_dim": 1 << 16,
    "max_positions": 1 << 28,
}


@dataclass(frozen=True)
class ModelSpec:
    """One decoder's hyperparameters. `validate` holds for every spec that a reader returns.

    Attributes:
      family: key of the family table (`models/families.py`), for example ``bitnet``.
      max_positions: longest context in tokens.
      rope_theta: base of the rotary embedding's frequencies.
      rms_norm_eps: epsilon added to the mean square.
      activation: ``relu2`` (squared ReLU) or ``silu``, of the gated feed-forward.
      sub_norms: RMSNorm before the output and the down projection (BitNet 2B4T).
      tie_embeddings: the head is the embedding.
      eos_token_ids: every id that ends a generation.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int = 4096
    rope_theta: float = 500000.0
    rms_norm_eps: float = 1e-5
    activation: str = "relu2"
    sub_norms: bool = True
    tie_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None

    def validate(self) -> ModelSpec:
        """Returns self, or raises `BadData` (code ``config.value``) naming the first bad value."""
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= limit:
                raise _bad(f"{name} is {value!r}; it must be a whole number from 1 to {limit}")
        if self.num_heads % self.num_kv_heads:
            raise _bad(
                f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise _bad(f"head_dim {self.head_dim} is odd; rotary embedding needs pairs")
        for name in ("rope_theta", "rms_norm_eps"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise _bad(f"{name} is {value!r}; it must be a positive number")
        if self.activation not in ACTIVATIONS:
            raise _bad(f"activation is {self.activation!r}; known: {', '.join(ACTIVATIONS)}")
        ids = [("bos_token_id", self.bos_token_id), ("pad_token_id", self.pad_token_id)]
        ids += [("eos_token_id", token) for token in self.eos_token_ids]
        for name, token in ids:
            if token is not None and not (isinstance(token, int) and 0 <= token < self.vocab_size):
                raise _bad(f"{name} is {token!r}, outside the vocabulary of {self.vocab_size}")
        return self

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict; `from_json` inverts it."""
        return dataclasses.asdict(self) | {"eos_token_ids": list(self.eos_token_ids)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelSpec:
        """Inverse of `to_json`; raises `BadData` on unknown, missing or bad fields."""
        if not isinstance(data, dict):
            raise _bad("the spec is no JSON object")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise _bad(f"the spec has unknown fields: {', '.join(unknown)}")
        try:
            return cls(**data | {"eos_token_ids": tuple(data.get("eos_token_ids", ()))}).validate()
        except TypeError as error:
            raise _bad(f"the spec is incomplete: {error}") from error


def _bad(message: str) -> BadData:
    return BadData("config.value", message, "is this the right config for these weights?")
