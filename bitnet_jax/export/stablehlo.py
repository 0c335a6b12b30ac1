"""A checkpoint as StableHLO programs by `jax.export`: a prefill and a decode, weights outside.

Both take the tensors of a `.bitnet` file as they stand in it, token ids, positions, and the KV
cache; they give logits and the cache. Batch, length and the cache's capacity are open. Only
portable forms of the ops are lowered, so that one file runs on each of `PLATFORMS` without this
package: jax, and any reader of safetensors, are enough. Knows no runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import xxhash
from jax import export, lax

from bitnet_jax.containers.native import SCALES, NativeFile, open_native
from bitnet_jax.core import jax_compat, paths
from bitnet_jax.core.errors import InternalError
from bitnet_jax.core.writing import new_file
from bitnet_jax.export.decoder import Pairs, in_place_function
from bitnet_jax.export.onnx import as_json
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.native import tensor_of, write_bitnet
from bitnet_jax.formats.stablehlo import FORMAT, MANIFEST, SUFFIX, VERSION, WEIGHTS
from bitnet_jax.ir.program import Program, trace
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.passes import pipelines
from bitnet_jax.passes.packed import Packed
from bitnet_jax.quant.layouts import layout_of
from bitnet_jax.targets.detect import versions

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# Custom calls that JAX guarantees for as long as the program itself.
KNOWN_CALLS = frozenset({"shape_assertion"})
WINDOW = "six months from the release of this jaxlib for newer ones, three weeks for older ones"


@dataclass(frozen=True)
class Sizes:
    """The sizes of a program's inputs: numbers, or symbols that are open."""

    batch: Any
    length: Any
    capacity: Any


def sizes_of(name: str) -> Sizes:
    """Those of the program `name`: a decode takes one token of each row."""
    if name == "decode":
        batch, capacity = export.symbolic_shape(
            "batch, capacity", constraints=["batch >= 1", "capacity >= 1"]
        )
        return Sizes(batch, 1, capacity)
    batch, length, capacity = export.symbolic_shape(
        "batch, length, capacity",
        constraints=["batch >= 1", "length >= 1", "capacity >= length"],
    )
    return Sizes(batch, length, capacity)


def parameters_of(weights: NativeFile) -> dict[str, jax.ShapeDtypeStruct]:
    """The tensors that the programs take, by name, with the shapes and dtypes of the file."""
    names = sorted([*weights.rows, *weights.floats, *([SCALES] if weights.rows else [])])
    rows = {name: weights.safetensors.info(name) for name in names}
    return {name: jax.ShapeDtypeStruct(row.shape, row.numpy) for name, row in rows.items()}


def packed_of(weights: NativeFile, tensors: Mapping[str, Any]) -> Packed:
    """The parameters that the tensors of the file are: floats widened, codes and their scales."""
    leaves: dict[str, Any] = {name: tensors[name].astype(jnp.float32) for name in weights.floats}
    for name, row in weights.rows.items():
        offset, count = row.scales
        codes = lax.bitcast_convert_type(tensors[name], layout_of(row.layout).dtype)
        scale = tensors[SCALES][offset : offset + count].reshape(row.scale_shape)
        # Activations are float32, wherever the weights came from.
        leaves[name] = replace(tensor_of(row, codes, scale), dtype="float32")
    return Packed.of(leaves)


def program_of(spec: ModelSpec, weights: NativeFile, sizes: Sizes) -> Program:
    """What is lowered: ``program(packed, tokens, positions, cache) -> (logits, cache)``.

    Raises:
      UsageError: the family has a cache of its own (``export.cache``).
    """
    packed = jax.eval_shape(lambda given: packed_of(weights, given), parameters_of(weights))
    ids, cache = _inputs(spec, sizes)
    program = trace(in_place_function(spec), packed.float_avals(), ids, ids, cache)
    return pipelines.run_pipeline(program, pipelines.portable(packed))


def _inputs(spec: ModelSpec, sizes: Sizes) -> tuple[jax.ShapeDtypeStruct, Pairs]:
    """The types of ids, or positions, and of a cache."""
    entries = jax.ShapeDtypeStruct(
        (sizes.batch, sizes.capacity, spec.num_kv_heads, spec.head_dim), jnp.float32
    )
    ids = jax.ShapeDtypeStruct((sizes.batch, sizes.length), jnp.int32)
    return ids, [(entries, entries)] * spec.num_layers


