"""The checkpoint doctor: what is wrong with a model, and what to do about it.

Each check is about a fault that real checkpoints had. Reads every tensor once,
one at a time. Decides nothing: the caller stops at errors, or lets one pass.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from bitnet_jax.core.errors import BadData, NoInput
from bitnet_jax.formats.checkpoint import Checkpoint, TensorEntry
from bitnet_jax.formats.locate import Place, locate
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.quant.dense import as_plain
from bitnet_jax.quant.digest import DigestBuilder
from bitnet_jax.quant.tensor import TERNARY, QuantTensor

ERROR, WARNING = "error", "warning"

# Errors that a conversion may go on past: what they are about can be read and written.
# With any other, there is no whole model to convert.
PASSABLE = (
    "digest.mismatch",
    "norm.float16",
    "scale.inverted",
    "tokenizer.vocabulary",
    "weights.all_zero",
    "weights.histogram",
    "weights.not_finite",
)

# Trits of trained BitNets, and of absmean on normal weights, are about a third zeros.
_ZERO_SHARE = (0.15, 0.65)
_ZERO_SHARE_BROKEN = 0.02
_LEAN = 0.15  # |plus - minus|
# A scale is a mean of weights; nobody trains weights of this size.
_LARGEST_SCALE = 8.0
# How far (as a factor) a scale and its inverse must differ to be told apart.
_TELLING = 1.3


@dataclass(frozen=True)
class Finding:
    """One fault: a stable code, how bad, where, in words, and the mend."""

    code: str
    severity: str
    tensor: str | None
    message: str
    fix: str

    def to_json(self) -> dict[str, str | None]:
        """As it stands in a record."""
        return asdict(self)


def examine_path(path: os.PathLike | str | Place) -> tuple[Finding, ...]:
    """As `examine`; what keeps the file from being opened is a finding too.

    Raises:
      NoInput: there is nothing at `path`. A file missing inside the model is a finding.
    """
    place = locate(path)
    try:
        checkpoint = open_checkpoint(place)
    except BadData as error:
        return (_of_error(error),)
    except NoInput as error:
        if not place.path.exists():
            raise
        return (_of_error(error),)
    return examine(checkpoint)


def examine(checkpoint: Checkpoint) -> tuple[Finding, ...]:
    """Reads and checks every tensor; errors first, else in the model's order."""
    findings: list[Finding] = list(_check_tokenizer(checkpoint))
    scales: dict[str, float] = {}
    digest: DigestBuilder | None = DigestBuilder()
    for name in sorted(checkpoint.entries, key=str.encode):
        entry = checkpoint.entries[name]
        try:
            value = entry.read()
        except BadData as error:
            findings.append(_of_error(error, name))
            digest = None if entry.ternary else digest
            continue
        if isinstance(value, QuantTensor):
            ternary = value.kind == TERNARY
            faults = tuple((_check_trits if ternary else _check_integers)(name, value))
            findings += faults
            # The scale of nothing but zeros is a floor, not a measurement; that of other kinds
            # is of a peak, and lies elsewhere.
            if ternary and not any(fault.code == "weights.all_zero" for fault in faults):
                scales[name] = float(np.exp(np.mean(np.log(np.asarray(value.scale)))))
            if digest is not None:
                digest.add(name, value)
        else:
            findings += _check_floats(name, entry, np.asarray(value))
    findings += _check_scales(scales)
    findings += _check_digests(checkpoint, digest)
    if not any(entry.ternary for entry in checkpoint.entries.values()):
        findings.append(
            Finding(
                "model.not_ternary",
                WARNING,
                None,
                "no tensor is ternary: this is a float model",
                "`bitnet train qat` trains a ternary one from it",
            )
        )
    order = {name: index for index, name in enumerate(checkpoint.entries)}
    return tuple(
        sorted(findings, key=lambda f: (f.severity != ERROR, order.get(f.tensor or "", -1)))
    )


def blocking(findings: tuple[Finding, ...], allow: tuple[str, ...] = ()) -> tuple[Finding, ...]:
    """The errors whose code is not in `allow`."""
    return tuple(f for f in findings if f.severity == ERROR and f.code not in allow)


