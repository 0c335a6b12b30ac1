"""A float matrix as codes with a scale for each row: by the C++ library where there is one.

Both forms give the same bytes, those of `quant.kinds`; the library takes a third of a second for
a head of 330 million weights. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable

import ml_dtypes
import numpy as np

from bitnet_jax.core.errors import BitnetError, InternalError
from bitnet_jax.core.pages import Pages
from bitnet_jax.ops.native.library import library
from bitnet_jax.quant.finite import is_finite, not_finite
from bitnet_jax.quant.kinds import kind_of, quantize_weights
from bitnet_jax.quant.layouts import LAYOUT_OF, layout_of, pack_codes
from bitnet_jax.quant.tensor import QuantTensor

_KERNEL_DTYPES = (np.float32, ml_dtypes.bfloat16)
# Rows that numpy takes at once.
_ROWS = 4096


def quantize_rows(
    parts: Iterable[np.ndarray], shape: tuple[int, int], kind: str, name: str = "the matrix"
) -> QuantTensor:
    """Quantizes a float matrix [out, in] on the host; the codes lie on large pages.

    Args:
      parts: its rows, some at a time.
      kind: ``int8``, ``int6`` or ``int4``.
      name: for errors.

    Raises:
      BadData: a weight is NaN or infinite (``weights.not_finite``).
      UsageError: there is no such kind (``quant.kind``).
    """
    layout = layout_of(LAYOUT_OF[kind_of(kind).name])
    pages = Pages()
    codes = pages.empty(layout.shape(*shape), np.dtype(layout.dtype))
    scale = pages.empty(shape[:1], np.dtype(np.float32))
    done, finite = 0, True
    for part in parts:  # all of them: whoever reads them says at the end whether they are damaged
        rows = slice(done, done + len(part))
        finite &= _fill(part, kind, codes[rows], scale[rows])
        done += len(part)
    if not finite:
        raise not_finite(name)
    if done != shape[0]:
        raise InternalError("quantize.rows", f"`{name}` has {shape[0]} rows, and {done} came")
    return QuantTensor(
        codes,
        scale,
        shape=shape,
        dtype="float32",
        stack_axes=(),
        out_axes=(0,),
        in_axes=(1,),
        scale_kind="row",
        kind=kind,
        layout=layout.name,
    )


def _fill(w: np.ndarray, kind: str, codes: np.ndarray, scale: np.ndarray) -> bool:
    """Says whether all of `w` are numbers."""
    layout = LAYOUT_OF[kind]
    try:
        kernels = library() if w.dtype in _KERNEL_DTYPES else None
    except BitnetError:
        kernels = None  # whoever asks for kernels by name gets this error where they are chosen
    if kernels is not None:
        return kernels.quantize_rows(np.ascontiguousarray(w), layout, codes, scale)
    if not is_finite(w):
        return False
    for at in range(0, len(w), _ROWS):
        some = w[at : at + _ROWS].astype(np.float32)
        values, scale[at : at + _ROWS] = quantize_weights(some, kind, "row", scale_dtype="float32")
        codes[at : at + _ROWS] = pack_codes(values, layout)
    return True
