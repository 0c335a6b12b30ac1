"""What a model says of itself beside what it computes: its name, author, licence, description.

Keys begin with ``general.`` and are spelled as GGUF spells them, so that they pass from format to
format. Nothing here changes a result. Knows no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.ir.spec import Scalar

PREFIX = "general."
# In a `config.json`, where transformers leaves a key that it does not know as it is.
CONFIG_KEY = "model_metadata"
KEY = re.compile(r"general(\.[a-z0-9_]{1,64}){1,4}")
MOST_KEYS, LONGEST = 64, 1 << 16
# What people set most, for hints and for the model card.
USUAL = tuple(
    PREFIX + name
    for name in ("name", "author", "description", "license", "version", "url", "base_model",
                 "languages", "tags", "organization", "finetune", "basename", "size_label")
)  # fmt: skip


def check_metadata(raw: Any, where: str) -> dict[str, Scalar]:
    """Returns it in the order of its keys; an absent one is empty.

    Raises:
      BadData: it is no object of plain values under such keys (``model.metadata``).
    """
    if raw is None:
        return {}
    if not isinstance(raw, Mapping) or len(raw) > MOST_KEYS:
        raise BadData(
            "model.metadata", f"{where}: its metadata is no object of at most {MOST_KEYS} entries"
        )
    for key, value in raw.items():
        fault = metadata_fault(key, value)
        if fault:
            raise BadData("model.metadata", f"{where}: metadata {fault}")
    return dict(sorted(raw.items()))


def metadata_fault(key: Any, value: Any) -> str | None:
    """What is wrong with one entry, in words, or None."""
    if not isinstance(key, str) or not KEY.fullmatch(key):
        return f"{shown(key)} is no name such as `general.name`, in lower case"
    if isinstance(value, str):
        return None if len(value) <= LONGEST else f"`{key}` is longer than {LONGEST} letters"
    if not isinstance(value, bool | int | float):
        return f"`{key}` is {shown(value)}, not a text, a number or a truth"
    if value != value or value in (float("inf"), float("-inf")):
        return f"`{key}` is no finite number"
    return None
