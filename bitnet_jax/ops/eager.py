"""Eager calls of a primitive: one compiled function for each set of its parameters.

Without it every eager call would compile anew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
from jax.extend.core import Primitive


@cache
def _jitted(primitive: Primitive, params: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    return jax.jit(partial(primitive.bind, **dict(params)))


def eager(primitive: Primitive, *operands: Any, **params: Any) -> Any:
    """The results of `primitive`, as it is lowered under `jit`."""
    return _jitted(primitive, tuple(sorted(params.items())))(*operands)
