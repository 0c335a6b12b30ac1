"""`scheme://rest`: what an argument must look like to mean a place that is no local path.

Knows no scheme: which there are stands in `table.py`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from bitnet_jax.core.errors import Unavailable, UsageError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.S)
# What `pathlib` makes of an address: the second slash is lost.
_FLATTENED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/).+", re.S)


@dataclass(frozen=True)
class Address:
    """An address, taken apart.

    Attributes:
      scheme: in lower case.
      rest: what follows ``://``, without slashes at its end.
    """

    scheme: str
    rest: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.rest}"

    @property
    def name(self) -> str:
        """The last part."""
        return self.rest.rpartition("/")[2]

    @property
    def parent(self) -> Address:
        """The address less its last part."""
        return Address(self.scheme, self.rest.rpartition("/")[0])

    def child(self, name: str) -> Address:
        """The address of something in this folder."""
        return Address(self.scheme, f"{self.rest}/{name}")


def require_local(name: str | os.PathLike | None, what: str, hint: str) -> None:
    """Raises `Unavailable` when `name` is an address, where only a path will do yet.

    Without this, `pathlib` would make a folder named ``gs:`` of it.
    """
    if name is not None and parse(name) is not None:
        raise Unavailable(
            "store.path_only",
            f"{what} cannot be `{name}`: it must be a path, in this version",
            hint,
        )


def parse(name: str | os.PathLike) -> Address | None:
    """Returns the address that `name` is, or None for a path.

    Raises:
      UsageError: there is nothing after ``://``, or the address went through `pathlib`.
    """
    text = os.fspath(name)
    if not isinstance(text, str):
        return None
    if (flat := _FLATTENED.fullmatch(text)) is not None and not isinstance(name, str):
        raise UsageError(
            "store.address",
            f"`{text}` was `{flat[1]}://…` before it became a Path, which drops a slash",
            "pass the address as a string",
        )
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return None
    rest = found[2].rstrip("/")
    if not rest or any(part in ("", ".", "..") for part in rest.split("/")) or "\0" in rest:
        raise UsageError(
            "store.address",
            f"`{text}` is no address: after `{found[1]}://` come names, with one slash between",
            "for example hf://org/repo or gs://bucket/folder/model.bitnet",
        )
    return Address(found[1].lower(), rest)
