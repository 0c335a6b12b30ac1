"""New files, written in pieces that the system takes fastest. Knows nothing of what they hold."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

# Bytes that one call writes. Linux was seen to take a gigabyte three to five times as long in
# calls of 1 to 16 MB (benchmarks/LOG.md), and no longer in calls smaller than this.
PIECE = 1 << 18


class _Pieces(io.FileIO):
    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            written = super().write(view[done : done + PIECE])
            if not written:  # a file never blocks; whatever it is, the caller writes the rest
                break
            done += written
        return done


def new_file(
    path: str | os.PathLike, opener: Callable[[str, int], int] | None = None
) -> io.BufferedWriter:
    """Opens a file that must not be there yet, as ``open(path, "xb", opener=opener)`` does."""
    return io.BufferedWriter(_Pieces(os.fspath(path), "xb", opener=opener), PIECE)
