"""Digests: one number that says which trits, and one for trits with their scales.

They depend on nothing but names, shapes, trits and scales, so every container and
every device must give the same ones. The definition, to the byte:

    trits = SHA-256 of
        b"bitnet-trits/1\\n"
        for each ternary tensor in ascending order of its canonical name (UTF-8):
            name, b"\\0", the canonical shape as decimal numbers joined by b",", b"\\n"
            ceil(n/4) bytes: the n trits in row-major order of [*stack, out, in],
            code = trit + 1, four to a byte, the first in the lowest bits,
            the last byte filled up with code 0

    trits_scales = SHA-256 of
        b"bitnet-trits-scales/1\\n", the 32 bytes of `trits`
        for each tensor in the same order:
            name, b"\\0", scale kind ("tensor", "row" or "group"), b"\\0",
            the scale's shape as decimal numbers joined by b",", b"\\n"
            the multiplying scales, little-endian float32, row-major

Fused matrices are digested un-fused, under their canonical names. Weights of other
kinds (int8, int6, int4) have no trits: like embeddings and norms that stay float they
are passed over, and a file's own checksums guard them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitnet_jax.quant.dense import as_plain
from bitnet_jax.quant.packing import plain_bytes
from bitnet_jax.quant.tensor import TERNARY, QuantTensor


@dataclass(frozen=True)
class Digest:
    """Both digests, as lower-case hexadecimal SHA-256."""

    trits: str
    trits_scales: str

    def to_json(self) -> dict[str, str]:
        """As it stands in every record."""
        return {"trits": self.trits, "trits_scales": self.trits_scales}


def _shape_text(shape: Iterable[int]) -> bytes:
    return ",".join(str(size) for size in shape).encode()


def plain_codes(tensor: QuantTensor) -> bytes:
    """Row-major codes of [*stack, out, in], four to a byte, low bits first."""
    if tensor.in_features % 4 == 0:
        # Rows fill whole bytes: no need to unpack.
        codes = as_plain(tensor.codes, tensor.layout, tensor.in_features)
        rows = plain_bytes(codes)[..., : tensor.out_features, : tensor.in_features // 4, 0]
        return rows.tobytes()
    codes = (tensor.trits().reshape(-1) + 1).astype(np.uint8)
    codes = np.pad(codes, (0, -codes.size % 4)).reshape(-1, 4)
    return (codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6).tobytes()


@dataclass(frozen=True)
class PlainCodes:
    """Of one tensor, the bytes that enter the digests; `QuantTensor`s of any layout give the same.

    Attributes:
      head: the tensor's line, less its name.
      codes: `plain_codes`, of a ternary tensor; of others its codes as they are.
      scale_head, scale: the line of its scales, less the name, and they as bytes.
    """

    head: bytes
    codes: bytes
    scale_head: bytes
    scale: bytes

    @classmethod
    def of(cls, tensor: QuantTensor) -> PlainCodes:
        """Computes them: nearly all of a digest's work but the hashing."""
        host = QuantTensor(**{**vars(tensor), "codes": np.asarray(tensor.codes)})
        scale = np.asarray(tensor.scale, "<f4")
        return cls(
            _shape_text(host.canonical_shape) + b"\n",
            plain_codes(host) if tensor.kind == TERNARY else host.codes.tobytes(),
            b"\0".join([tensor.scale_kind.encode(), _shape_text(scale.shape)]) + b"\n",
            scale.tobytes(),
        )


class DigestBuilder:
    """Builds both digests from tensors given one at a time, in ascending name order."""

    def __init__(self) -> None:
        self._trits = hashlib.sha256(b"bitnet-trits/1\n")
        self._scales: list[bytes] = []
        self._last: bytes | None = None

    def add(self, name: str, tensor: QuantTensor) -> None:
        """Adds one tensor, unless it is not ternary; its arrays are copied to the host."""
        if tensor.kind == TERNARY:
            self.add_plain(name, PlainCodes.of(tensor))

    def add_plain(self, name: str, plain: PlainCodes) -> None:
        """As `add`, of a ternary tensor whose bytes are there already."""
        key = name.encode()
        if self._last is not None and key <= self._last:
            raise ValueError(f"digest needs ascending names, {name!r} came late")
        self._last = key
        self._trits.update(key + b"\0" + plain.head)
        self._trits.update(plain.codes)
        self._scales.append(key + b"\0" + plain.scale_head + plain.scale)

    def result(self) -> Digest:
        """The digests of what was added."""
        scales = hashlib.sha256(b"bitnet-trits-scales/1\n" + self._trits.digest())
        for part in self._scales:
            scales.update(part)
        return Digest(self._trits.hexdigest(), scales.hexdigest())


def _ordered(items: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return iter(sorted(items.items(), key=lambda item: item[0].encode()))


def digest(items: Mapping[str, Any]) -> Digest:
    """Digests of the ternary `QuantTensor`s among `items` (other values are passed over)."""
    builder = DigestBuilder()
    for name, tensor in _ordered(items):
        if isinstance(tensor, QuantTensor):
            builder.add(name, tensor)
    return builder.result()
