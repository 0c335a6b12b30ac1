"""What a matrix is stored as in a `transformers` checkpoint, by encoding.

The inverse of `huggingface_weights`: a ternary tensor, or several that are one matrix there, to the
array of ``master``, ``packed`` (`autobitlinear`, `bitlinear`), ``latent`` or ``dequantized``; and
its scale. What an encoding cannot hold is refused, and priced. Knows no file.
"""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np

from bitnet_jax.core.errors import CannotCreate
from bitnet_jax.formats.checkpoint import Checkpoint, TensorEntry
from bitnet_jax.formats.huggingface_packing import from_lines, pack
from bitnet_jax.formats.huggingface_weights import ExactScale, turned
from bitnet_jax.models.names import Expected
from bitnet_jax.quant.dense import as_plain
from bitnet_jax.quant.recover import one_scale_loss, recover
from bitnet_jax.quant.tensor import TERNARY, QuantTensor, broadcast_scale
from bitnet_jax.quant.ternary import EPSILON

_KEEP = "keep it as --format bitnet; --encoding dequantized holds it, as floats"


class Matrices:
    """Turns ternary tensors into what is stored, and keeps their scales on the way."""

    def __init__(self, checkpoint: Checkpoint, encoding: str):
        self._checkpoint = checkpoint
        self._encoding = encoding
        self.exact: dict[str, ExactScale] = {}

    def weight(self, items: Sequence[Expected]) -> np.ndarray:
        """The stored form of one matrix, or of those that are its parts; remembers its scale."""
        entries = [self._checkpoint.entries[item.name] for item in items]
        tensors = [self._ternary(entry) for entry in entries]
        if self._encoding == "dequantized":
            return np.concatenate([_floats(*pair) for pair in zip(items, tensors, strict=True)])
        self._require_one_scale(items, tensors)
        scale = np.float32(tensors[0].scale)
        for item, tensor in zip(items, tensors, strict=True):
            self.exact[item.name] = ExactScale(scale, tensor.scale_dtype, tensor.dtype)
        if self._encoding == "latent":
            latents = [entry.latent for entry in entries]
            return np.concatenate(
                [
                    turned(item, latent())
                    for item, latent in zip(items, latents, strict=True)
                    if latent
                ]
            )
        if len(tensors) == 1 and self._encoding != "master":
            [tensor] = tensors
            codes = as_plain(np.asarray(tensor.codes), tensor.layout, tensor.in_features)
            return from_lines(codes, tensor.out_features, tensor.in_features)
        trits = np.concatenate([np.asarray(tensor.trits()) for tensor in tensors])
        if self._encoding == "master":
            return _master(items[0].name, trits, scale)
        return pack(trits)

    def _ternary(self, entry: TensorEntry) -> QuantTensor:
        tensor = entry.read()
        assert isinstance(tensor, QuantTensor)
        if tensor.kind != TERNARY:
            raise CannotCreate(
                "huggingface.kind",
                f"`{entry.name}` is {tensor.kind}; this format holds ternary matrices and floats",
                "keep it float, or make it ternary, by a rule",
            )
        return tensor

    def _require_one_scale(self, items: Sequence[Expected], tensors: Sequence[QuantTensor]) -> None:
        name = items[0].name
        kinds = {tensor.scale_kind for tensor in tensors}
        if kinds != {"tensor"} or tensors[0].stack_axes:
            raise CannotCreate(
                "huggingface.scale_kind",
                f"`{name}` has {tensors[0].scale_kind} scales; this format holds one scale for "
                "each tensor, and one for all, the best, would change these weights by a relative "
                f"RMS of {one_scale_loss(tensors):.3g}",
                _KEEP,
            )
        if len({float(tensor.scale) for tensor in tensors}) > 1:
            names = ", ".join(f"`{item.name}`" for item in items)
            raise CannotCreate(
                "huggingface.fused",
                f"{names} are one matrix `{items[0].huggingface}` there, which has one scale, and "
                "theirs differ: one for all, the best, would change these weights by a relative "
                f"RMS of {one_scale_loss(tensors):.3g}",
                _KEEP,
            )
        if len(items) > 1 and self._encoding == "latent":
            raise CannotCreate(
                "huggingface.fused",
                f"`{items[0].huggingface}` is several matrices here: its mean at load would not be "
                "theirs",
                "use --encoding master",
            )

    def scale(self, item: Expected) -> np.ndarray:
        """The stored `weight_scale` [1]: bfloat16 where that is exact, else float32."""
        exact = self.exact[item.name].value
        value = exact if self._encoding == "autobitlinear" else np.float32(1) / exact
        narrow = value.astype(ml_dtypes.bfloat16)
        fits = narrow.astype(np.float32) == value
        return np.array([narrow if fits else value])


def _floats(item: Expected, tensor: QuantTensor) -> np.ndarray:
    """``trits * scale`` as a checkpoint has it, from which the same is read again."""
    scale = np.asarray(tensor.scale)
    wide = broadcast_scale(scale, tensor.scale_kind, tensor.group_size)
    weights = np.asarray(tensor.trits()).astype(np.float32) * wide
    found = recover(weights)
    # A scale of nothing but zeros, or more scales than there are values, cannot be seen again.
    same = found is not None and (found.scale_kind, found.group_size) == (
        tensor.scale_kind,
        tensor.group_size,
    )
    if found is None or not same or not np.array_equal(found.scale, scale):
        raise CannotCreate(
            "huggingface.dequantized",
            f"`{item.name}`: its floats alone do not tell its {tensor.scale_kind} scales (some are "
            "of zeros only, or all are equal)",
            "keep it as --format bitnet",
        )
    return weights


def _master(name: str, trits: np.ndarray, scale: np.float32) -> np.ndarray:
    """``trits * s/p``: the reference takes the mean of it, which is s again."""
    share = np.count_nonzero(trits) / trits.size
    if scale < EPSILON:
        raise CannotCreate(
            "huggingface.small_scale",
            f"`{name}` has scale {scale}; the reference raises every scale to 1e-5 at load",
            "use --encoding packed",
        )
    peak = np.float32(float(scale) / share) if share else np.float32(0)
    return trits.astype(np.float32) * peak
