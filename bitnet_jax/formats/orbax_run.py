"""A checkpoint of a training run of ours as a model: latent float weights, and what they become.

Its host part says which model it is and by which rules its weights are made ternary; of the state
on the device the parameters come first, by ascending name, each leaf called by its number (what
`train.checkpoint` writes). A weight is packed by the code that packs a finished run's, one at a
time, so that the digests are those of the model that the run would have ended with there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.orbax import METADATA, OrbaxTree, read_json
from bitnet_jax.core.errors import BadData, UsageError, few
from bitnet_jax.formats import tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint, Source, TensorEntry
from bitnet_jax.formats.model_files import relative_names
from bitnet_jax.ir.program import trace
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.families import family_for
from bitnet_jax.models.names import Expected, expected
from bitnet_jax.passes.pack import check_single, pack_parameter
from bitnet_jax.passes.plan import Plan, make_plan
from bitnet_jax.quant.rules import Rule, as_rules
from bitnet_jax.quant.tensor import QuantTensor

STATE, HOST = "state", Path("host") / "metadata"
FORMAT = 1


def is_run(top: Path) -> bool:
    """True for a checkpoint that `train.checkpoint` wrote."""
    return (top / HOST).is_file() and (top / STATE / METADATA).is_file()


def open_run(path: Path, top: Path, warnings: list[str]) -> Checkpoint:
    """Opens the checkpoint `top`, which was found at `path`; reads no array.

    Raises:
      BadData: it is damaged, of a later version, or its state is none of its model's.
    """
    where = f"`{top}`"
    host = read_json(top / HOST)
    raw, leaves = host.get("spec"), host.get("leaves")
    if host.get("format") != FORMAT or not isinstance(leaves, dict):
        raise BadData(
            "orbax.run",
            f"{where} is no checkpoint of a run of ours, or of another version",
            "convert it with the version that trained it",
        )
    if not isinstance(raw, dict):
        raise BadData(
            "orbax.no_spec",
            f"{where} is of a training function, not of a model: it holds no spec",
            "a run of `bitnet train` keeps one",
        )
    spec = ModelSpec.from_json(raw)
    wanted = expected(spec)
    rules = _rules(host, spec, where, warnings)
    plan = _plan(spec, rules)
    tree = OrbaxTree(top / STATE)
    names = dict(zip(sorted(wanted), _leaf_names(leaves, tree, where), strict=False))
    if len(names) < len(wanted):
        raise BadData(
            "orbax.run",
            f"{where}: its state has {len(names)} leaves; its model has {len(wanted)} parameters",
            "it is damaged: take an older step",
        )
    entries = {
        name: _entry(item, names[name], leaves[names[name]], tree, plan)
        for name, item in wanted.items()
    }
    tokenizer, beside = _tokenizer(top)
    if tokenizer is None:
        warnings.append(f"neither {where} nor its run has a tokenizer.json: token ids only")
    files = [top / HOST, *(tree.folder / name for name in tree.files), *beside]
    source = Source(path, "orbax", "latent", {"files": relative_names(path, files)})
    return Checkpoint(spec, entries, tokenizer, source, tuple(warnings))


def _rules(
    host: Mapping[str, Any], spec: ModelSpec, where: str, warnings: list[str]
) -> tuple[Rule, ...]:
    stated = host.get("rules")
    if stated is None:
        warnings.append(f"{where} does not say by which rules it was trained: the family's")
        return family_for(spec).rules
    try:
        return as_rules(stated)
    except UsageError as error:
        raise BadData("orbax.run", f"{where}: {error.message}", error.hint) from error


def _plan(spec: ModelSpec, rules: tuple[Rule, ...]) -> Plan:
    """What the rules make of each parameter; traced once for a model, whoever opens it."""
    return _planned(_Key(spec), rules)


class _Key:
    """A spec as a key: its dict of extras has no hash of its own."""

    def __init__(self, spec: ModelSpec):
        self.spec = spec
        self._text = repr(sorted(spec.to_json().items(), key=str))

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other._text == self._text


@cache
def _planned(key: _Key, rules: tuple[Rule, ...]) -> Plan:
    spec = key.spec
    params = {
        name: jax.ShapeDtypeStruct(item.shape, jnp.float32) for name, item in expected(spec).items()
    }
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return make_plan(trace(family_for(spec).forward(spec), params, tokens), rules)


def _leaf_names(leaves: Mapping[str, Any], tree: OrbaxTree, where: str) -> list[str]:
    """The leaves of the state in their order, which their names state."""
    names = sorted(leaves)
    width = len(str(len(names)))
    if names != [f"{index:0{width}d}" for index in range(len(names))] or set(names) != {
        *tree.names
    }:
        raise BadData(
            "orbax.run",
            f"{where}: the leaves that it states and those of its state differ: "
            f"{few(sorted({*names} ^ {*tree.names}) or names)}",
            "it is damaged: take an older step",
        )
    return names


def _entry(item: Expected, leaf: str, stated: Any, tree: OrbaxTree, plan: Plan) -> TensorEntry:
    name = item.name
    array = tree.open(leaf)
    if array.shape != item.shape or array.dtype != np.float32 or stated != [
        "float32", *item.shape,
    ]:  # fmt: skip
        raise TensorError(
            "model.tensor_shape",
            f"{tree.where}: leaf `{leaf}`, parameter `{name}`, is {array.dtype} "
            f"{list(array.shape)}; the spec asks for float32 {list(item.shape)}",
            "it is damaged, or of another model than it states",
            tensor=name,
        )

    def latent() -> np.ndarray:
        return array.read(leaf)

    # Before the store compresses it.
    held: dict[str, Any] = {"stored_as": "float32", "nbytes": 4 * math.prod(item.shape)}
    if plan.rule(name) is None:
        return TensorEntry(
            name, item.shape, "float32", False, latent,
            parts=lambda rows: array.parts(leaf, rows), **held,
        )  # fmt: skip
    check_single(plan, name)
    if plan.dots[name].use.notes:
        raise BadData(
            "orbax.run",
            f"{tree.where}: `{name}` was trained by a recipe that the family's function does not "
            "hold",
            "convert the run's model.bitnet",
        )

    def read() -> QuantTensor:
        packed = pack_parameter(plan, name, latent())
        return jax.tree_util.tree_map(np.asarray, packed)

    return TensorEntry(name, item.shape, "float32", True, read, latent=latent, **held)


def _tokenizer(top: Path) -> tuple[Any, list[Path]]:
    """The tokenizer of the run that `top` is a step of, and the files that it was read from."""
    for folder in (top, top.absolute().parents[1]):
        found = tokenizer_files.from_files(partial(_small, folder), f"`{folder}`")
        if found is not None:
            return found, [folder / n for n in tokenizer_files.NAMES if (folder / n).is_file()]
    return None, []


def _small(folder: Path, name: str) -> bytes | None:
    return tokenizer_files.read_small(folder / name)
