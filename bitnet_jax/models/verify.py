"""Does a family do what its row says: its function's shapes, its own names, its cache.

Traces the function once with abstract values, at two layers at most; computes nothing. For
families from elsewhere, before their first use: an error then names the parameter, not an
equation deep inside a transform.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from bitnet_jax.core.errors import BadData, BitnetError, nearest
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.family import Family, Params
from bitnet_jax.models.parameter import Expected, expand

_LAYERS = 2  # enough to see a layer that takes another's weights
_LENGTH = 3
_HOW = "docs/write-a-family.md says what the function is given and what it gives"


def verify(family: Family, spec: ModelSpec) -> None:
    """Checks `family.function` and `family.cache` for a spec that the family accepts.

    Raises:
      BadData: ``family.function``, ``family.cache``: what was asked, what it gave.
    """
    small = dataclasses.replace(spec, num_layers=min(spec.num_layers, _LAYERS))
    try:
        family.accept(small)
    except BadData:  # it asks for more layers
        small = spec
    _verify(family, small)


@functools.lru_cache(maxsize=64)
def _verify(family: Family, spec: ModelSpec) -> None:
    length = min(_LENGTH, spec.max_positions)
    params = {
        name: jax.ShapeDtypeStruct(row.shape, jnp.float32) for name, row in _rows(family, spec)
    }
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    one = jax.ShapeDtypeStruct((1,), jnp.int32)

    forward = _attempt(family, "without a cache", lambda: family.forward(spec))
    logits = _traced(family, "without a cache", forward, params, tokens)
    _check_array(family, "the logits", logits, (1, length, spec.vocab_size))

    capacity = min(8, spec.max_positions)
    cache = _attempt(
        family, "the cache", lambda: jax.eval_shape(lambda: family.cache(spec, 1, capacity))
    )
    step = _attempt(family, "with a cache", lambda: family.step(spec))
    result = _traced(family, "with a cache", step, params, tokens, cache, one, one)
    _check_array(family, "the logits with a cache", result[0], (1, spec.vocab_size))
    if _avals(result[1]) != _avals(cache):
        raise BadData(
            "family.cache",
            f"family `{family.name}`: the function is given the cache {_avals(cache)} and gives "
            f"back {_avals(result[1])}",
            "it must be of one structure, shape and dtype, to be run again and again",
        )


def check_params(family: Family, spec: ModelSpec, params: Any) -> None:
    """Raises `BadData` (``family.init``) unless `params` are exactly those of the table."""

    def wrong(what: str, hint: str = "`init` and `names` must agree") -> BadData:
        return BadData("family.init", f"family `{family.name}`: `init` {what}", hint)

    if not isinstance(params, Mapping):
        raise wrong(f"gives a {type(params).__name__}, not a dict of arrays by dotted name")
    rows = dict(_rows(family, spec))
    for name in [*rows, *params]:
        there, wanted = name in params, name in rows
        if there and wanted:
            continue
        close = nearest(str(name), rows.keys() - params.keys() if there else params - rows.keys())
        raise wrong(
            f"gives `{name}`, which its table of names has not" if there else f"gives no `{name}`",
            f"the nearest: {', '.join(close)}" if close else "`init` and `names` must agree",
        )
    for name, row in rows.items():
        shape = tuple(getattr(params[name], "shape", ()))
        dtype = str(getattr(params[name], "dtype", type(params[name]).__name__))
        if shape != row.shape or dtype != "float32":
            raise wrong(
                f"gives `{name}` as {dtype} {list(shape)}; its table of names says float32 "
                f"{list(row.shape)}"
            )


def _rows(family: Family, spec: ModelSpec) -> list[tuple[str, Expected]]:
    return [(row.name, row) for row in expand(family.names, family.letters(spec), spec)]


def _avals(tree: Any) -> str:
    leaves = jax.tree_util.tree_map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)
    return str(leaves)


def _check_array(family: Family, what: str, found: Any, shape: tuple[int, ...]) -> None:
    seen = (getattr(found, "shape", None), str(getattr(found, "dtype", type(found).__name__)))
    if seen != (shape, "float32"):
        raise BadData(
            "family.function",
            f"family `{family.name}`: {what} are {seen[1]} {list(seen[0] or ())}; they must be "
            f"float32 {list(shape)}",
            _HOW,
        )


def _traced(family: Family, how: str, fn: Callable[..., Any], params: Params, *args: Any) -> Any:
    """Abstract results of ``fn(params, *args)``, all of whose parameters must be used."""
    jaxpr, result = _attempt(
        family, how, lambda: jax.make_jaxpr(fn, return_shape=True)(params, *args)
    )
    used = {id(var) for eqn in jaxpr.jaxpr.eqns for var in eqn.invars}
    used |= {id(var) for var in jaxpr.jaxpr.outvars}
    # A dict's leaves are flattened in the order of its names.
    for name, var in zip(sorted(params), jaxpr.jaxpr.invars, strict=False):
        if id(var) not in used:
            raise BadData(
                "family.function",
                f"family `{family.name}`, {how}: the function never uses the parameter `{name}`",
                "take it out of `names`, or use it",
            )
    return result


def _attempt(family: Family, how: str, run: Callable[[], Any]) -> Any:
    """What `run` gives; whatever the family's own code raises is an error that names it."""
    try:
        return run()
    except BitnetError:
        raise
    # A stranger's function may raise anything.
    except Exception as error:
        said = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
        if isinstance(error, KeyError):
            said = f"it asks for {error}, which its table of names has not"
        raise BadData(
            "family.function",
            f"family `{family.name}`, {how}: {said}{_place(family, error)}",
            _HOW,
        ) from error


def _place(family: Family, error: BaseException) -> str:
    """The last line of the family's own code (its file's folder) on the way to the error."""
    code = getattr(inspect.unwrap(family.function), "__code__", None)
    if code is None:
        return ""
    home = Path(code.co_filename).parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if home in Path(frame.filename).parents
        # An environment may stand in the folder of the family, or the family in one.
        and "site-packages" not in Path(frame.filename).relative_to(home).parts
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
