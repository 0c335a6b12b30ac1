"""What is done by the C++ library where there is one, and by numpy where there is none."""

from __future__ import annotations

import pytest

from bitnet_jax.ops.native import library as native


@pytest.fixture(params=["library", "numpy"])
def by(request, monkeypatch):
    """With the C++ library, and without."""
    if request.param == "library" and not native.status().available:
        pytest.skip(f"no C++ kernels: {native.status().reason}")
    if request.param == "numpy":
        monkeypatch.setenv("BITNET_NO_COMPILE", "1")
        monkeypatch.setenv("BITNET_KERNELS", "")
        monkeypatch.setenv("BITNET_CACHE_DIR", str(request.getfixturevalue("tmp_path")))
        assert not native.status().available
    return request.param
