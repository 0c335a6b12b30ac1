"""The receipt of a conversion as a file: what stands in it, and that nobody altered it.

A receipt holds names, sizes, hashes and claims: no time, no path of the machine, so the same
input gives the same bytes wherever the versions and the kernel that it states are the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitnet_jax.containers.blob import load_json
from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.checkpoint import Source
from bitnet_jax.formats.model_files import files_of

SCHEMA = "bitnet/1"
SEAL = "seal"


def named(record: Mapping[str, Any], source: Source, output: Path) -> dict[str, Any]:
    """A record with names in place of paths; where a source was fetched from is kept."""
    paths = {output, source.path, *files_of(source.path, source.detail).values()}
    # A path and what is below it, where it stands by itself: `t/b` is no part of `input/b`.
    known = "|".join(sorted((re.escape(str(path)) for path in paths), key=len, reverse=True))
    found = re.compile(rf"(?<![\w./~-])(?:{known})(?![\w.~-])")

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return found.sub(lambda match: Path(match[0]).name, value)
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    kept = plain(record)
    if not source.origin:
        kept["source"] = {"path": source.path.name}
    if "outputs" in kept:
        kept["outputs"] = [Path(name).name for name in record["outputs"]]
    return kept


def sealed(record: Mapping[str, Any]) -> bytes:
    """The file: JSON that people can read, with a SHA-256 over the rest of it."""
    body = {"schema": SCHEMA, **record}
    text = json.dumps({**body, SEAL: _seal(body)}, indent=2, sort_keys=True)
    return text.encode() + b"\n"


def unsealed(data: bytes) -> dict[str, Any]:
    """The record that `sealed` was given.

    Raises:
      BadData: it is no receipt, or was altered (``receipt.invalid``, ``receipt.altered``).
    """
    body = _json(data)
    if not isinstance(body, dict) or body.get("schema") != SCHEMA or SEAL not in body:
        raise BadData(
            "receipt.invalid",
            "the receipt is none of a conversion, or of an earlier version",
            "convert the model again: that writes one",
        )
    stated = body.pop(SEAL)
    if data != sealed({key: value for key, value in body.items() if key != "schema"}):
        raise BadData(
            "receipt.altered",
            f"the receipt was altered: its seal is {stated}, of what it says {_seal(body)}",
            "get the receipt again from where the model came from, or convert again",
        )
    return {key: value for key, value in body.items() if key != "schema"}


def parsed(data: bytes) -> dict[str, Any]:
    """What a receipt says that `unsealed` refuses, as far as it can be read; else nothing."""
    try:
        body = _json(data)
    except BadData:
        return {}
    return body if isinstance(body, dict) else {}


def _json(data: bytes) -> Any:
    return load_json(data, code="receipt.invalid", where="the receipt")


def _seal(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
