"""`ModelSpec`: the shape and semantics of a decoder, as plain data.

What the family function, the formats and the doctor must agree on. Knows no
file format's spelling of it (`formats` translates) and no family: what a family
takes of these values, and which fields it adds, is checked in `models`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bitnet_jax.core.errors import BadData, shown

Scalar = int | float | bool | str

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
_MOST_EXTRA = 64
_LONGEST_TEXT = 256
_LARGEST_WHOLE = 1 << 53  # what every JSON reader holds exactly
EXTRA_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Extra(Mapping[str, Scalar]):
    """The fields that one family adds to a spec: a frozen, hashable mapping, in name order.

    As a dict, but ``{"a": 1}``, ``{"a": 1.0}`` and ``{"a": True}`` are three different ones: a
    spec is the key of what was traced for it.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Scalar] | None = None):
        rows = sorted((values or {}).items(), key=lambda row: str(row[0]))
        self._values = dict(rows)

    def __getitem__(self, name: str) -> Scalar:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _key(self) -> tuple[Any, ...]:
        return tuple((name, type(value), value) for name, value in self._values.items())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self._key() == (other if isinstance(other, Extra) else Extra(other))._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return repr(self._values)


@dataclass(frozen=True)
class ModelSpec:
    """One decoder's hyperparameters. `validate` holds for every spec that a reader returns.

    Attributes:
      family: key of the family table (`models/families.py`), for example ``bitnet``.
      max_positions: longest context in tokens.
      rope_theta: base of the rotary embedding's frequencies.
      rms_norm_eps: epsilon added to the mean square.
      activation: of the feed-forward; for ``bitnet`` that of the gate, ``relu2`` (squared
        ReLU) or ``silu``.
      sub_norms: RMSNorm before the output and the down projection (BitNet 2B4T).
      tie_embeddings: the head is the embedding.
      eos_token_ids: every id that ends a generation.
      extra: what the family adds (`Family.extra`); a plain mapping becomes an `Extra`.
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
    extra: Mapping[str, Scalar] = Extra()

    def __post_init__(self) -> None:
        if isinstance(self.extra, Mapping) and not isinstance(self.extra, Extra):
            object.__setattr__(self, "extra", Extra(self.extra))

    def validate(self) -> ModelSpec:
        """Returns self, or raises `BadData` (code ``config.value``) naming the first bad value.

        What a family makes of the values is checked by `models.families.check_spec`.
        """
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= limit:
                raise _bad(f"{name} is {shown(value)}; it must be a whole number from 1 to {limit}")
        if self.num_heads % self.num_kv_heads:
            raise _bad(
                f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}"
            )
        for name in ("rope_theta", "rms_norm_eps"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise _bad(f"{name} is {shown(value)}; it must be a positive number")
        if not isinstance(self.activation, str) or not 0 < len(self.activation) <= _LONGEST_TEXT:
            raise _bad(f"activation is {shown(self.activation)}; it must be a function's name")
        for name in ("sub_norms", "tie_embeddings"):
            if not isinstance(getattr(self, name), bool):
                raise _bad(f"{name} is {shown(getattr(self, name))}; it must be true or false")
        ids = [("bos_token_id", self.bos_token_id), ("pad_token_id", self.pad_token_id)]
        ids += [("eos_token_id", token) for token in self.eos_token_ids]
        for name, token in ids:
            if token is not None and not (isinstance(token, int) and 0 <= token < self.vocab_size):
                raise _bad(f"{name} is {shown(token)}, outside the vocabulary of {self.vocab_size}")
        _check_extra(self.extra)
        return self

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict; `from_json` inverts it. Without `extra` where there is none."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        data["eos_token_ids"] = list(self.eos_token_ids)
        extra = data.pop("extra")
        return data | {"extra": dict(extra)} if extra else data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelSpec:
        """Inverse of `to_json`; raises `BadData` on unknown, missing or bad fields."""
        if not isinstance(data, dict):
            raise _bad("the spec is no JSON object")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise _bad(f"the spec has unknown fields: {', '.join(map(shown, unknown[:5]))}")
        try:
            return cls(**data | {"eos_token_ids": tuple(data.get("eos_token_ids", ()))}).validate()
        except TypeError as error:
            raise _bad(f"the spec is incomplete: {error}") from error


def _check_extra(extra: Any) -> None:
    """Raises unless `extra` holds plain values under plain names, that JSON gives back as is."""
    if not isinstance(extra, Extra):
        raise _bad(f"extra is {shown(extra)}; it must be an object of the family's own fields")
    if len(extra) > _MOST_EXTRA:
        raise _bad(f"extra has {len(extra)} fields; at most {_MOST_EXTRA}")
    for name, value in extra.items():
        if not isinstance(name, str) or not EXTRA_NAME.fullmatch(name):
            raise _bad(f"extra field {shown(name)} is no lower-case name")
        good = (
            isinstance(value, bool)
            or (isinstance(value, int) and abs(value) <= _LARGEST_WHOLE)
            or (isinstance(value, float) and math.isfinite(value))
            or (isinstance(value, str) and len(value) <= _LONGEST_TEXT)
        )
        if not good:
            raise _bad(f"extra.{name} is {shown(value)}; it must be a number, a truth or a text")


def _bad(message: str) -> BadData:
    return BadData("config.value", message, "is this the right config for these weights?")
