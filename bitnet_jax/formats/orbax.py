"""Orbax checkpoints as models: a tree of parameters beside a config.json, or a run of ours.

Parameters stand in the tree by the names that a `transformers` checkpoint gives them, or by ours,
nested at every dot or not, alone or beside an optimizer's state. Which step of a folder of steps,
and which tree of a checkpoint of several, is told here; what a tree holds, `containers.orbax`
reads. Our own runs, whose leaves have numbers for names, are `orbax_run`'s.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.containers.dtypes import NAMES
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.orbax import METADATA, UNFINISHED, OrbaxArray, OrbaxTree
from bitnet_jax.containers.safetensors import TensorInfo
from bitnet_jax.core.errors import BadData, few
from bitnet_jax.formats import huggingface_config, tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.huggingface import checkpoint_of_stored, small_files
from bitnet_jax.formats.huggingface_weights import SCALE_SUFFIX, Stored
from bitnet_jax.formats.model_files import CONFIG, GRAPHS, WHOLE, relative_names
from bitnet_jax.formats.orbax_run import is_run, open_run
from bitnet_jax.models.names import Expected, expected

CHECKPOINT = "_CHECKPOINT_METADATA"
# What a folder of a run calls the folder of its steps.
STEPS = "checkpoints"
# What a tree of parameters is called beside others, the likeliest first.
_TREES = ("params", "model", "default", "state")


def is_orbax(folder: Path) -> bool:
    """True for a checkpoint of Orbax; for a folder of steps, or a run, that has no model yet."""
    marks = (METADATA, CHECKPOINT, "manifest.ocdbt")
    if any((folder / mark).exists() for mark in marks) or UNFINISHED in folder.name:
        return True
    models = (".safetensors", *WHOLE, *GRAPHS)
    if any(item.name.endswith(models) for item in folder.iterdir()):
        return False
    return bool(_steps(folder) or _steps(folder / STEPS))


def open_orbax(path: Path, verify: bool = True) -> Checkpoint:
    """Opens a checkpoint; reads its metadata and its config, no array.

    Args:
      path: a checkpoint, a folder of steps (the last is taken), or a run's folder.
      verify: not looked at; Orbax keeps no checksums.

    Raises:
      BadData: it is unfinished, damaged or hostile (``orbax.…``), nothing tells its architecture
        (``orbax.no_config``), or its parameters are not those that its config asks for.
    """
    del verify
    top, warnings = _checkpoint(path)
    if is_run(top):
        return open_run(path, top, warnings)
    tree = OrbaxTree(_tree(top))
    folder = _beside(path, top, tree.folder)
    raw = tokenizer_files.read_json(folder / CONFIG)
    generation = tokenizer_files.read_json(folder / tokenizer_files.GENERATION)
    config = huggingface_config.parse(raw, generation, f"`{folder / CONFIG}`")
    if tree.filled:
        warnings.append(
            f"`{tree.folder}` leaves out what is zero, so that a lost file would read as zeros"
        )
    stored = Stored(_named(tree, expected(config.spec), warnings), {})
    detail = {"files": _files(path, tree, folder)}
    found = checkpoint_of_stored(path, folder, config, stored, "orbax", detail, {})
    return Checkpoint(
        found.spec, found.entries, found.tokenizer, found.source, (*warnings, *found.warnings)
    )


# ------------------------------------------------------------------- which step, which tree
def _steps(folder: Path) -> list[int]:
    """The steps in a folder of them, ascending."""
    if not folder.is_dir():
        return []
    return sorted(
        int(item.name)
        for item in folder.iterdir()
        if item.name.isdecimal() and item.name.isascii() and _has_tree(item)
    )


def _has_tree(folder: Path) -> bool:
    return (folder / CHECKPOINT).is_file() or (folder / METADATA).is_file()


def _checkpoint(path: Path) -> tuple[Path, list[str]]:
    """The one checkpoint that is meant, and what to say of the choice."""
    if UNFINISHED in path.name:
        raise BadData(
            "orbax.unfinished",
            f"`{path}` was being written when its process ended",
            "take an older step",
        )
    if _has_tree(path):
        return path, []
    for folder in (path / STEPS, path):
        steps = _steps(folder)
        if steps:
            chosen = folder / str(steps[-1])
            if len(steps) == 1:
                return chosen, []
            return chosen, [f"`{folder}` holds {len(steps)} steps; the last, {steps[-1]}, was read"]
    raise BadData(
        "orbax.metadata",
        f"`{path}` looks like a checkpoint of Orbax and has no {METADATA}",
        "it is of an Orbax from before 2024, or was not copied whole: save it again",
    )


def _tree(top: Path) -> Path:
    """The folder of the tree that holds the parameters."""
    if (top / METADATA).is_file():
        return top
    there = sorted(item.name for item in top.iterdir() if (item / METADATA).is_file())
    known = [name for name in _TREES if name in there]
    if len(there) == 1 or known:
        return top / (known or there)[0]
    raise BadData(
        "orbax.which_tree",
        f"`{top}` holds " + (f"the trees {few(there)}" if there else "no tree of arrays"),
        f"pass one of them: {top / there[0]}"
        if there
        else "save the parameters with ocp.StandardCheckpointer, or as an item `params`",
    )


def _beside(path: Path, top: Path, tree: Path) -> Path:
    """The folder of the config: that of the tree, of its checkpoint, or one that holds it."""
    folders = list(dict.fromkeys((tree, top, top.absolute().parent, path)))
    for folder in folders:
        if (folder / CONFIG).is_file():
            return folder
    raise BadData(
        "orbax.no_config",
        f"`{top}` has no {CONFIG}, nor has the folder that it is in: nothing tells the "
        "architecture of its parameters",
        f"put the model's {CONFIG} (and its tokenizer's files) into it, or beside it",
    )


def _files(path: Path, tree: OrbaxTree, beside: Path) -> list[str]:
    """All that is read, each by its path from `path`."""
    names = [tree.folder / name for name in tree.files]
    return relative_names(path, [*names, *(beside / name for name in small_files(beside))])


# -------------------------------------------------------------------------------- which leaf
@dataclass(frozen=True)
class _Leaf:
    """A leaf as a reader of `transformers` tensors wants it: of a matrix [out, in]."""

    array: OrbaxArray
    turned: bool

    def read(self, name: str) -> np.ndarray:
        whole = self.array.read(name)
        return np.ascontiguousarray(whole.T) if self.turned else whole

    def read_prefix(self, name: str, count: int) -> np.ndarray:
        if self.turned:
            return self.read(name).reshape(-1)[:count]
        return self.array.read_prefix(name, count)

    def parts(self, name: str, rows: int) -> Iterator[np.ndarray]:
        if not self.turned:
            yield from self.array.parts(name, rows)
            return
        whole = self.read(name)
        for at in range(0, len(whole), rows):
            yield whole[at : at + rows]


def _named(
    tree: OrbaxTree, wanted: Mapping[str, Expected], warnings: list[str]
) -> dict[str, tuple[Any, TensorInfo]]:
    """Every leaf that is a parameter's, by its `transformers` name.

    What belongs to no parameter is left for `checkpoint_of_stored` to refuse, unless it stands in
    another part of the tree: an optimizer's state, a step.
    """
    theirs = {item.huggingface: item for item in wanted.values()}
    scales = {name + SCALE_SUFFIX for name, item in theirs.items() if item.ternary}
    prefix, ours = _prefix(tree, {*theirs, *scales}, wanted)
    known = {prefix + name for name in (wanted if ours else {*theirs, *scales})}
    roots = {name.split(".")[0] for name in known}
    found: dict[str, tuple[Any, TensorInfo]] = {}
    others: Counter[str] = Counter()
    for name in tree.names:
        root = name.split(".")[0]
        if not name.startswith(prefix) or root not in roots:
            others[root] += 1
            continue
        item = wanted.get(name.removeprefix(prefix)) if ours else None
        if item is not None and item.rows is not None:
            raise BadData(
                "orbax.names",
                f"{tree.where}: `{name}` is a part of `{item.huggingface}` in the checkpoints of "
                "its family, by whose names it would be read",
                "save it by the names of the transformers checkpoint",
            )
        plain = name.removeprefix(prefix) if item is None else item.huggingface
        leaf = _Leaf(tree.open(name), item is not None and item.transposed)
        found[plain] = leaf, _info(plain, leaf, tree)
    if others:
        warnings.append(f"{tree.where} holds {few(sorted(others))} beside the parameters; not read")
    return found


def _info(name: str, leaf: _Leaf, tree: OrbaxTree) -> TensorInfo:
    array = leaf.array
    if array.dtype not in NAMES:
        raise TensorError(
            "model.tensor_dtype",
            f"{tree.where}: `{array.name}` is {array.dtype}; a float was expected",
            tensor=name,
        )
    shape = array.shape[::-1] if leaf.turned else array.shape
    return TensorInfo(name, NAMES[array.dtype], shape, 0, math.prod(shape) * array.dtype.itemsize)


def _prefix(tree: OrbaxTree, theirs: set[str], ours: Mapping[str, Any]) -> tuple[str, bool]:
    """What stands before every parameter's name, and whether the names are ours."""
    counts = {
        False: _counted(tree.names, theirs.__contains__),
        True: _counted(tree.names, ours.__contains__),
    }
    best = max((max(found.values(), default=0) for found in counts.values()), default=0)
    if best == 0:
        raise BadData(
            "orbax.names",
            f"{tree.where}: none of its {len(tree.names)} leaves has the name of a parameter that "
            f"its config asks for: {few(sorted(tree.names))}; asked for are {few(sorted(theirs))}",
            "is this the right config? Flax modules of your own: rename the tree's keys first",
        )
    tied = [
        (prefix, own)
        for own, found in counts.items()
        for prefix, count in found.items()
        if count == best
    ]
    if len(tied) > 1:  # an optimizer's moments have the names of the parameters too
        likely = [(p, own) for p, own in tied if p == "" or _TREES[0] in p.split(".")]
        tied = sorted(likely, key=lambda pair: pair[0].count("."))[:1] or tied
    if len(tied) > 1:
        raise BadData(
            "orbax.which_tree",
            f"{tree.where} holds the parameters' names in {few([p or '.' for p, _ in tied])}",
            f"save the parameters alone, or under `{_TREES[0]}`",
        )
    return tied[0]


def _counted(names: Iterable[str], known: Callable[[str], bool]) -> Counter[str]:
    """How many names are a known one after each prefix."""
    found: Counter[str] = Counter()
    for name in names:
        at = 0
        while at >= 0:
            if known(name[at:]):
                found[name[:at]] += 1
            dot = name.find(".", at)
            at = dot + 1 if dot >= 0 else -1
    return found
