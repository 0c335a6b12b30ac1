"""Running exported StableHLO programs again, by jax alone: `jax.export.deserialize`, and a call.

What is deserialized is code that XLA compiles: it is looked at first (its inputs, what it calls),
and nevertheless to be trusted like any program. Knows nothing of how it was made.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from bitnet_jax.containers.native import NativeFile, open_native
from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import BadData, few
from bitnet_jax.export.stablehlo import KNOWN_CALLS, parameters_of
from bitnet_jax.formats.stablehlo import SUFFIX, WEIGHTS, StablehloFolder, read_folder
from bitnet_jax.ir.spec import ModelSpec

# What reading a flatbuffer, or a module, from damaged bytes raises.
_FAULTS = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, NotImplementedError,
    AssertionError, MemoryError, OverflowError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Programs:
    """A folder's programs, ready to be called on the default device.

    Attributes:
      tensors: what the programs take as weights, on the device.
    """

    spec: ModelSpec
    tensors: Mapping[str, Any]
    prefill: export.Exported
    decode: export.Exported

    def empty(self, batch: int, capacity: int) -> list[tuple[Any, Any]]:
        """A cache of zeros."""
        shape = (batch, capacity, self.spec.num_kv_heads, self.spec.head_dim)
        return [(jnp.zeros(shape), jnp.zeros(shape)) for _ in range(self.spec.num_layers)]

    def logits(self, tokens: np.ndarray, prefill: int, capacity: int) -> np.ndarray:
        """Logits of every position, float32 [batch, length, vocab].

        Args:
          tokens: ids [batch, length].
          prefill: how many run in one piece; those after it run one at a time.
          capacity: of the cache, not less than the length.
        """
        programs = {True: jax.jit(self.prefill.call), False: jax.jit(self.decode.call)}
        cache, found = self.empty(len(tokens), capacity), []
        for here in calls_of(tokens, prefill):
            given = here.ids, here.positions, cache
            logits, cache = programs[here.columns.start == 0](self.tensors, *given)
            found.append(np.asarray(logits))
        return np.concatenate(found, axis=1)


@dataclass(frozen=True)
class Call:
    """One of the calls that tokens are given in.

    Attributes:
      columns: which tokens of each row; the first call's start at 0.
      ids: int32 [batch, columns].
      positions: int32 [batch, columns].
    """

    columns: slice
    ids: np.ndarray
    positions: np.ndarray


def calls_of(tokens: np.ndarray, prefill: int) -> Iterator[Call]:
    """The calls for ids [batch, length]: `prefill` in one piece, those after it one at a time."""
    ids, length = tokens.astype(np.int32), tokens.shape[1]
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
    cuts = [0, *range(max(prefill, 1), length), length]
    for start, end in zip(cuts, cuts[1:], strict=False):
        columns = slice(start, end)
        yield Call(columns, ids[:, columns], positions[:, columns])


def open_stablehlo(path: str | os.PathLike) -> Programs:
    """Opens a folder that `model convert --format stablehlo` wrote, to run it.

    Raises:
      NoInput: there is none.
      BadData: it is damaged, its programs take other inputs than its weights are, or call what is
        not StableHLO's (``stablehlo.…``); or this jax no longer reads them
        (``stablehlo.program``).
    """
    folder = read_folder(Path(path))
    weights = open_native(folder.path / WEIGHTS)
    programs = {name: _deserialized(folder, name, weights) for name in folder.programs}
    tensors = {name: jax.device_put(weights.read_tensor(name)) for name in parameters_of(weights)}
    return Programs(ModelSpec.from_json(weights.spec), tensors, **programs)


def check_programs(path: Path) -> None:
    """As `open_stablehlo`, without reading the weights."""
    folder = read_folder(path)
    weights = open_native(folder.path / WEIGHTS)
    for name in folder.programs:
        _deserialized(folder, name, weights)


def _deserialized(folder: StablehloFolder, name: str, weights: NativeFile) -> export.Exported:
    where = f"`{folder.path / name}{SUFFIX}`"
    try:
        found = export.deserialize(bytearray(folder.programs[name]))
        module = found.mlir_module()
        (given, *_), _ = jax.tree_util.tree_unflatten(found.in_tree, found.in_avals)
        taken = {key: (tuple(aval.shape), str(aval.dtype)) for key, aval in given.items()}
    except _FAULTS as error:
        raise BadData(
            "stablehlo.program",
            f"{where} is not read by jax {jax.__version__}: {str(error)[:200]}",
            "a program runs for six months from the jax that wrote it: make it again from "
            f"{folder.path / WEIGHTS}",
        ) from error
    wanted = {
        key: (tuple(aval.shape), str(aval.dtype)) for key, aval in parameters_of(weights).items()
    }
    odd = sorted(key for key in {*taken, *wanted} if taken.get(key) != wanted.get(key))
    if odd:
        raise BadData(
            "stablehlo.inputs",
            f"{where} takes other weights than {WEIGHTS} holds: {few(odd)}",
            "program and weights are of two models: make the folder again",
        )
    strange = jax_compat.custom_calls(module) - KNOWN_CALLS
    if strange:
        raise BadData(
            "stablehlo.custom_call",
            f"{where} calls {few(sorted(strange))}, which is code outside of it",
            "it was altered, or is no export of ours: make it again from the weights",
        )
    return found
