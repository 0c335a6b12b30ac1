"""The checkpoint doctor: what is wrong with a model, and what to do about it.

Each check is about a fault that real checkpoints had. Reads every tensor once,
one at a time. Decides nothing: the caller stops at errors, or lets one pass.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase

import numpy as np

from bitnet_jax.core.errors import BadData, NoInput
from bitnet_jax.formats.checkpoint import Checkpoint, TensorEntry
from bitnet_jax.formats.locate import Place, locate
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.survey import Survey
from bitnet_jax.models.families import family_of
from bitnet_jax.quant.dense import as_plain
from bitnet_jax.quant.digest import Digest
from bitnet_jax.quant.finite import count_not_finite
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
        checkpoint = open_checkpoint(place, check=True)
    except BadData as error:
        return (_of_error(error),)
    except NoInput as error:
        if not place.path.exists():
            raise
        return (_of_error(error),)
    return examine(checkpoint)


def examine(checkpoint: Checkpoint) -> tuple[Finding, ...]:
    """Reads and checks every tensor; errors first, else in the model's order."""
    examiner = Examiner(checkpoint)
    survey = Survey(checkpoint, (examiner,))
    digest = True
    for name in sorted(checkpoint.entries, key=str.encode):
        entry = checkpoint.entries[name]
        try:
            value = entry.read()
        except BadData as error:
            examiner.fault(name, error)
            digest &= not entry.ternary
            continue
        survey.see(name, value)
    return examiner.findings(survey.digest if digest else None)


class Examiner:
    """The checks, of tensors that somebody else reads; `see` may be called from many threads."""

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint = checkpoint
        self._found: list[Finding] = []
        self._scales: dict[str, float] = {}

    def see(self, name: str, value: QuantTensor | np.ndarray) -> None:
        """Checks one tensor."""
        if not isinstance(value, QuantTensor):
            part = self.begin(name)
            part(np.asarray(value))
            part(None)
            return
        ternary = value.kind == TERNARY
        faults = tuple((_check_trits if ternary else _check_integers)(name, value))
        self._found += faults
        # The scale of nothing but zeros is a floor, not a measurement; that of other kinds is of
        # a peak, and lies elsewhere.
        if ternary and not any(fault.code == "weights.all_zero" for fault in faults):
            self._scales[name] = float(np.exp(np.mean(np.log(np.asarray(value.scale)))))

    def begin(self, name: str) -> Callable[[np.ndarray | None], None]:
        """Checks a float tensor that comes in pieces, and is at its end with None."""
        floats = _Floats()

        def part(value: np.ndarray | None) -> None:
            if value is None:
                zero = family_of(self._checkpoint.spec.family).may_be_zero
                self._found += _check_floats(name, self._checkpoint.entries[name], floats, zero)
            else:
                floats.add(value)

        return part

    def fault(self, name: str, error: BadData) -> None:
        """Keeps what a tensor could not be read for."""
        self._found.append(_of_error(error, name))

    def findings(self, digest: Digest | None) -> tuple[Finding, ...]:
        """What was found, once every tensor has passed by; `digest` is None if it has none."""
        checkpoint = self._checkpoint
        findings = [*_check_tokenizer(checkpoint), *self._found]
        scales = dict(sorted(self._scales.items()))
        findings += [*_check_scales(scales), *_check_digests(checkpoint, digest)]
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
            sorted(
                findings,
                key=lambda f: (f.severity != ERROR, order.get(f.tensor or "", -1), f.code),
            )
        )


def blocking(findings: tuple[Finding, ...], allow: tuple[str, ...] = ()) -> tuple[Finding, ...]:
    """The errors whose code is not in `allow`."""
    return tuple(f for f in findings if f.severity == ERROR and f.code not in allow)


def _of_error(error: BadData | NoInput, tensor: str | None = None) -> Finding:
    name = getattr(error, "tensor", None) or tensor
    return Finding(error.code, ERROR, name, error.message, error.hint or "convert it again")


