"""Which tensors a `transformers` checkpoint will have, of what dtype and shape, in which file.

From names, shapes and the encoding alone: nothing is read until a `Piece` is asked for its
value. Tensors that are one matrix there make one piece. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bitnet_jax.containers.dtypes import NAMES, numpy_dtype
from bitnet_jax.containers.safetensors_write import Planned
from bitnet_jax.core.errors import CannotCreate
from bitnet_jax.formats.checkpoint import Checkpoint, TensorEntry
from bitnet_jax.formats.huggingface_matrices import Matrices
from bitnet_jax.formats.huggingface_packing import packed_rows
from bitnet_jax.formats.huggingface_weights import SCALE_SUFFIX, turned
from bitnet_jax.formats.survey import is_large, pieces
from bitnet_jax.models.names import Expected

# The rank of a scale: after all else in its file.
SCALE = 1


@dataclass(frozen=True)
class Piece:
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


def planned_pieces(
    checkpoint: Checkpoint, wanted: Mapping[str, Expected], encoding: str, matrices: Matrices
) -> Iterator[Piece]:
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
            yield Piece(names, -wide.itemsize, plan, read, parts)
            continue
        stored = {
            "master": "F32",
            "dequantized": "F32",
            "latent": NAMES[numpy_dtype(entry.dtype)],
        }.get(encoding, "U8")
        packed = stored == "U8"
        plan = Planned(name, stored, (packed_rows(shape[0]), *shape[1:]) if packed else shape)
        rank = 0 if packed else -numpy_dtype("float32" if stored == "F32" else entry.dtype).itemsize
        yield Piece(names, rank, plan, partial(matrices.weight, items))
        if packed:
            plan = Planned(name + SCALE_SUFFIX, "F32", (1,))
            yield Piece(names, SCALE, plan, partial(matrices.scale, items[0]))


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


def cut_into_shards(pieces: list[Piece], limit: int) -> list[list[Piece]]:
    """Cuts the tensors, in the model's order, into files of at most `limit` bytes each."""
    shards: list[list[Piece]] = [[]]
    size = 0
    for piece in pieces:
        # A scale stays with its codes: it is known when those have been read.
        if shards[-1] and piece.rank != SCALE and size + piece.plan.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(piece)
        size += piece.plan.nbytes
    return shards