def export_program(spec: ModelSpec, weights: NativeFile, name: str) -> export.Exported:
    """Lowers one program for every platform.

    Raises:
      UsageError: the family has a cache of its own (``export.cache``).
      InternalError: what was lowered calls what only this machine has (``export.custom_call``).
    """
    tensors, sizes = parameters_of(weights), sizes_of(name)
    ids, cache = _inputs(spec, sizes)
    program = program_of(spec, weights, sizes)

    def run(weights_: Any, tokens: Any, positions: Any, cache: Pairs) -> tuple[Any, Pairs]:
        return program(packed_of(weights, weights_), tokens, positions, cache)

    run.__name__ = name
    with jax_compat.without_locations():
        exported = export.export(jax.jit(run), platforms=PLATFORMS)(tensors, ids, ids, cache)
    strange = jax_compat.custom_calls(exported.mlir_module()) - KNOWN_CALLS
    if strange:
        raise InternalError(
            "export.custom_call",
            f"the program `{name}` calls {', '.join(sorted(strange))}, which is not part of "
            "StableHLO",
            "this is a bug: please report it",
        )
    return exported


def write_folder(
    checkpoint: Checkpoint,
    path: Path,
    encoding: str | None = None,
    *,
    force: bool = False,
    jobs: int = 1,
    prove: Callable[[Path], None] = lambda folder: None,
) -> list[Path]:
    """Writes the weights, the programs and the manifest; returns the files.

    Args:
      prove: called with the folder before it gets its name; what it raises leaves nothing behind.
        It may add files.

    Raises:
      CannotCreate: the folder exists, and `force` is false.
    """
    names = (WEIGHTS, *(f"{name}{SUFFIX}" for name in ("prefill", "decode")), MANIFEST)
    with paths.atomic_directory(path, force=force) as folder:
        with new_file(folder / WEIGHTS) as stream:
            write_bitnet(checkpoint, stream, encoding, jobs=jobs)
        weights = open_native(folder / WEIGHTS)
        programs = {}
        for name in ("prefill", "decode"):
            exported = export_program(checkpoint.spec, weights, name)
            data = bytes(exported.serialize())
            (folder / f"{name}{SUFFIX}").write_bytes(data)
            programs[name] = _row(name, data, exported)
        manifest = _manifest(checkpoint.spec, weights, programs)
        (folder / MANIFEST).write_text(as_json_lines(manifest), encoding="utf-8")
        prove(folder)
    return [path / name for name in names]


def as_json_lines(value: Mapping[str, Any]) -> str:
    """JSON, a key of the first level a line: people read it, and it stays short."""
    rows = ",\n".join(f" {as_json(key)}: {as_json(item)}" for key, item in value.items())
    return f"{{\n{rows}\n}}\n"


def _row(name: str, data: bytes, exported: export.Exported) -> dict[str, Any]:
    return {
        "file": f"{name}{SUFFIX}",
        "bytes": len(data),
        "xxh3": xxhash.xxh3_64_hexdigest(data),
        "calling_convention": exported.calling_convention_version,
    }


def _manifest(spec: ModelSpec, weights: NativeFile, programs: Mapping[str, Any]) -> dict[str, Any]:
    found = versions()
    return {
        "format": FORMAT,
        "version": VERSION,
        "call": "logits, cache = program.call(weights, tokens, positions, cache)",
        "weights": {
            "file": WEIGHTS,
            "parameters": [*parameters_of(weights)],
            "digests": weights.digests,
        },
        "tokens": {"dtype": "int32", "shape": ["batch", "length"]},
        "positions": {"dtype": "int32", "shape": ["batch", "length"]},
        "cache": {
            "layers": spec.num_layers,
            "of each": ["keys", "values"],
            "dtype": "float32",
            "shape": ["batch", "capacity", spec.num_kv_heads, spec.head_dim],
            "at first": 0,
        },
        "logits": {"dtype": "float32", "shape": ["batch", "length", spec.vocab_size]},
        "programs": dict(programs),
        "platforms": list(PLATFORMS),
        "made_by": {name: found[name] for name in ("bitnet-jax", "jax", "jaxlib")},
        "compatibility": WINDOW,
    }
