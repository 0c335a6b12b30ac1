"""Refuses a tokenizer.json that makes a short text into one without end.

Its normalizer and decoder may replace a letter by any string, as often as they like, so a
few hundred bytes of JSON can turn a sentence into gigabytes, and then the library hangs, or
ends the process. Knows only which of their steps write text of their own.
"""

from __future__ import annotations

import math
from typing import Any

from bitnet_jax.containers.blob import load_json
from bitnet_jax.core.errors import BadData

# Real ones write a letter or two for one.
MOST_GROWTH = 1024
# The keys under which a step keeps what it writes.
_WRITTEN = ("content", "prepend", "replacement")
_HINT = "take tokenizer.json again from where the model came from"


def check_growth(source: str) -> dict[str, Any]:
    """Returns a tokenizer.json, parsed, in which each letter becomes at most `MOST_GROWTH`.

    Before the library sees it: that normalizes the added tokens as it reads them.

    Raises:
      BadData: ``tokenizer.json``; also where `source` is no JSON object.
    """
    text = source.encode("utf-8", "surrogatepass")
    found = load_json(text, code="tokenizer.json", where="tokenizer.json")
    if not isinstance(found, dict):
        raise BadData("tokenizer.json", "tokenizer.json is no JSON object", _HINT)
    for part in ("normalizer", "decoder"):
        growth = _growth(found.get(part))
        if growth > MOST_GROWTH:
            raise BadData(
                "tokenizer.json",
                f"the {part} of tokenizer.json makes up to {min(growth, 10**18)} letters of one",
                _HINT,
            )
    return found


def _growth(step: Any) -> int:
    """How many letters one letter can become, by a step or its steps together."""
    if isinstance(step, list):
        return math.prod(map(_growth, step))
    if not isinstance(step, dict):
        return 1
    written = [len(step[key]) for key in _WRITTEN if isinstance(step.get(key), str)]
    return max([1, *written]) * math.prod(
        _growth(value) for value in step.values() if isinstance(value, list)
    )
