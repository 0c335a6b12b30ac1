"""The parity receipt: the same trits in training, on disk and in the kernel's buffers.

Three digests taken in three places by two implementations: the live weights'
through numpy, the file's as it is read again, the buffers' as they lie on the
device; and the packed run's logits against the training forward's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bitnet_jax.core.errors import CheckFailed
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.families import family_for, family_of
from bitnet_jax.models.names import Expected, expected
from bitnet_jax.passes.transform import ternarize
from bitnet_jax.quant.digest import Digest, digest
from bitnet_jax.quant.rules import match
from bitnet_jax.quant.ternary import from_trits
from bitnet_jax.quant.ternary import ternarize as ternarize_weights
from bitnet_jax.runtime.model import Model
from bitnet_jax.workflows.parity import Parity, compare_logits


@dataclass(frozen=True)
class ParityReceipt:
    """What was found; `holds` says whether it is proof."""

    training: Digest
    file: Digest
    kernel: Digest
    parity: Parity

    @property
    def digests_equal(self) -> bool:
        """Training, file and kernel hold the same trits and scales."""
        return self.training == self.file == self.kernel

    @property
    def holds(self) -> bool:
        """Equal digests, and logits equal by the parity rules."""
        return self.digests_equal and self.parity.holds

    def to_json(self) -> dict[str, Any]:
        """Names as in the records."""
        return {
            "digest": {
                "training": self.training.to_json(),
                "file": self.file.to_json(),
                "kernel": self.kernel.to_json(),
            },
            "max_logit_difference": self.parity.max_logit_difference,
            "median_logit_difference": self.parity.median_logit_difference,
            "top1_agreement": self.parity.top1_agreement,
            "parity_tokens": self.parity.tokens,
            "parity_holds": self.holds,
        }

    def require(self) -> None:
        """Raises `CheckFailed` (``receipt.digest`` or ``receipt.logits``) unless it holds."""
        if not self.digests_equal:
            places = {"training": self.training, "file": self.file, "kernel": self.kernel}
            raise CheckFailed(
                "receipt.digest",
                "the trits differ: "
                + ", ".join(f"{place} {value.trits[:16]}" for place, value in places.items()),
                "this is a bug, or damaged memory: please report it",
            )
        if not self.parity.holds:
            raise CheckFailed(
                "receipt.logits",
                f"the packed run differs from the training forward: {self.parity}",
                "this is a bug: please report it",
            )


def live_digest(params: Mapping[str, Any], spec: ModelSpec) -> Digest:
    """Digest of latent weights as training uses them, computed in numpy."""
    rules = family_of(spec.family).rules
    tensors = {}
    for name, row in expected(spec).items():
        index = match(rules, name, "dot") if row.ternary else None
        if index is None:
            continue
        rule = rules[index]
        trits, scale = ternarize_weights(
            _matrix(row, np.asarray(params[name])),
            rule.scale_kind,
            rule.group_size,
            rule.scale_dtype,
        )
        tensors[name] = from_trits(
            trits, scale, scale_kind=rule.scale_kind, group_size=rule.group_size
        )
    return digest(tensors)


def _matrix(row: Expected, value: np.ndarray) -> np.ndarray:
    """The parameter as digests have it, [out, in]."""
    return np.ascontiguousarray(value.T) if row.transposed else value


def prove(
    params: Mapping[str, Any],
    spec: ModelSpec,
    file: str | os.PathLike,
    model: Model,
    tokens: np.ndarray,
) -> ParityReceipt:
    """Compares the live weights, the file, and the model loaded from it.

    Args:
      params: latent float32 weights of the training state, by canonical name.
      file: the packed file, opened again here.
      model: loaded from `file`; its buffers are digested as they are.
      tokens: int [batch, length] on which the logits are compared.
    """
    family = family_for(spec)
    training_forward = jax.jit(ternarize(family.forward(spec), family.rules, "qat"))
    reference = np.asarray(training_forward(dict(params), np.asarray(tokens, np.int32)))
    return ParityReceipt(
        training=live_digest(params, spec),
        file=open_checkpoint(file).digest(),
        kernel=model.digest,
        parity=compare_logits(reference, model.logits(tokens)),
    )
