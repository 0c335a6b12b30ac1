"""The error that also says which tensor it is about, so that a record can."""

from __future__ import annotations

from bitnet_jax.core.errors import BadData


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


def _rebuild(code: str, message: str, hint: str | None, tensor: str) -> TensorError:
    return TensorError(code, message, hint, tensor=tensor)