def _of_error(error: BadData | NoInput, tensor: str | None = None) -> Finding:
    name = getattr(error, "tensor", None) or tensor
    return Finding(error.code, ERROR, name, error.message, error.hint or "convert it again")


# ------------------------------------------------------------------------ one tensor

_COUNTS = np.array(
    [
        [sum((byte >> 2 * j & 3) == code for j in range(4)) for code in range(3)]
        for byte in range(256)
    ]
)


def trit_counts(tensor: QuantTensor) -> tuple[int, int, int]:
    """How many trits are -1, 0 and 1, padding not counted."""
    codes = as_plain(np.asarray(tensor.codes), tensor.layout, tensor.in_features)
    histogram = np.zeros(256, np.int64)
    for piece in codes.reshape(-1, codes.shape[-1] * codes.shape[-2]):
        histogram += np.bincount(piece, minlength=256)
    minus, zero, plus = (int(count) for count in histogram @ _COUNTS)
    padding = codes.size * 4 - math.prod(tensor.canonical_shape)
    return minus, zero - padding, plus


def constant_rows(tensor: QuantTensor) -> int:
    """How many rows hold one trit only (mostly: rows of zeros)."""
    codes = as_plain(np.asarray(tensor.codes), tensor.layout, tensor.in_features)
    blocks = codes.reshape(-1, *codes.shape[-2:])
    bands = codes.shape[-3]
    whole = tensor.in_features // 16  # blocks without padding tell; the last may not
    found = 0
    for index, block in enumerate(blocks):
        last = index % bands == bands - 1
        real = tensor.out_features - 16 * (bands - 1) if last else 16
        lines = block[: whole or None].reshape(-1, 16, 4)
        same = (lines == lines[:1, :, :1]).all(axis=(0, 2))
        same &= np.isin(lines[0, :, 0], (0x00, 0x55, 0xAA))
        found += int(same[:real].sum())
    return found


def _check_trits(name: str, tensor: QuantTensor) -> Iterator[Finding]:
    minus, zero, plus = trit_counts(tensor)
    total = minus + zero + plus
    if zero == total:
        yield Finding(
            "weights.all_zero", ERROR, name, f"all {total} trits are zero",
            "the upload is broken, as some of the real model were: get another revision",
        )  # fmt: skip
        return
    share, lean = zero / total, abs(plus - minus) / total
    words = f"{minus / total:.1%} are -1, {share:.1%} 0, {plus / total:.1%} +1"
    if not _ZERO_SHARE_BROKEN <= share <= 1 - _ZERO_SHARE_BROKEN:
        yield Finding(
            "weights.histogram", ERROR, name, f"the trits are no ternary weights': {words}",
            "it was quantized by sign or by maximum (a known fault of i2_s converters on float "
            "input): quantize the original by absmean",
        )  # fmt: skip
    elif not _ZERO_SHARE[0] <= share <= _ZERO_SHARE[1] or lean > _LEAN:
        yield Finding(
            "weights.histogram", WARNING, name, f"unusual for its family: {words}",
            "compare it with the original: `bitnet model inspect` shows the shares of both",
        )  # fmt: skip
    rows = constant_rows(tensor)
    if rows:
        yield Finding(
            "weights.constant_rows", WARNING, name, f"{rows} rows hold one value only",
            "dead outputs: look at the training, or compare with the original",
        )  # fmt: skip


def _check_integers(name: str, tensor: QuantTensor) -> Iterator[Finding]:
    """Codes of int8, int6 and int4."""
    codes = np.asarray(tensor.codes_matrix())
    if not codes.any():
        yield Finding(
            "weights.all_zero", ERROR, name, f"all {codes.size} codes are zero",
            "the file was made from a broken one: quantize the original again",
        )  # fmt: skip
        return
    rows = int((codes == codes[..., :1]).all(-1).sum()) if codes.shape[-1] > 1 else 0
    if rows:
        yield Finding(
            "weights.constant_rows", WARNING, name, f"{rows} rows hold one value only",
            "dead outputs: look at the training, or compare with the original",
        )  # fmt: skip


