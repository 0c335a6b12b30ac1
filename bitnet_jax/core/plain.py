"""Records made plain: what JSON can hold, and nothing else.

Knows nothing of who writes the record or who reads it.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import os
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Returns `value` as dicts, lists, strings, numbers, booleans and None only.

    A float that is not finite becomes None: JSON has no NaN, and strict readers refuse it.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and jax scalars and arrays, without importing either
        return plain(value.tolist())
    raise TypeError(f"a record holds a {type(value).__name__}, which has no JSON form")
