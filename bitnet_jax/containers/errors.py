"""The error that also says which tensor it is about, so that a record can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from bitnet_jax.core.errors import BadData, nearest

Row = TypeVar("Row")


class TensorError(BadData):
    """As `BadData`, about one tensor.

    Attributes:
      tensor: its name, as the file or the model calls it.
    """

    def __init__(self, code: str, message: str, hint: str | None = None, *, tensor: str = ""):
        super().__init__(code, message, hint)
        self.tensor = tensor

    def __reduce__(self):
        return _rebuild, (self.code, self.message, self.hint, self.tensor)


def find_row(rows: Mapping[str, Row], name: str, code: str, message: str) -> Row:
    """The row of a tensor.

    Args:
      rows: the file's tensors by name.
      code, message: of the error where there is none.

    Raises:
      TensorError: there is none; it names the nearest.
    """
    if name not in rows:
        close = nearest(name, rows)
        raise TensorError(
            code,
            message,
            "the closest names are " + ", ".join(f"`{c}`" for c in close) if close else None,
            tensor=name,
        )
    return rows[name]


def _rebuild(code: str, message: str, hint: str | None, tensor: str) -> TensorError:
    return TensorError(code, message, hint, tensor=tensor)
