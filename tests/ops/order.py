"""The sums of the C++ kernels in numpy: the same float32 additions in the same order."""

import numpy as np


def fold(lanes: np.ndarray) -> np.float32:
    """Halves added to halves until one is left."""
    while lanes.size > 1:
        half = lanes.size // 2
        lanes = lanes[:half] + lanes[half:]
    return lanes[0]


def sum_squares(x: np.ndarray) -> np.float32:
    """64 sums by index modulo 64, in ascending order; then folded."""
    squares = np.zeros(-(-x.size // 64) * 64, np.float32)
    squares[: x.size] = x * x
    lanes = np.zeros(64, np.float32)
    for row in squares.reshape(-1, 64):
        lanes = lanes + row
    return fold(lanes)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """A row, as the kernels norm it."""
    mean = sum_squares(x) / np.float32(x.size)
    return weight * (x * (np.float32(1) / np.sqrt(mean + np.float32(eps))))
