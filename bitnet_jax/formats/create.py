"""Random models that look like the released ones, for tests without a download.

Names, shapes, dtypes, config spelling, tokenizer structure and the traps (sub-norm
values that only bf16 and f32 hold, `auto_map`, an old config) are the real
checkpoint's; the weights are noise. The same shape and seed give the same trits
in every encoding. A planted defect makes one known fault.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np

from bitnet_jax.containers.dtypes import numpy_dtype
from bitnet_jax.core.errors import UsageError, did_you_mean
from bitnet_jax.core.paths import atomic_directory, check_output
from bitnet_jax.formats.checkpoint import Checkpoint, Source, TensorEntry
from bitnet_jax.formats.create_tokenizer import make_tokenizer
from bitnet_jax.formats.huggingface_write import Spelling, write_huggingface
from bitnet_jax.formats.save import Prove, Saved, check_kind, save_checkpoint, telling_space
from bitnet_jax.formats.shapes import SMALLEST, shape
from bitnet_jax.models.families import family_of
from bitnet_jax.models.names import Expected, expected
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.quant.ternary import from_trits

DEFECTS: dict[str, str] = {
    "zero_mlp": "the first layer's MLP is all zeros, as in some uploads of the real model",
    "inverted_scale": "one scale is 1/s where s belongs: a divider written for a multiplier",
    "missing_subnorm": "the first attention sub-norm is not in the file",
    "f16_subnorm": "sub-norms are stored as float16, where their small values become zero",
}
_FIRST_SUB_NORM = "layers.0.self_attn.attn_sub_norm"
_INVERTED = "layers.0.mlp.down_proj"
# Where each defect is planted: what stands in the names of the parameters that it alters.
_PLACES = {
    "zero_mlp": "layers.0.mlp.",
    "inverted_scale": _INVERTED,
    "missing_subnorm": _FIRST_SUB_NORM,
    "f16_subnorm": "sub_norm",
}
_ROWS_AT_ONCE = 4096
# Share of trits that are 0 in the released model's family, in 256ths: 31 %.
_ZEROS = 79
_TRIT_OF_BYTE = np.sign(np.maximum(np.arange(256) - _ZEROS + 1, 0)).astype(np.int8)
_TRIT_OF_BYTE[_ZEROS::2] *= -1
# Scales lie on one side of 1, so that an inverted one stands out.
_SCALES = (1.2, 1.9)


def create(
    name: str,
    *,
    seed: int = 0,
    layers: int | None = None,
    vocab_size: int | None = None,
    defect: str | None = None,
) -> Checkpoint:
    """Returns a random model of a named shape (`Family.shapes`), made as it is read.

    Raises:
      UsageError: shape or defect is not known, or the cut leaves nothing.
    """
    if defect is not None and defect not in DEFECTS:
        raise UsageError(
            "create.unknown_defect", f"defect `{defect}` is not known",
            did_you_mean(defect, DEFECTS),
        )  # fmt: skip
    spec = shape(name, layers, vocab_size)
    entries = {item.name: _entry(item, seed, defect) for item in expected(spec).values()}
    planted = _PLACES.get(defect or "")
    if planted is not None and not any(planted in entry for entry in entries):
        raise UsageError(
            "create.defect_family",
            f"defect `{defect}` is planted in `{planted}`, and family `{spec.family}` has none",
            "plant it in a model of family `bitnet`",
        )
    if defect == "missing_subnorm":
        del entries[_FIRST_SUB_NORM]
    detail = {
        "shape": name, "seed": seed, "defect": defect,
        "linear_class": "autobitlinear", "quantization_mode": "offline",
    }  # fmt: skip
    source = Source(Path(name), "created", "packed", detail)
    tokenizer = make_tokenizer(spec) if spec.vocab_size >= SMALLEST else None
    return Checkpoint(spec, entries, tokenizer, source)


def save_created(
    checkpoint: Checkpoint,
    path: Path,
    *,
    format: str = "huggingface",
    encoding: str | None = None,
    force: bool = False,
    prove: Prove = lambda written, saved: None,
) -> Saved:
    """Writes a created model; as `huggingface` in the released checkpoint's own spelling.

    `packed` is what microsoft/bitnet-b1.58-2B-4T holds, `master` its bf16 twin (the
    trainable weights, not ``trits * s/p``); in another family, what its released models
    hold. Other formats as `save_checkpoint`, which alone calls `prove`: a folder is replaced
    with all that it holds.
    """
    if format != "huggingface" or encoding not in (None, "packed", "master"):
        return save_checkpoint(
            checkpoint, path, format=format, encoding=encoding, force=force, prove=prove
        )
    encoding = encoding or ("master" if _released(checkpoint) == "latent" else "packed")
    if encoding == "master" and checkpoint.source.detail.get("defect") == "inverted_scale":
        raise UsageError(
            "create.defect_encoding", "a master stores no scale that could be inverted",
            "use --encoding packed",
        )  # fmt: skip
    check_output(path, force=force)
    check_kind(path, directory=True)
    extra = _real_keys(checkpoint)
    spelling = Spelling(old=True, exact=False, extra=extra, partial=True, card=False)
    with telling_space(checkpoint, path), atomic_directory(path, force=force) as folder:
        packed = _released(checkpoint).replace("latent", "bitlinear")
        stored = "latent" if encoding == "master" else packed
        written = write_huggingface(checkpoint, folder, stored, spelling=spelling)
    outputs = tuple(path / file for file in written.files)
    return Saved(path, outputs, "huggingface", encoding, tuple(written.warnings))


def _released(checkpoint: Checkpoint) -> str:
    """How released checkpoints of its family are stored (`HuggingFace.released`)."""
    huggingface = family_of(checkpoint.spec.family).huggingface
    return "autobitlinear" if huggingface is None else huggingface.released


def _real_keys(checkpoint: Checkpoint) -> dict[str, object]:
    """What the released config.json says beside the spec."""
    huggingface = family_of(checkpoint.spec.family).huggingface
    keys: dict[str, object] = {"torch_dtype": "bfloat16"}
    if huggingface is not None and huggingface.auto_map:
        keys["auto_map"] = dict(huggingface.auto_map)
    if checkpoint.spec.eos_token_ids:
        keys["eos_token_id"] = checkpoint.spec.eos_token_ids[0]
    return keys


# --------------------------------------------------------------------------- tensors


def _rng(seed: int, name: str) -> np.random.Generator:
    # Each tensor has its own stream: the order of reading changes nothing.
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _entry(item: Expected, seed: int, defect: str | None) -> TensorEntry:
    name, size = item.name, item.shape
    if item.ternary:
        stored = item.shape if item.rows else item.file_shape
        matrix = _Matrix(name, stored, seed, defect, item.transposed)
        return TensorEntry(name, size, "bfloat16", True, matrix.read, matrix.latent)
    make = _kind_of(name)
    half = defect == "f16_subnorm" and "sub_norm" in name
    dtype = "float16" if half else "bfloat16"

    def read() -> np.ndarray:
        with np.errstate(over="ignore", under="ignore"):
            return make(_rng(seed, name), size).astype(numpy_dtype(dtype))

    return TensorEntry(name, size, dtype, False, read)


@dataclass(frozen=True)
class _Matrix:
    """One ternary matrix: trits first, and masters that round to exactly those trits.

    Attributes:
      shape: [out, in]; the parameter itself is [in, out] where it is `transposed`.
    """

    name: str
    shape: tuple[int, ...]
    seed: int
    defect: str | None
    transposed: bool

    def _trits(self) -> np.ndarray:
        if self.defect == "zero_mlp" and self.name.startswith("layers.0.mlp."):
            return np.zeros(self.shape, np.int8)
        rng = _rng(self.seed, self.name)
        return _TRIT_OF_BYTE[rng.integers(0, 256, self.shape, dtype=np.uint8)]

    def _scale(self) -> np.ndarray:
        rng = _rng(self.seed, self.name + "#scale")
        scale = np.float32(rng.uniform(*_SCALES)).astype(ml_dtypes.bfloat16)
        if self.defect == "inverted_scale" and self.name == _INVERTED:
            scale = (np.float32(1) / scale.astype(np.float32)).astype(ml_dtypes.bfloat16)
        return np.array(scale, np.float32)

    def read(self) -> QuantTensor:
        tensor = from_trits(self._trits(), self._scale(), scale_dtype="bfloat16", dtype="bfloat16")
        if not self.transposed:
            return tensor
        return replace(tensor, shape=self.shape[::-1], out_axes=(1,), in_axes=(0,))

    def latent(self) -> np.ndarray:
        """Master weights, bfloat16, whose absmean is the scale to about a percent.

        A zero lies within 0.45 s, a one between 0.6 s and 2.1 s: 0.31 x 0.225 + 0.69 x
        1.35 = 1, and the margin to s/2 is wider than the mean's error.
        """
        trits = self._trits()
        noise = _rng(self.seed, self.name + "#latent").random(self.shape, dtype=np.float32)
        size = np.where(trits == 0, (noise - np.float32(0.5)) * np.float32(0.9),
                        trits * (np.float32(0.6) + noise * np.float32(1.5)))  # fmt: skip
        if not trits.any():
            size[:] = 0
        master = (size * self._scale()).astype(ml_dtypes.bfloat16)
        return master.T if self.transposed else master


Maker = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _embedding(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    table = np.empty(size, ml_dtypes.bfloat16)
    for start in range(0, size[0], _ROWS_AT_ONCE):  # the float32 of all rows would take gigabytes
        rows = table[start : start + _ROWS_AT_ONCE]
        rows[:] = rng.standard_normal(rows.shape, dtype=np.float32) * np.float32(0.02)
    return table


def _norm(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(0.5, 1.5, size).astype(np.float32)


def _bias(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(-0.05, 0.05, size).astype(np.float32)


def _sub_norm(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Small values, one in fifty so small (1e-32) that float16 turns it into zero."""
    weights = rng.uniform(0.01, 0.05, size).astype(np.float32)
    tiny = rng.random(size) < 0.02
    tiny[0] = True
    return np.where(tiny, np.float32(1e-32) * rng.choice([-1, 1], size), weights).astype(np.float32)


# The first word that stands in the name decides.
_MAKERS: tuple[tuple[str, Maker], ...] = (
    ("bias", _bias),
    ("sub_norm", _sub_norm),
    ("norm", _norm),
    ("", _embedding),
)


def _kind_of(name: str) -> Maker:
    return next(make for word, make in _MAKERS if word in name)
