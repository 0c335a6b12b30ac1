"""Writing `transformers` checkpoints: a directory that its loader takes as it stands.

Encodings: ``master`` (floats that the reference quantizes at load to the same trits and scale),
``autobitlinear`` and ``bitlinear`` (packed, multiply or divide), ``packed`` (whichever of the
two the source was), ``latent`` (the trainable weights), ``dequantized`` (floats that are trits
times scale, of any kind). Tensors pass through one at a time; the config is written last, when
the scales are known. Writes into a folder it is given: the caller makes it atomic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

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
from bitnet_jax.formats import model_card, tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint, TensorEntry
from bitnet_jax.formats.huggingface_config import Quantization, check_spelling, spell
from bitnet_jax.formats.huggingface_encoding import UNQUANTIZED, choose_encoding
from bitnet_jax.formats.huggingface_packing import from_lines, pack, packed_rows
from bitnet_jax.formats.huggingface_weights import (
    LATENT_KEY,
    SCALE_SUFFIX,
    ExactScale,
    exact_metadata,
    turned,
)
from bitnet_jax.formats.metadata import CONFIG_KEY
from bitnet_jax.formats.model_files import SINGLE
from bitnet_jax.formats.survey import each, is_large, pieces
from bitnet_jax.models.names import Expected, expected
from bitnet_jax.quant.dense import as_plain
from bitnet_jax.quant.recover import one_scale_loss, recover
from bitnet_jax.quant.tensor import TERNARY, QuantTensor, broadcast_scale
from bitnet_jax.quant.ternary import EPSILON

MAX_SHARD_BYTES = 5 << 30
# The rank of a scale: after all else in its file.
_SCALE = 1


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
      card: write a model card.
    """

    old: bool = False
    exact: bool = True
    extra: Mapping[str, object] = field(default_factory=dict)
    partial: bool = False
    card: bool = True


# --------------------------------------------------------------------------- tensors


@dataclass(frozen=True)
class _Piece:
    """One tensor to write: of which parameters, its rank (floats, codes, scales), how it is read.

    Attributes:
      names: canonical; of several where they are one matrix there.
      parts: reads it in pieces of rows, where that spares memory.
    """

    names: tuple[str, ...]
    rank: int
    plan: Planned
    read: Callable[[], np.ndarray]
    parts: Callable[[], Iterator[np.ndarray]] | None = None

    @property
    def name(self) -> str:
        """The first of them: where it stands in the order of reading."""
        return self.names[0]


class _Matrices:
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


_KEEP = "keep it as --format bitnet; --encoding dequantized holds it, as floats"


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


def _planned(
    checkpoint: Checkpoint, wanted: Mapping[str, Expected], encoding: str, matrices: _Matrices
) -> Iterator[_Piece]:
    """Every tensor to write; in a file, floats come first, codes next, scales last."""
    # Those that are parts of one tensor there stand together.
    groups: dict[str, list[Expected]] = {}
    for item in wanted.values():
        groups.setdefault(item.huggingface, []).append(item)
    for name, items in groups.items():
        entries = [checkpoint.entries[item.name] for item in items]
        if len({entry.ternary for entry in entries}) > 1:
            raise CannotCreate(
                "huggingface.fused",
                f"`{name}` is one matrix there, and of its parts here only some are ternary",
                "make all of them ternary, or none",
            )
        entry, shape = entries[0], items[0].file_shape
        names = tuple(item.name for item in items)
        if not entry.ternary:
            wide = max((numpy_dtype(e.dtype) for e in entries), key=lambda d: d.itemsize)
            plan = Planned(name, NAMES[wide], shape)
            alone = len(items) == 1 and is_large(entry) and not items[0].transposed
            parts = partial(pieces, entry) if alone else None
            read = _reader(items, entries, wide)
            yield _Piece(names, -wide.itemsize, plan, read, parts)
            continue
        stored = {
            "master": "F32",
            "dequantized": "F32",
            "latent": NAMES[numpy_dtype(entry.dtype)],
        }.get(encoding, "U8")
        packed = stored == "U8"
        plan = Planned(name, stored, (packed_rows(shape[0]), *shape[1:]) if packed else shape)
        rank = 0 if packed else -numpy_dtype("float32" if stored == "F32" else entry.dtype).itemsize
        yield _Piece(names, rank, plan, partial(matrices.weight, items))
        if packed:
            plan = Planned(name + SCALE_SUFFIX, "F32", (1,))
            yield _Piece(names, _SCALE, plan, partial(matrices.scale, items[0]))