def _check_floats(name: str, entry: TensorEntry, value: np.ndarray) -> Iterator[Finding]:

    bad = int(value.size - np.isfinite(value).sum())
    if bad:
        yield Finding(
            "weights.not_finite", ERROR, name, f"{bad} of {value.size} values are NaN or infinite",
            "a cast overflowed or the training diverged: convert from the original dtype",
        )  # fmt: skip
    if not value.any() and not name.endswith("bias"):  # the bias of a fresh model is zero
        yield Finding(
            "weights.all_zero", ERROR, name, f"all {value.size} values are zero",
            "the upload is broken: get another revision",
        )  # fmt: skip
    elif "sub_norm" in name and entry.dtype == "float16":
        lost = int((value == 0).sum())
        yield Finding(
            "norm.float16", ERROR if lost else WARNING, name,
            f"a sub-norm in float16, which cannot hold its values near 1e-32: {lost} of "
            f"{value.size} are zero",
            "take the sub-norms from the bfloat16 original",
        )  # fmt: skip


# ----------------------------------------------------------------------- the whole


def _check_scales(scales: dict[str, float]) -> Iterator[Finding]:
    """A scale that is 1/s: too large to be a mean, or on the wrong side of its fellows."""
    fix = (
        "weight_scale divides in `bitlinear` and multiplies in `autobitlinear`: check linear_class "
        "in config.json against the tool that wrote the file"
    )
    if not scales:
        return
    logs = {name: math.log(scale) for name, scale in scales.items()}
    median = float(np.median(list(logs.values())))
    mirrored = {
        name
        for name, log in logs.items()
        if abs(log + median) < min(abs(median), abs(log - median) - math.log(_TELLING))
    }
    # Where the spread is wide there is no gap, and being on the other side of 1 says nothing.
    rest = [log for name, log in logs.items() if name not in mirrored]
    gap = min((abs(logs[m] - log) for m in mirrored for log in rest), default=0.0)
    if len(mirrored) * 4 > len(logs) or gap < math.log(_TELLING):
        mirrored = set()
    for name, scale in scales.items():
        if scale > _LARGEST_SCALE or name in mirrored:
            yield Finding(
                "scale.inverted",
                ERROR,
                name,
                f"its scale is {scale:.6g}, the median of all is {math.exp(median):.6g}: it looks "
                "like 1/s",
                fix,
            )


def _check_digests(checkpoint: Checkpoint, digest: DigestBuilder | None) -> Iterator[Finding]:
    stated = checkpoint.source.detail.get("digests")
    if not stated or digest is None:
        return
    found = digest.result().to_json()
    for key in ("trits", "trits_scales"):
        if stated.get(key) != found[key]:
            yield Finding(
                "digest.mismatch",
                ERROR,
                None,
                f"the digest `{key}` is {found[key]}, the file says {stated.get(key)}",
                "it was written by a tool that computes another one, or altered: convert again",
            )


def _check_tokenizer(checkpoint: Checkpoint) -> Iterator[Finding]:
    files = checkpoint.tokenizer
    if files is None:
        yield Finding(
            "tokenizer.missing", WARNING, None, "there is no tokenizer.json",
            "put it beside the weights: without it only token ids can be used",
        )  # fmt: skip
        return
    try:
        raw = json.loads(files.tokenizer_json)
        ids = [*raw["model"]["vocab"].values(), *(t["id"] for t in raw.get("added_tokens") or [])]
        most = max(map(int, ids))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield Finding(
            "tokenizer.invalid", WARNING, None,
            f"tokenizer.json is not one of the `tokenizers` library's ({type(error).__name__})",
            "get the original file",
        )  # fmt: skip
        return
    if most >= checkpoint.spec.vocab_size:
        yield Finding(
            "tokenizer.vocabulary", ERROR, None,
            f"the tokenizer gives ids up to {most}, the embedding has "
            f"{checkpoint.spec.vocab_size} rows",
            "tokenizer and weights are not of one model: get both from one revision",
        )  # fmt: skip
