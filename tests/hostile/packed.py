"""Our blocks of 16 x 16 as trits, by the page docs/formats/bitnet.md and without our code."""

from __future__ import annotations

import numpy as np


def trits_of(codes: bytes, shape: tuple[int, ...]) -> list[list[int]]:
    """Rows of trits, [out, in]."""
    out, width = shape
    lines = np.frombuffer(codes, np.uint8).reshape(-(-out // 16), -(-width // 16), 16, 4)
    plain = np.stack([lines >> 2 * j & 3 for j in range(4)], axis=3).astype(int) - 1
    return plain.transpose(0, 2, 1, 3, 4).reshape(-(-out // 16) * 16, -1)[:out, :width].tolist()