def _reader(
    items: Sequence[Expected], entries: Sequence[TensorEntry], dtype: np.dtype
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        parts = [
            turned(item, np.asarray(entry.read()))
            for item, entry in zip(items, entries, strict=True)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate([p.astype(dtype) for p in parts])

    return read


def _shards(pieces: list[_Piece], limit: int) -> list[list[_Piece]]:
    """Cuts the tensors, in the model's order, into files of at most `limit` bytes each."""
    shards: list[list[_Piece]] = [[]]
    size = 0
    for piece in pieces:
        # A scale stays with its codes: it is known when those have been read.
        if shards[-1] and piece.rank != _SCALE and size + piece.plan.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(piece)
        size += piece.plan.nbytes
    return shards


class _Shard:
    """One safetensors file while it is written: tensors come in any order, scales at the end."""

    def __init__(
        self, stream: BinaryIO, pieces: list[_Piece], matrices: _Matrices, fixed: dict[str, str]
    ):
        # Wide before narrow keeps each aligned to its element; scales come after all codes.
        self.pieces = sorted(pieces, key=lambda piece: piece.rank)
        self._matrices, self._fixed = matrices, fixed
        widest = ExactScale(np.float32(-1.2345678806304932e-38), "bfloat16", "bfloat16")
        named = [name for piece in pieces for name in (piece.plan.name, *piece.names[1:])]
        bound = exact_metadata(dict.fromkeys(named, widest))
        rows = [(piece.plan, 1 << 50) for piece in self.pieces]
        rows.append((Planned(PAD_PREFIX, "U8", (3,)), 1))
        self._writer = SafetensorsWriter(stream, len(encode_header(rows, fixed | bound)))
        self._places = {
            piece.plan.name: self._writer.reserve(piece.plan)
            for piece in self.pieces
            if piece.rank != _SCALE
        }
        self.sizes = {name: place.plan.nbytes for name, place in self._places.items()}

    def put(self, piece: _Piece, data: np.ndarray | None) -> None:
        """Writes one tensor, no scale, to its place; None: it is read here, in pieces."""
        place = self._places[piece.plan.name]
        if data is not None:
            self._writer.fill(place, data)
        elif piece.parts is not None:
            self._writer.fill_parts(place, piece.parts())

    def finish(self, exact: bool) -> None:
        """Writes the scales, whose dtype was not known before, and the header."""
        scales = [
            (Planned(piece.plan.name, NAMES[data.dtype], piece.plan.shape), data)
            for piece in self.pieces
            if piece.rank == _SCALE
            for data in [piece.read()]
        ]
        if scales and self._writer.offset % 4:
            gap = 4 - self._writer.offset % 4
            self._writer.write(Planned(PAD_PREFIX + "0", "U8", (gap,)), np.zeros(gap, np.uint8))
        for plan, data in sorted(scales, key=lambda item: -item[1].itemsize):
            self._writer.write(plan, data)
            self.sizes[plan.name] = plan.nbytes
        known = self._matrices.exact
        here = {name: known[name] for piece in self.pieces for name in piece.names if name in known}
        self._writer.finish(self._fixed | (exact_metadata(here) if exact else {}))


def _write_files(
    paths: list[Path],
    shards: list[list[_Piece]],
    matrices: _Matrices,
    fixed: dict[str, str],
    exact: bool,
    run: Callable[[list[_Piece]], Iterator[np.ndarray | None]],
) -> list[dict[str, int]]:
    """Writes the safetensors files; returns tensor name -> bytes, of each.

    Tensors are read by ascending name, as digests take them, wherever they go.
    """
    with ExitStack() as stack:
        files = [
            _Shard(stack.enter_context(path.open("wb")), pieces, matrices, fixed)
            for path, pieces in zip(paths, shards, strict=True)
        ]
        work = [(piece, file) for file in files for piece in file.pieces if piece.rank != _SCALE]
        work.sort(key=lambda item: item[0].name.encode())
        for (piece, file), data in zip(work, run([piece for piece, _ in work]), strict=True):
            file.put(piece, data)
        for file in files:
            file.finish(exact)
        return [file.sizes for file in files]


# ------------------------------------------------------------------------- directory


def write_huggingface(
    checkpoint: Checkpoint,
    folder: Path,
    encoding: str | None = None,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    spelling: Spelling = Spelling(),
    jobs: int = 1,
    single: str = SINGLE,
) -> Written:
    """Writes `checkpoint` into the empty `folder`.

    Args:
      single: what the weights are called where they fit into one file.
      jobs: threads that read tensors and turn them; the bytes are the same for any number.

    Raises:
      CannotCreate: the encoding cannot hold the model (codes ``huggingface.*``).
    """
    encoding, warnings = choose_encoding(checkpoint, encoding)
    check_spelling(checkpoint.spec, encoding not in UNQUANTIZED)
    written = Written(encoding, warnings=warnings)
    matrices = _Matrices(checkpoint, encoding)
    wanted = expected(checkpoint.spec)
    if spelling.partial:
        wanted = {name: item for name, item in wanted.items() if name in checkpoint.entries}
    pieces = list(_planned(checkpoint, wanted, encoding, matrices))
    shards = _shards(pieces, max_shard_bytes)
    weight_map: dict[str, str] = {}
    total = 0
    names = [single]
    if len(shards) > 1:
        count = range(1, len(shards) + 1)
        names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in count]
    fixed = {"format": "pt"}
    if encoding == "latent" and spelling.exact:
        fixed[LATENT_KEY] = "true"

    def run(work: list[_Piece]) -> Iterator[np.ndarray | None]:
        reads = {piece.name: piece for piece in work}

        def read(name: str) -> np.ndarray | None:
            return reads[name].read() if reads[name].parts is None else None

        return each(checkpoint, list(reads), read, jobs)

    files = [folder / name for name in names]
    found = _write_files(files, shards, matrices, fixed, spelling.exact, run)
    for name, sizes in zip(names, found, strict=True):
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
    if checkpoint.metadata:
        config[CONFIG_KEY] = dict(checkpoint.metadata)
    config = dict(sorted((config | dict(spelling.extra)).items()))
    _put(folder, "config.json", tokenizer_files.to_json(config), written)
    for name, data in companions(checkpoint).items():
        _put(folder, name, data, written)
    if spelling.card:
        _put(folder, model_card.NAME, model_card.model_card(checkpoint, encoding), written)
    return written


def _put(folder: Path, name: str, data: bytes, written: Written) -> None:
    (folder / name).write_bytes(data)
    written.files.append(name)


def _quantization(checkpoint: Checkpoint, encoding: str) -> Quantization:
    if encoding in UNQUANTIZED:
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
    if floats != {"bfloat16"} or encoding in ("master", "dequantized"):
        return "float32"
    if encoding in ("float", "latent"):
        return "bfloat16"
    narrow = all(
        matrices.scale(item).dtype == ml_dtypes.bfloat16
        for item in expected(checkpoint.spec).values()
        if item.name in matrices.exact
    )
    return "bfloat16" if narrow else "float32"


def companions(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Tokenizer, template and generation defaults, as files: what stands beside the config."""
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
