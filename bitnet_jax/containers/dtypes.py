"""The element types of safetensors, and the numpy type of each.

One table, used by the reader, the writer and the formats above.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

# safetensors name -> numpy dtype (little-endian, as on disk), in the library's own order.
# Sub-byte types (F4, F6) are not here: numpy cannot hold them as stored.
DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "C64": np.dtype("<c8"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
NAMES: dict[np.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

# The floats a parameter may be stored in.
FLOATS = ("F32", "BF16", "F16", "F64")


def numpy_dtype(name: str) -> np.dtype:
    """Returns the numpy dtype of a plain name such as ``bfloat16`` or ``float32``."""
    return np.dtype(getattr(ml_dtypes, name, name))
