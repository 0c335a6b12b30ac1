"""What machines read: the envelope and the events, of records made plain.

Knows nothing of commands or streams; `render` and `progress` write what is built here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bitnet_jax.core.plain import plain as plain

SCHEMA = "bitnet/1"


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
