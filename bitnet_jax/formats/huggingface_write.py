"""Writing `transformers` checkpoints: a directory that its loader takes as it stands.

Encodings: ``master`` (floats that the reference quantizes at load to the same
trits and scale), ``autobitlinear`` and ``bitlinear`` (packed, multiply or divide),
``packed`` (whichever of the two the source was), ``latent`` (the trainable
weights). Tensors pass through one at a time; the config is written last, when
the scales are known. Writes into a folder it is given: the caller makes it atomic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

from bitnet_jax.containers.dtypes import NAMES, numpy_dtype
from bitnet_jax.containers.safetensors_write import (
    PAD_PREFIX,
    Planned,
    SafetensorsWriter,
    encode_header,
)
from bitnet_jax.core.errors import CannotCreate
from bitnet_jax.formats import tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.huggingface_config import Quantization, check_spelling, spell
from bitnet_jax.formats.huggingface_encoding import choose_encoding
from bitnet_jax.formats.huggingface_packing import pack, packed_rows
from bitnet_jax.formats.huggingface_weights import (
    LATENT_KEY,
    SCALE_SUFFIX,
    ExactScale,
    exact_metadata,
    turned,
)
from bitnet_jax.models.names import Expected, expected
from bitnet_jax.quant.tensor import TERNARY, QuantTensor
from bitnet_jax.quant.ternary import EPSILON

MAX_SHARD_BYTES = 5 << 30


@dataclass
class Written:
    """What was written: file names, the encoding chosen, and what the user should know."""

    encoding: str
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Spelling:
    """How the config and metadata are spelled; the default is what users get.

    Attributes:
      old: transformers 4's spelling of the config.
      exact: carry the exact scales in the metadata.
      extra: keys that override the config's.
      partial: leave out tensors that the checkpoint lacks (made with a defect).
    """

    old: bool = False
    exact: bool = True
    extra: Mapping[str, object] = field(default_factory=dict)
    partial: bool = False


# --------------------------------------------------------------------------- tensors

Piece = tuple[Planned, Callable[[], np.ndarray]]


class _Matrices:
    """Turns ternary tensors into what is stored, and keeps their scales on the way."""

    def __init__(self, checkpoint: Checkpoint, encoding: str):
        self._checkpoint = checkpoint
        self._encoding = encoding
        self.exact: dict[str, ExactScale] = {}

    def weight(self, item: Expected) -> np.ndarray:
        """The stored form of one matrix; remembers its scale."""
        entry = self._checkpoint.entries[item.name]
        tensor = entry.read()
        assert isinstance(tensor, QuantTensor)
        if tensor.kind != TERNARY:
            raise CannotCreate(
                "huggingface.kind",
                f"`{item.name}` is {tensor.kind}; this format holds ternary matrices and floats",
                "keep it float, or make it ternary, by a rule",
            )
        if tensor.scale_kind != "tensor" or tensor.stack_axes:
            raise CannotCreate(
                "huggingface.scale_kind",
                f"`{item.name}` has {tensor.scale_kind} scales; this format holds one scale for "
                "each tensor, and one for all would change the model",
                "keep it as --format bitnet",
            )
        scale = np.float32(tensor.scale)
        self.exact[item.name] = ExactScale(scale, tensor.scale_dtype, tensor.dtype)
        if self._encoding == "latent":
            assert entry.latent is not None
            return turned(item, entry.latent())
        trits = np.asarray(tensor.trits())
        if self._encoding == "master":
            return _master(item.name, trits, scale)
        return pack(trits)

    def scale(self, item: Expected) -> np.ndarray:
        """The stored `weight_scale` [1]: bfloat16 where that is exact, else float32."""
        exact = self.exact[item.name].value
        value = exact if self._encoding == "autobitlinear" else np.float32(1) / exact
        narrow = value.astype(ml_dtypes.bfloat16)
        fits = narrow.astype(np.float32) == value
        return np.array([narrow if fits else value])


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


def _planned(
    checkpoint: Checkpoint, wanted: Mapping[str, Expected], encoding: str, matrices: _Matrices
) -> Iterator[tuple[int, Piece]]:
    """Every tensor to write, with its rank: floats first, codes next, scales last."""
    for item in wanted.values():
        entry = checkpoint.entries[item.name]
        name, shape = item.huggingface, item.file_shape
        if not entry.ternary:
            dtype = numpy_dtype(entry.dtype)
            yield -dtype.itemsize, (Planned(name, NAMES[dtype], shape), _reader(item, entry.read))
            continue
        stored = {"master": "F32", "latent": NAMES[numpy_dtype(entry.dtype)]}.get(encoding, "U8")
        packed = stored == "U8"
        plan = Planned(name, stored, (packed_rows(shape[0]), *shape[1:]) if packed else shape)
        rank = 0 if packed else -numpy_dtype("float32" if stored == "F32" else entry.dtype).itemsize
        yield rank, (plan, partial(matrices.weight, item))
        if packed:
            plan = Planned(name + SCALE_SUFFIX, "F32", (1,))
            yield 1, (plan, partial(matrices.scale, item))


def _reader(item: Expected, read: Callable[[], object]) -> Callable[[], np.ndarray]:
    return lambda: turned(item, np.asarray(read()))


def _shards(pieces: list[tuple[int, Piece]], limit: int) -> list[list[tuple[int, Piece]]]:
    """Cuts the tensors, in the model's order, into files of at most `limit` bytes each."""
    shards: list[list[tuple[int, Piece]]] = [[]]
    size = 0
    for rank, piece in pieces:
        # A scale stays with its codes: it is known when those have been read.
        if shards[-1] and rank != 1 and size + piece[0].nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append((rank, piece))
        size += piece[0].nbytes
    return shards


