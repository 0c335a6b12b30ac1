"""Units in the last place, counted."""

import numpy as np
import pytest

from bitnet_jax.quant.ulps import ulps


@pytest.mark.parametrize(
    ("one", "two", "steps"),
    [
        (1.0, 1.0, 0),
        (1.0, np.nextafter(np.float32(1), np.float32(2)), 1),
        (1.0, 2.0, 1 << 23),
        (0.0, -0.0, 0),
        (
            np.nextafter(np.float32(0), np.float32(1)),
            np.nextafter(np.float32(0), np.float32(-1)),
            2,
        ),
        (-1.0, np.nextafter(np.float32(-1), np.float32(0)), 1),
    ],
)
def test_steps(one, two, steps):
    assert ulps(one, two).tolist() == ulps(two, one).tolist() == [steps]


def test_element_by_element():
    a = np.asarray([1, 2, 3], np.float32)
    b = np.nextafter(a, np.float32(np.inf))
    assert ulps(a, b).tolist() == [1, 1, 1]
