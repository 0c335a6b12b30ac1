"""One row of the law: a function as users write it, and the same one quantized by hand.

The functions use nothing around their products but operations that are exact or
rounded once (relu, halves, one sum), so that their values do not depend on what
XLA fuses: where bits differ, the transform differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

import bitnet_jax as bj

TOKENS, IN, OUT = 4, 32, 24


@dataclass(frozen=True)
class Case:
    """A function, its hand-written twin, what they run on, and what must hold.

    Attributes:
      fn: ``fn(params, *inputs, **kwargs)``.
      twin: ``twin(q, params, *inputs, **kwargs)``: as `fn`, each quantized product written
        ``q(spec, x, w)`` (`handwritten.qeinsum`).
      axes: for each quantized parameter (stack, out, inner): its digest is checked.
      gradient: ``all`` (of parameters and float inputs), ``as the function`` (it has none: the
        error is the function's own), or the code of the error that refuses it.
      packed: True, False (not run), or the code of the error that packed form gives.
      vmap: whether the row is mapped over its inputs and over its parameters.
      eager: whether it also runs without jit, one equation at a time.
      layers: products in a row; the error of a gradient grows with it.
      rule_differs: under differentiation its forward rule gives another value.
      narrow: the function works in bfloat16 or float16.
      float_here: these inputs take the path that no quantized product is on.
    """

    fn: Callable[..., Any]
    twin: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    rules: tuple[Any, ...] = (bj.Rule("w*"),)
    kwargs: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    gradient: str = "all"
    packed: bool | str = True
    vmap: bool = True
    eager: bool = False
    layers: int = 1
    rule_differs: bool = False
    narrow: bool = False
    float_here: bool = False


def normal(*shape, seed=0, dtype=np.float32):
    """Normal numbers, a numpy array: nothing here starts a backend."""
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(dtype)


def tokens(*shape, seed=100, **options):
    """Activations."""
    return normal(*(shape or (TOKENS, IN)), seed=seed, **options)


def relu(y):
    """Exact."""
    return jnp.maximum(y, 0)


def one(fn, twin, w=(IN, OUT), x=(TOKENS, IN), **options):
    """The row of a function of one weight `w` and one input."""
    return Case(fn, twin, {"w": normal(*w)}, (tokens(*x),), **options)