def _write_file(
    path: Path,
    pieces: list[tuple[int, Piece]],
    matrices: _Matrices,
    encoding: str,
    exact: bool,
) -> dict[str, int]:
    """Writes one safetensors file; returns tensor name -> bytes."""
    # Wide before narrow keeps each aligned to its element; scales come after all codes.
    pieces = sorted(pieces, key=lambda item: item[0])
    fixed = {"format": "pt"}
    if encoding == "latent" and exact:
        fixed[LATENT_KEY] = "true"
    bound = {
        piece[0].name: ExactScale(np.float32(-1.2345678806304932e-38), "bfloat16", "bfloat16")
        for rank, piece in pieces
    }
    rows = [(plan, 1 << 50) for _, (plan, _) in pieces] + [(Planned(PAD_PREFIX, "U8", (3,)), 1)]
    reserve = len(encode_header(rows, fixed | exact_metadata(bound)))
    before = set(matrices.exact)
    sizes: dict[str, int] = {}
    with path.open("wb") as stream:
        writer = SafetensorsWriter(stream, reserve)
        scales: list[tuple[Planned, np.ndarray]] = []
        for rank, (plan, read) in pieces:
            data = read()
            if rank == 1:
                scales.append((Planned(plan.name, NAMES[data.dtype], plan.shape), data))
                continue
            writer.write(plan, data)
            sizes[plan.name] = plan.nbytes
        if scales and writer.offset % 4:
            gap = 4 - writer.offset % 4
            writer.write(Planned(PAD_PREFIX + "0", "U8", (gap,)), np.zeros(gap, np.uint8))
        for plan, data in sorted(scales, key=lambda item: -item[1].itemsize):
            writer.write(plan, data)
            sizes[plan.name] = plan.nbytes
        here = {name: value for name, value in matrices.exact.items() if name not in before}
        writer.finish(fixed | (exact_metadata(here) if exact else {}))
    return sizes


# ------------------------------------------------------------------------- directory