# ------------------------------------------------------------------------ one tensor

_LOW_BITS = np.uint64(0x5555555555555555)
# So many that their bits are counted in 32, and stay in a core's cache.
_WORDS_AT_ONCE = 1 << 15


def trit_counts(tensor: QuantTensor) -> tuple[int, int, int]:
    """How many trits are -1, 0 and 1, padding not counted."""
    codes = as_plain(np.asarray(tensor.codes), tensor.layout, tensor.in_features)
    words = np.ascontiguousarray(codes).reshape(-1).view(np.uint64)  # lines are 64 bytes
    # Code 1 (the trit 0) has the low bit of its pair, code 2 (the trit 1) the high one.
    zero = both = 0
    for start in range(0, words.size, _WORDS_AT_ONCE):
        piece = words[start : start + _WORDS_AT_ONCE]
        zero += int(np.bitwise_count(piece & _LOW_BITS).sum(dtype=np.uint32))
        both += int(np.bitwise_count(piece).sum(dtype=np.uint32))
    plus = both - zero
    total = math.prod(tensor.canonical_shape)
    padding = codes.size * 4 - total
    return total - (zero - padding) - plus, zero - padding, plus


_ALL_ALIKE = np.array([0x00000000, 0x55555555, 0xAAAAAAAA], np.uint32)


def constant_rows(tensor: QuantTensor) -> int:
    """How many rows hold one trit only (mostly: rows of zeros)."""
    codes = as_plain(np.asarray(tensor.codes), tensor.layout, tensor.in_features)
    # A line is 16 rows of 16 trits: a word each, whatever the order inside.
    bands = np.ascontiguousarray(codes).view("<u4").reshape(-1, *codes.shape[-3:-1], 16)
    whole = tensor.in_features // 16 or 1  # blocks without padding tell; the last may not
    first = bands[:, :, 0]
    found = 0
    for matrix, band, row in np.argwhere(np.isin(first, _ALL_ALIKE)):
        if band * 16 + row < tensor.out_features:
            line = bands[matrix, band, :whole, row]
            found += bool((line == line[0]).all())
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


@dataclass
class _Floats:
    """What is counted of a float tensor: values, those that are no numbers, those that are zero."""

    size: int = 0
    bad: int = 0
    zeros: int = 0

    def add(self, part: np.ndarray) -> None:
        self.size += part.size
        self.bad += count_not_finite(part)
        # -0.0 is zero too; numpy takes ten times longer over bfloat16 than over its bits.
        bits = part.view(np.uint16) << np.uint16(1) if part.dtype.itemsize == 2 else part
        self.zeros += part.size - int(np.count_nonzero(bits))


def _check_floats(
    name: str, entry: TensorEntry, floats: _Floats, may_be_zero: tuple[str, ...]
) -> Iterator[Finding]:
    if floats.bad:
        yield Finding(
            "weights.not_finite", ERROR, name,
            f"{floats.bad} of {floats.size} values are NaN or infinite",
            "a cast overflowed or the training diverged: convert from the original dtype",
        )  # fmt: skip
    if floats.zeros == floats.size and not any(fnmatchcase(name, row) for row in may_be_zero):
        yield Finding(
            "weights.all_zero", ERROR, name, f"all {floats.size} values are zero",
            "the upload is broken: get another revision",
        )  # fmt: skip
    elif "sub_norm" in name and entry.dtype == "float16":
        yield Finding(
            "norm.float16", ERROR if floats.zeros else WARNING, name,
            f"a sub-norm in float16, which cannot hold its values near 1e-32: {floats.zeros} of "
            f"{floats.size} are zero",
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


def _check_digests(checkpoint: Checkpoint, digest: Digest | None) -> Iterator[Finding]:
    stated = checkpoint.source.detail.get("digests")
    if not stated or digest is None:
        return
    found = digest.to_json()
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
