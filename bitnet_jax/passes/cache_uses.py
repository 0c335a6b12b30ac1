"""Whether a function leaves its KV cache to the ops that know how a cache may hold its rows.

Only then may the cache be held in fewer bits: arithmetic of the function's own would read codes
for floats. Knows nothing of models.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.graph import Graph
from bitnet_jax.ir.program import trace
from bitnet_jax.passes.inline_calls import inline_calls

# Op -> which of its operands may be a cache.
_TAKES = {"cache_write": (0,), "attention": (1, 2)}


def require_opaque_cache(
    fn: Callable[..., Any], params: Any, *inputs: Any, cache: int, name: str
) -> None:
    """Checks ``fn(params, *inputs)``, whose input number `cache` is the cache, as it is to be held.

    Raises:
      UsageError: something else reads it, or what is written into it are no floats
        (``model.kv_use``); `name` is the model's, for the message.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of floats that become integers: refused below
            program = inline_calls(trace(fn, params, *inputs))
    except (TypeError, ValueError) as error:  # it takes sizes or dtypes from the cache
        first = str(error).strip().partition("\n")[0]
        raise _refused(name, f"its function fails on such a cache: {first}") from error
    graph = Graph(program.jaxpr.jaxpr)
    first = len(program.param_avals)
    first += len(jax.tree_util.tree_leaves(inputs[:cache]))
    held = graph.jaxpr.invars[first : first + len(jax.tree_util.tree_leaves(inputs[cache]))]
    for var in held:
        _follow(graph, var, name)


def _follow(graph: Graph, var: Any, name: str) -> None:
    for index in graph.read_by.get(var, ()):
        if index == Graph.OUTPUT:
            continue
        eqn = graph.jaxpr.eqns[index]
        places = [at for at, operand in enumerate(eqn.invars) if operand is var]
        if not set(places) <= set(_TAKES.get(eqn.primitive.name, ())):
            where = jax_compat.source_line(eqn) or f"`{eqn.primitive.name}`"
            raise _refused(name, f"its function reads the cache by itself ({where})")
        if eqn.primitive.name == "cache_write":
            new = getattr(eqn.invars[1].aval, "dtype", None)
            if new is None or not jnp.issubdtype(new, jnp.floating):
                raise _refused(name, f"its function writes {new} into the cache, not floats")
            _follow(graph, eqn.outvars[0], name)


def _refused(name: str, why: str) -> UsageError:
    return UsageError(
        "model.kv_use",
        f"the KV cache of `{name}` cannot be held in fewer bits: {why}",
        "write floats with the op `cache_write` and read them with `attention`, or leave the cache "
        "in float32",
    )
