"""`export_onnx`: any JAX function with named parameters as an ONNX file.

Knows no checkpoint: `workflows/export.py` writes whole models.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitnet_jax.core.errors import UsageError
from bitnet_jax.export.onnx import Port, as_json, lower, write
from bitnet_jax.export.profiles import DEFAULT, profile_of
from bitnet_jax.export.reopen import reopen
from bitnet_jax.ir.program import Program, named_leaves, path_name, trace
from bitnet_jax.passes import pipelines
from bitnet_jax.passes.packed import Packed
from bitnet_jax.quant.digest import digest
from bitnet_jax.quant.tensor import is_quant
from bitnet_jax.stores.address import require_local


def export_onnx(
    fn: Callable[..., Any],
    params: Any,
    *args: Any,
    path: str | os.PathLike,
    profile: str = DEFAULT,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Writes ``fn(params, *args)`` as an ONNX graph, and its parameters beside it.

    Args:
      fn: any JAX function whose first argument is a pytree of arrays.
      params: float parameters, or what `pack` made of them with the same `fn`: then products with
        packed parameters are integer ones.
      args: arrays, or `jax.ShapeDtypeStruct`s; sizes that are symbols of
        `jax.export.symbolic_shape` stay open in the graph.
      path: the graph's; its data are written to `path` with ``.data`` after it.
      profile: a key of `export.profiles.PROFILES`.
      inputs, outputs: names for the leaves of `args` and of the result, in order; by the names of
        `fn`'s arguments and the paths in the result if None.

    Returns:
      ``outputs``, ``profile``, ``passes``, ``digest_before`` and ``digest_after``, ``nodes``.

    Raises:
      UsageError: a primitive, or a form of one, that is not exported, with the user's line
        (``export.primitive``, ``export.form``, …); an unknown profile; names that do not fit.
      CannotCreate: the files exist, and `force` is false.
    """
    require_local(path, "what `export_onnx` writes", "write it here, and upload both files")
    row = profile_of(profile)
    if isinstance(params, Packed):
        program = trace(fn, params.float_avals(), *args)
        program = pipelines.run_pipeline(program, pipelines.exported(params))
        leaves: Mapping[str, Any] = params.leaves
    else:
        program = trace(fn, params, *args)
        program = pipelines.run_pipeline(program, pipelines.exported(None))
        leaves = named_leaves(params)
    given = tuple(args)
    ports = (
        _ports(inputs, _input_names(fn, given, leaves), len(program.input_avals), "inputs"),
        _ports(outputs, _output_names(program, leaves), len(program.jaxpr.out_avals), "outputs"),
    )
    lowered = lower(program, {name: _abstract(leaf) for name, leaf in leaves.items()}, row, *ports)
    before = _digest(leaves)
    after: dict[str, Any] = {}

    def prove(written: Path) -> None:
        after.update(reopen(written).digest().to_json())

    metadata = {"bitnet.profile": row.name, "bitnet.digests": as_json(before)}
    files = write(
        lowered,
        lambda name: jax.tree_util.tree_map(np.asarray, leaves[name]),
        Path(path),
        metadata,
        force=force,
        prove=prove,
    )
    return {
        "outputs": [str(file) for file in files],
        "profile": row.name,
        "passes": [*program.passes],
        "digest_before": before,
        "digest_after": after,
        "nodes": len(lowered.model.graph.node),
    }


def _digest(leaves: Mapping[str, Any]) -> dict[str, str]:
    return digest({name: leaf for name, leaf in leaves.items() if is_quant(leaf)}).to_json()


def _abstract(leaf: Any) -> Any:
    """The type of a leaf, with the dtype that its source has."""
    if is_quant(leaf):
        return jax.tree_util.tree_map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), leaf)
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _ports(given: Sequence[str] | None, own: Sequence[str], count: int, what: str) -> list[Port]:
    names = list(own if given is None else given)
    if len(names) != count or len(set(names)) != count:
        raise UsageError(
            "export.names",
            f"`{what}` are {len(set(names))} names; the function has {count}",
            f"give {count} different names, or none",
        )
    return [Port(name) for name in names]


def _input_names(
    fn: Callable[..., Any], args: tuple[Any, ...], parameters: Collection[str]
) -> list[str]:
    """A name for each leaf of the arguments: the argument's own, with the path in it."""
    try:
        known = [*inspect.signature(fn).parameters.values()][1:]
    except (TypeError, ValueError):  # a callable of C has none to read
        known = []
    names = []
    for index, arg in enumerate(args):
        plain = index < len(known) and known[index].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        stem = known[index].name if plain else f"input_{index}"
        names += [".".join((stem, *_path(path))) for path, _ in _leaves(arg)]
    return _apart(names, parameters, "input")


def _output_names(program: Program, parameters: Collection[str]) -> list[str]:
    tree = program.out_tree.unflatten(range(program.out_tree.num_leaves))
    names = [".".join(("output", *_path(path))) for path, _ in _leaves(tree)]
    return _apart(names, parameters, "output")


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _path(path: Any) -> list[str]:
    return [path_name(path)] if path else []


def _apart(names: list[str], parameters: Collection[str], kind: str) -> list[str]:
    """Two leaves of one name get their number; one with a parameter's name says what it is."""
    twice = {name for name in names if names.count(name) > 1}
    own = [f"{name}.{i}" if name in twice else name for i, name in enumerate(names)]
    return [f"{kind}.{name}" if name in parameters else name for name in own]
