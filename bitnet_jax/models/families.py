"""The registry of families: built in, from the files of `load_plugin`, from packages.

A built-in family is a row of `FAMILIES`. A package's is imported when its name is asked for
or all are listed, so that a broken one breaks only what needs it; a checkpoint that names a
family can choose among what is installed and loaded, and brings no code. How plugins are
read stands in `plugins.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_jax.core.errors import BadData, BitnetError, UsageError, did_you_mean
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import plugins, verify
from bitnet_jax.models.bitnet import FAMILY as BITNET
from bitnet_jax.models.bitnet_1bitllm import FAMILY as BITNET_1BITLLM
from bitnet_jax.models.family import Family, Params
from bitnet_jax.models.gemma import FAMILY as GEMMA
from bitnet_jax.models.gemma3 import FAMILY as GEMMA3
from bitnet_jax.models.llama import FAMILY as LLAMA
from bitnet_jax.models.mistral import FAMILY as MISTRAL
from bitnet_jax.models.phi import FAMILY as PHI
from bitnet_jax.models.phi3 import FAMILY as PHI3
from bitnet_jax.models.qwen2 import FAMILY as QWEN2
from bitnet_jax.models.qwen3 import FAMILY as QWEN3
from bitnet_jax.models.smollm3 import FAMILY as SMOLLM3

_BUILT_IN = (
    BITNET,
    LLAMA,
    BITNET_1BITLLM,  # where a config says no architecture, the first with its model type is meant
    MISTRAL,
    QWEN2,
    QWEN3,
    GEMMA,
    GEMMA3,
    PHI,
    PHI3,
    SMOLLM3,
)
FAMILIES: dict[str, Family] = {family.name: family for family in _BUILT_IN}

ELSEWHERE = "A family of your own: install its package, or pass --plugin FILE.py."


@dataclass(frozen=True)
class Listed:
    """A family and where it comes from."""

    family: Family
    source: str


# What was loaded into this process: files by path, packages by the family's name.
_files: dict[Path, tuple[Family, ...]] = {}
_packages: dict[str, Listed] = {}


# ------------------------------------------------------------------------------ asking
def family_of(name: str) -> Family:
    """The family called `name`.

    Raises:
      BadData: nobody provides it (``model.unknown_family``); the hint lists the known ones.
      Unavailable: the package that provides it cannot be imported (``plugin.import``).
      UsageError: two packages provide it (``plugin.name_clash``).
    """
    if not isinstance(name, str):  # it may come from a file
        raise _unknown(name)
    for known in (FAMILIES, _by_name()):
        if name in known:
            return known[name]
    if name not in _packages:
        points = plugins.entry_points().get(name, [])
        if not points:
            raise _unknown(name)
        if len(points) > 1:
            raise _two_packages(name, points)
        _packages[name] = Listed(plugins.family_of_point(points[0]), _source(points[0]))
    return _packages[name].family


def check_spec(spec: ModelSpec) -> Family:
    """The family of `spec`, which has been checked by it (``config.value``)."""
    family = family_of(spec.family)
    family.accept(spec)
    return family


def family_for(spec: ModelSpec) -> Family:
    """The family of `spec`, ready to run it.

    Raises:
      BadData: as `check_spec`; a plugin's function does not fit its own table of names, the
        message says where (``family.function``).
    """
    family = check_spec(spec)
    if family.name not in FAMILIES:  # our own are tested
        verify.verify(family, spec)
    return family


def fresh_params(spec: ModelSpec, seed: int) -> Params:
    """New parameters of `spec`, exactly those that its family's table names.

    Raises:
      BadData: as `family_for`; `init` gives others (``family.init``).
    """
    family = family_for(spec)
    params = family.init(spec, seed)
    verify.check_params(family, spec, params)
    return params


def by_huggingface(architecture: Any, model_type: Any) -> tuple[Family | None, list[str]]:
    """The family of a `config.json`, and what kept plugins from being asked.

    The architecture decides; only where it is None does the model type.
    """
    column, wanted = "architecture", architecture
    if architecture is None:
        column, wanted = "model_type", model_type

    def fits(family: Family) -> bool:
        return family.huggingface is not None and getattr(family.huggingface, column) == wanted

    for family in (*FAMILIES.values(), *_by_name().values()):
        if fits(family):
            return family, []
    listed, problems = every_family()
    return next((row.family for row in listed if fits(row.family)), None), problems


def by_gguf(architecture: Any) -> tuple[Family | None, list[str]]:
    """The family of a GGUF file's ``general.architecture``, and what kept plugins from being asked.

    Of several that are read under one name the first is meant.
    """

    def fits(family: Family) -> bool:
        return family.gguf is not None and architecture in family.gguf.architectures

    for family in (*FAMILIES.values(), *_by_name().values()):
        if fits(family):
            return family, []
    listed, problems = every_family()
    return next((row.family for row in listed if fits(row.family)), None), problems


def every_family() -> tuple[list[Listed], list[str]]:
    """Every family that there is, and what is wrong with plugins, in words.

    Imports the installed plugins. One that clashes with what comes before it is left out,
    and said.
    """
    listed = [Listed(family, "built in") for family in FAMILIES.values()]
    listed += [Listed(f, f"file {path}") for path, found in _files.items() for f in found]
    problems: list[str] = []
    for name, points in plugins.entry_points().items():
        try:
            if len(points) > 1:
                raise _two_packages(name, points)
            family = _packages[name].family if name in _packages else None
            row = Listed(family or plugins.family_of_point(points[0]), _source(points[0]))
            _check_clash(row, listed)
        except BitnetError as error:
            problems.append(f"{error.message}; {error.hint}")
            continue
        if name not in FAMILIES:
            _packages[name] = row
            listed.append(row)
    return listed, problems


def shapes(*, packages: bool) -> dict[str, ModelSpec]:
    """The named shapes of every family; those of installed packages only when `packages`."""
    families = [*FAMILIES.values(), *_by_name().values()]
    if packages:
        families = [row.family for row in every_family()[0]]
    return {name: spec for family in families for name, spec in family.shapes.items()}


# ----------------------------------------------------------------------------- loading
def load_plugin(path: str | os.PathLike) -> list[str]:
    """Runs a Python file that defines `FAMILY` or `FAMILIES`; returns the families' names.

    They are known from then on in this process. The same file may be loaded again; what it
    gives then takes the place of what it gave.

    Raises:
      NoInput, BadData: as `plugins.families_in_file`.
      UsageError: a name, architecture, model type or shape is taken (``plugin.name_clash``).
    """
    file = Path(path).resolve()
    families = plugins.families_in_file(file)
    others = [Listed(family, "built in") for family in FAMILIES.values()]
    others += [Listed(f, f"file {p}") for p, found in _files.items() if p != file for f in found]
    for family in families:
        row = Listed(family, f"file {file}")
        _check_clash(row, others)
        # By its name alone: what else a package has is known when it is imported.
        for point in plugins.entry_points().get(family.name, []):
            raise _clash(row, f"family {family.name}", _source(point))
        others.append(row)
    _files[file] = families
    return [family.name for family in families]


def _by_name() -> Mapping[str, Family]:
    return {family.name: family for found in _files.values() for family in found}


def _check_clash(row: Listed, others: list[Listed]) -> None:
    for other in others:
        for key in plugins.keys_of(row.family):
            if key in plugins.keys_of(other.family):
                raise _clash(row, key, other.source)


def _clash(row: Listed, key: str, source: str) -> UsageError:
    kind, _, name = key.partition(" ")
    return UsageError(
        "plugin.name_clash",
        f"family `{row.family.name}` of {row.source}: the {kind} `{name}` is taken ({source})",
        "choose another name, or leave one of the two out",
    )


def _two_packages(name: str, points: list[Any]) -> UsageError:
    return UsageError(
        "plugin.name_clash",
        f"family `{name}` is provided twice: {', '.join(map(plugins.distribution, points))}",
        "uninstall one of them",
    )


def _source(point: Any) -> str:
    return f"package {plugins.distribution(point)}"


def _unknown(name: object) -> BadData:
    known = [*FAMILIES, *_by_name(), *plugins.entry_points()]
    text = str(name)
    close = did_you_mean(text, known)
    return BadData(
        "model.unknown_family",
        f"the model family `{text[:80]}` is not known",
        f"{close}{'' if close.endswith('?') else '.'} {ELSEWHERE}",
    )
