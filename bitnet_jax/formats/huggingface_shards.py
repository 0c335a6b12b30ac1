"""The safetensors files of a `transformers` checkpoint, while they are written.

Tensors come by ascending name, as digests take them, whichever file each goes to; its place is
known before. Scales come last, since only reading the codes tells what they are. Knows no config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bitnet_jax.containers.dtypes import NAMES
from bitnet_jax.containers.safetensors_write import (
    PAD_PREFIX,
    Planned,
    SafetensorsWriter,
    encode_header,
)
from bitnet_jax.core.writing import new_file
from bitnet_jax.formats.huggingface_matrices import Matrices
from bitnet_jax.formats.huggingface_plan import SCALE, Piece
from bitnet_jax.formats.huggingface_weights import ExactScale, exact_metadata


class _ShardFile:
    """One safetensors file while it is written: tensors come in any order, scales at the end."""

    def __init__(
        self, stream: BinaryIO, pieces: list[Piece], matrices: Matrices, fixed: dict[str, str]
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
            if piece.rank != SCALE
        }
        self.sizes = {name: place.plan.nbytes for name, place in self._places.items()}

    def put(self, piece: Piece, data: np.ndarray | None) -> None:
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
            if piece.rank == SCALE
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


def write_shards(
    paths: list[Path],
    shards: list[list[Piece]],
    matrices: Matrices,
    fixed: dict[str, str],
    exact: bool,
    run: Callable[[list[Piece]], Iterator[np.ndarray | None]],
) -> list[dict[str, int]]:
    """Writes the safetensors files; returns tensor name -> bytes, of each.

    Tensors are read by ascending name, as digests take them, wherever they go.
    """
    with ExitStack() as stack:
        files = [
            _ShardFile(stack.enter_context(new_file(path)), pieces, matrices, fixed)
            for path, pieces in zip(paths, shards, strict=True)
        ]
        work = [(piece, file) for file in files for piece in file.pieces if piece.rank != SCALE]
        work.sort(key=lambda item: item[0].name.encode())
        for (piece, file), data in zip(work, run([piece for piece, _ in work]), strict=True):
            file.put(piece, data)
        for file in files:
            file.finish(exact)
        return [file.sizes for file in files]