def write_huggingface(
    checkpoint: Checkpoint,
    folder: Path,
    encoding: str | None = None,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    spelling: Spelling = Spelling(),
) -> Written:
    """Writes `checkpoint` into the empty `folder`.

    Raises:
      CannotCreate: the encoding cannot hold the model (codes ``huggingface.*``).
    """
    encoding, warnings = choose_encoding(checkpoint, encoding)
    check_spelling(checkpoint.spec, encoding != "float")
    written = Written(encoding, warnings=warnings)
    matrices = _Matrices(checkpoint, encoding)
    wanted = expected(checkpoint.spec)
    if spelling.partial:
        wanted = {name: item for name, item in wanted.items() if name in checkpoint.entries}
    pieces = list(_planned(checkpoint, wanted, encoding, matrices))
    shards = _shards(pieces, max_shard_bytes)
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        single = len(shards) == 1
        name = (
            "model.safetensors" if single else f"model-{number:05}-of-{len(shards):05}.safetensors"
        )
        sizes = _write_file(folder / name, shard, matrices, encoding, spelling.exact)
        weight_map |= dict.fromkeys(sizes, name)
        total += sum(sizes.values())
        written.files.append(name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        _put(folder, "model.safetensors.index.json", tokenizer_files.to_json(index), written)
    config = spell(
        checkpoint.spec,
        _quantization(checkpoint, encoding),
        _load_dtype(checkpoint, encoding, matrices),
        old_spelling=spelling.old,
    )
    config = dict(sorted((config | dict(spelling.extra)).items()))
    _put(folder, "config.json", tokenizer_files.to_json(config), written)
    for name, data in _companions(checkpoint).items():
        _put(folder, name, data, written)
    return written


def _put(folder: Path, name: str, data: bytes, written: Written) -> None:
    (folder / name).write_bytes(data)
    written.files.append(name)


def _quantization(checkpoint: Checkpoint, encoding: str) -> Quantization:
    if encoding == "float":
        return Quantization(present=False)
    kept = [
        item.huggingface.removesuffix(".weight")
        for item in expected(checkpoint.spec).values()
        if item.ternary and not checkpoint.entries[item.name].ternary
    ]
    # Once the list is given, transformers no longer adds the head by itself.
    excluded = (*kept, "lm_head") if kept else ()
    online = encoding in ("master", "latent")
    linear_class = "autobitlinear" if online else encoding
    return Quantization(True, linear_class, "online" if online else "offline", excluded)


def _load_dtype(checkpoint: Checkpoint, encoding: str, matrices: _Matrices) -> str:
    """The dtype the loader should use: it casts floats and scales to it, so it must hold them."""
    floats = {entry.dtype for entry in checkpoint.entries.values() if not entry.ternary}
    if floats != {"bfloat16"} or encoding == "master":
        return "float32"
    if encoding in ("float", "latent"):
        return "bfloat16"
    narrow = all(
        matrices.scale(item).dtype == ml_dtypes.bfloat16
        for item in expected(checkpoint.spec).values()
        if item.name in matrices.exact
    )
    return "bfloat16" if narrow else "float32"


def _companions(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Tokenizer, template and generation defaults, as files."""
    spec, files = checkpoint.spec, checkpoint.tokenizer
    generation = {
        "bos_token_id": spec.bos_token_id,
        "eos_token_id": list(spec.eos_token_ids),
        "pad_token_id": spec.pad_token_id,
    }
    generation = {key: value for key, value in generation.items() if value not in (None, [])}
    out = tokenizer_files.to_files(files) if files is not None else {}
    if generation:
        out.setdefault(tokenizer_files.GENERATION, tokenizer_files.to_json(generation))
    special = {
        key: value
        for key, value in (files.config if files is not None else {}).items()
        if key in ("bos_token", "eos_token", "pad_token", "unk_token", "additional_special_tokens")
        and value is not None
    }
    if special:
        out["special_tokens_map.json"] = tokenizer_files.to_json(special)
    return out
