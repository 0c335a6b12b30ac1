"""The tokenizer's files: from a directory to `TokenizerFiles` and back.

Nothing is parsed beyond JSON, and nothing is run: not the chat template, not the
tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bitnet_jax.containers.blob import Blob, load_json
from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.checkpoint import TokenizerFiles

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
GENERATION = "generation_config.json"
NAMES = (TOKENIZER, CONFIG, TEMPLATE, GENERATION)

# Far above any real one (Llama 3: 9 MB), far below what would exhaust a machine.
_MAX_BYTES = 256 << 20


def read_small(path: Path) -> bytes | None:
    """Reads a file beside the weights; None when it is absent."""
    if not path.exists():
        return None
    blob = Blob(path)
    if blob.size > _MAX_BYTES:
        raise BadData(
            "file.too_large",
            f"`{path}` has {blob.size} bytes, too many for its kind",
            "is it another file under this name? get the original",
        )
    return blob.read(0, blob.size).tobytes()


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; an absent file is an empty one."""
    data = read_small(path)
    return _object(data, f"`{path}`") if data is not None else {}


def _object(data: bytes, where: str) -> dict[str, Any]:
    value = load_json(data.removeprefix(b"\xef\xbb\xbf"), code="config.json", where=where)
    if not isinstance(value, dict):
        raise BadData("config.json", f"{where} is no JSON object")
    return value


def from_files(read: Callable[[str], bytes | None], where: str) -> TokenizerFiles | None:
    """Builds them from `read(file name)`; None when there is no ``tokenizer.json``."""
    tokenizer = read(TOKENIZER)
    if tokenizer is None:
        return None
    parsed = {
        name: _object(data, f"{where}, {name}") if (data := read(name)) is not None else {}
        for name in (CONFIG, GENERATION)
    }
    template = read(TEMPLATE)
    if template is not None:
        try:
            text: str | None = template.decode()
        except UnicodeDecodeError as error:
            raise BadData("config.json", f"{where}, {TEMPLATE} is not UTF-8") from error
    else:
        found = default_template(parsed[CONFIG])
        text = (
            found if isinstance(found, str) else None
        )  # what else it is, is told where it is used
    return TokenizerFiles(tokenizer, parsed[CONFIG], text, parsed[GENERATION])


def default_template(config: Mapping[str, Any]) -> Any:
    """What ``tokenizer_config.json`` has as its template; of a list of named ones, `default`."""
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        return named.get("default")
    return found


def to_files(files: TokenizerFiles) -> dict[str, bytes]:
    """File name -> content, the inverse of `from_files`."""
    out = {TOKENIZER: files.tokenizer_json, CONFIG: to_json(files.config)}
    # In a file of its own where the key has not the same: transformers 5 reads the file first.
    if files.chat_template is not None and files.chat_template != default_template(files.config):
        out[TEMPLATE] = files.chat_template.encode()
    if files.generation:
        out[GENERATION] = to_json(files.generation)
    return out


def parsed_tokenizer(files: TokenizerFiles) -> dict[str, Any] | None:
    """What `tokenizer.json` holds, nothing of it run; None where it is no JSON object."""
    try:
        found = json.loads(files.tokenizer_json)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def to_json(value: Mapping[str, Any]) -> bytes:
    """JSON as people read it, the same bytes for the same value."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
