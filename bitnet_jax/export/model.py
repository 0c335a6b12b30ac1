"""A checkpoint as an ONNX decoder: described, traced with its cache, written tensor by tensor.

No more than one tensor of the model is in memory at a time. Knows nothing of runtimes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from bitnet_jax.export.builder import numpy_dtype
from bitnet_jax.export.decoder import past_names, present_names, trace_step
from bitnet_jax.export.onnx import Lowered, Port, as_json, lower, write
from bitnet_jax.export.profiles import Profile
from bitnet_jax.formats import tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.native import origin_of
from bitnet_jax.passes import pipelines
from bitnet_jax.passes.packed import Packed
from bitnet_jax.quant.digest import Digest, DigestBuilder
from bitnet_jax.quant.tensor import QuantTensor

INPUTS = ("input_ids", "attention_mask", "position_ids")


@dataclass(frozen=True)
class Described:
    """A checkpoint without its numbers.

    Attributes:
      leaves: each parameter's abstract value, floats with their source's dtype.
      digest: of its ternary tensors, which were read for it.
    """

    leaves: Mapping[str, Any]
    digest: Digest

    def packed(self) -> Packed:
        """The parameters that a program of the model is traced on: floats are float32."""
        wide = {
            name: leaf
            if isinstance(leaf, QuantTensor)
            else jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
            for name, leaf in self.leaves.items()
        }
        return Packed.of(wide)


def describe(checkpoint: Checkpoint) -> Described:
    """Reads every ternary tensor once, one after another."""
    builder = DigestBuilder()
    leaves: dict[str, Any] = {}
    for name in sorted(checkpoint.entries, key=str.encode):
        entry = checkpoint.entries[name]
        if not entry.ternary:
            leaves[name] = jax.ShapeDtypeStruct(entry.shape, numpy_dtype(entry.dtype))
            continue
        tensor = entry.read()
        assert isinstance(tensor, QuantTensor)
        builder.add(name, tensor)
        leaves[name] = replace(tensor, codes=_typed(tensor.codes), scale=_typed(tensor.scale))
    return Described(leaves, builder.result())


def _typed(array: Any) -> Any:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def lower_model(checkpoint: Checkpoint, described: Described, profile: Profile) -> Lowered:
    """The decoder's step in ONNX, batch and lengths open."""
    spec, packed = checkpoint.spec, described.packed()
    program = trace_step(spec, packed)
    program = pipelines.run_pipeline(program, pipelines.exported(packed))
    inputs = [*(Port(name, "int64") for name in INPUTS), *map(Port, past_names(spec))]
    outputs = [Port("logits"), *map(Port, present_names(spec))]
    return lower(program, described.leaves, profile, inputs, outputs)


def write_model(
    checkpoint: Checkpoint,
    described: Described,
    profile: Profile,
    path: Path,
    *,
    force: bool = False,
    prove: Callable[[Path], None] = lambda path: None,
) -> tuple[Path, Path]:
    """Writes the graph and its data, as `onnx.write`."""
    lowered = lower_model(checkpoint, described, profile)
    tokenizer = checkpoint.tokenizer
    files = tokenizer_files.to_files(tokenizer) if tokenizer else {}
    metadata = {
        "bitnet.profile": profile.name,
        "bitnet.spec": as_json(checkpoint.spec.to_json()),
        "bitnet.digests": as_json(described.digest.to_json()),
        "bitnet.origin": as_json(origin_of(checkpoint.source)),
        **{f"bitnet.file.{name}": data.decode() for name, data in files.items()},
    }
    return write(lowered, checkpoint.read, path, metadata, force=force, prove=prove)
