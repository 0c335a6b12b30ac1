"""What machines read: the envelope, the events, and records made plain.

Knows nothing of commands or streams; `render` and `progress` write what is built here.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
from collections.abc import Mapping
from typing import Any

SCHEMA = "bitnet/1"


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


def envelope(
    command: str,
    *,
    ok: bool,
    exit_code: int,
    data: Mapping[str, Any],
    warnings: list[str],
    errors: list[dict[str, Any]],
) -> dict[str, Any]:
    """Returns the one record that `--json` prints, on success and on failure alike."""
    return {
        "schema": SCHEMA,
        "command": command,
        "ok": ok,
        "exit_code": exit_code,
        "data": plain(data),
        "warnings": plain(warnings),
        "errors": plain(errors),
    }


def event(kind: str, **fields: Any) -> dict[str, Any]:
    """Returns one line of `--emit jsonl`."""
    return {"schema": SCHEMA, "event": kind, **plain(fields)}


def dump(value: Any, stream: Any = None, *, indent: int | None = None) -> str:
    """Returns `value` as JSON that `stream` can encode (ASCII when it is not UTF-8)."""
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
    return json.dumps(value, ensure_ascii=encoding != "utf8", allow_nan=False, indent=indent)
