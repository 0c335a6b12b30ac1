"""The table of families. Adding one is a file and a row."""

from __future__ import annotations

from bitnet_jax.core.errors import BadData, did_you_mean
from bitnet_jax.models.bitnet import FAMILY as BITNET
from bitnet_jax.models.family import Family

FAMILIES: dict[str, Family] = {family.name: family for family in (BITNET,)}


def family_of(name: str) -> Family:
    """The family called `name`, or `BadData` (``model.unknown_family``) with the known ones."""
    if name not in FAMILIES:
        raise BadData(
            "model.unknown_family", f"family `{name}` is unknown", did_you_mean(name, FAMILIES)
        )
    return FAMILIES[name]
