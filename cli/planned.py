"""What is announced and not built yet: commands and options that are declared in full.

A planned command stands in `commands/<group>/_planned.py` with its args class and examples, so
that it has its real help and checks its options; run, it answers exit 69, and no shell completes
it. To build it: move its class into a file of its own, and name that file in its row of `registry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import registry
from .failure import not_built
from .fields import long_name


class Planned:
    """Stands where a built command has a module.

    Attributes:
      args: the args class.
      EXAMPLES: as a module's.
    """

    def __init__(self, args: type, *examples: str):
        self.args, self.EXAMPLES = args, examples


def check(
    command: registry.Command, fields: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Raises `Unavailable` (``cli.not_built``) for a planned command, or a planned option given.

    Args:
      fields: field name -> field.
      settings: field name -> Setting.
    """
    if command.target is None:
        hint = f"`bitnet {command.group}` lists the commands that run"
        raise not_built(f"`bitnet {registry.words(command)}`", hint)
    for name, field in fields.items():
        if not field.metadata.get("built", True) and settings[name].origin != "default":
            raise not_built(
                f"`{long_name(field)}` of `bitnet {registry.words(command)}`",
                f"leave it out; `bitnet {registry.words(command)} --help` shows what works",
            )
