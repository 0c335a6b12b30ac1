"""The native kernels ahead of time: what `bitnet dev build` runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bitnet_jax.ops.native.build import build
from bitnet_jax.stores.address import require_local


def build_kernels(output: str | os.PathLike, force: bool = False) -> Any:
    """Builds the native CPU kernels into the folder `output`, for ``BITNET_KERNELS``.

    Raises:
      CannotCreate: they are there already, and `force` is false.
      Unavailable: there is no compiler, or what it made fails its self-test.
    """
    require_local(output, "the kernels' folder", "build into a local folder")
    return build(Path(output), force)
