"""`Gguf`: how a family stands in GGUF files: architecture, names, keys, and what it turns.

What all architectures of llama.cpp that look like Llama share stands in tables here, once; a
family's row takes them and says what is its own. Knows no file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.parameter import field_of


@dataclass(frozen=True)
class Found:
    """What a row may look at in a file.

    Attributes:
      architecture: as the file has it.
      metadata: its keys.
      tensors: names of its tensors.
      read: a tensor by name, float32; only for those of `Gguf.tensors`.
      where: the file in the words of an error.
    """

    architecture: str
    metadata: Mapping[str, Any]
    tensors: frozenset[str]
    read: Callable[[str], np.ndarray]
    where: str

    def key(self, name: str, default: Any = None) -> Any:
        """The value of a key of the architecture."""
        return self.metadata.get(f"{self.architecture}.{name}", default)


@dataclass(frozen=True)
class TensorName:
    """A parameter's canonical name and that of its tensor; `N` stands for the layer.

    Rows with the same `gguf` are parts of one tensor: their rows one after the other, in the order
    of the table.
    """

    name: str
    gguf: str


@dataclass(frozen=True)
class MetadataKey:
    """A key `<architecture>.<name>` that is a field of the spec.

    Attributes:
      kind: how it is stored: ``u32``, ``f32``, ``string``, ``bool``.
      field: of `ModelSpec`; `extra.x` is the family's own ``x``.
      default: what its absence means, given the fields read so far; None: it must be there.
    """

    name: str
    field: str
    kind: str = "u32"
    default: Callable[[Mapping[str, Any]], Any] | None = None


_ATTENTION, _MLP = "layers.N.self_attn.", "layers.N.mlp."
LLAMA_NAMES: tuple[TensorName, ...] = (
    TensorName("embed_tokens", "token_embd.weight"),
    TensorName("norm", "output_norm.weight"),
    TensorName("lm_head", "output.weight"),
    TensorName("layers.N.input_layernorm", "blk.N.attn_norm.weight"),
    TensorName("layers.N.post_attention_layernorm", "blk.N.ffn_norm.weight"),
    TensorName(_ATTENTION + "q_proj", "blk.N.attn_q.weight"),
    TensorName(_ATTENTION + "k_proj", "blk.N.attn_k.weight"),
    TensorName(_ATTENTION + "v_proj", "blk.N.attn_v.weight"),
    TensorName(_ATTENTION + "o_proj", "blk.N.attn_output.weight"),
    TensorName(_MLP + "gate_proj", "blk.N.ffn_gate.weight"),
    TensorName(_MLP + "up_proj", "blk.N.ffn_up.weight"),
    TensorName(_MLP + "down_proj", "blk.N.ffn_down.weight"),
)
# Of every linear that has one.
BIAS_NAMES: tuple[TensorName, ...] = tuple(
    TensorName(row.name + ".bias", row.gguf.removesuffix(".weight") + ".bias")
    for row in LLAMA_NAMES
    if row.name.endswith("_proj")
)
SUB_NORM_NAMES: tuple[TensorName, ...] = (
    TensorName(_ATTENTION + "attn_sub_norm", "blk.N.attn_sub_norm.weight"),
    TensorName(_MLP + "ffn_sub_norm", "blk.N.ffn_sub_norm.weight"),
)

QK_NORM_NAMES: tuple[TensorName, ...] = (
    TensorName(_ATTENTION + "q_norm", "blk.N.attn_q_norm.weight"),
    TensorName(_ATTENTION + "k_norm", "blk.N.attn_k_norm.weight"),
)

LLAMA_KEYS: tuple[MetadataKey, ...] = (
    MetadataKey("vocab_size", "vocab_size", default=lambda fields: fields["_rows"]),
    MetadataKey("context_length", "max_positions"),
    MetadataKey("embedding_length", "hidden_size"),
    MetadataKey("block_count", "num_layers"),
    MetadataKey("feed_forward_length", "intermediate_size"),
    MetadataKey("attention.head_count", "num_heads"),
    MetadataKey(
        "attention.head_count_kv", "num_kv_heads", default=lambda fields: fields["num_heads"]
    ),
    MetadataKey(
        "attention.key_length",
        "head_dim",
        default=lambda fields: fields["hidden_size"] // max(fields["num_heads"], 1),
    ),
    MetadataKey("attention.layer_norm_rms_epsilon", "rms_norm_eps", "f32"),
    MetadataKey("rope.freq_base", "rope_theta", "f32", default=lambda fields: 10000.0),
)


def _nothing(spec: ModelSpec) -> None:
    return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Gguf:
    """One family's row.

    Attributes:
      architecture: what is written as ``general.architecture``.
      also: other names under which it is read.
      names: the tensors; those that a spec has not are not looked for.
      keys: the fields that stand in the file, in the order read.
      fixed: (the file, fields so far) -> fields that no key says; those of `extra` under it.
      more: spec -> further keys, less the architecture's prefix, each a (kind, value).
      tensors: spec -> further tensors, float32, that llama.cpp computes with.
      permuted: canonical name -> the field with its number of heads: rows of these matrices
        are interleaved, as llama.cpp's rotary embedding of neighbouring pairs wants them.
      norm_offset: by how much the weights of norms are larger there than here.
      scales: (canonical name, spec) -> llama.cpp multiplies the product with this matrix by an
        optional float32 tensor ``<x>.scale``, before anything is added to it.
      refuses: spec -> why this architecture cannot hold it, in words, or None.
      warns: spec -> what an engine does wrong with it, in words, or None.
      i2s: spec -> the architecture that bitnet.cpp knows it by (I2_S files are its own).
    """

    architecture: str
    also: tuple[str, ...] = ()
    names: tuple[TensorName, ...] = LLAMA_NAMES
    keys: tuple[MetadataKey, ...] = LLAMA_KEYS
    fixed: Callable[[Found, Mapping[str, Any]], dict[str, Any]] = lambda found, fields: {}
    more: Callable[[ModelSpec], dict[str, tuple[str, Any]]] = lambda spec: {}
    tensors: Callable[[ModelSpec], dict[str, np.ndarray]] = lambda spec: {}
    permuted: Mapping[str, str] = field(default_factory=dict)
    norm_offset: float = 0.0
    scales: Callable[[str, ModelSpec], bool] = lambda name, spec: True
    refuses: Callable[[ModelSpec], str | None] = _nothing
    warns: Callable[[ModelSpec], str | None] = _nothing
    i2s: Callable[[ModelSpec], str] | None = None

    @property
    def architectures(self) -> tuple[str, ...]:
        """Every name under which it is read."""
        return (self.architecture, *self.also)

    def heads(self, name: str, spec: ModelSpec) -> int | None:
        """How many heads the rows of `name` are interleaved in; None: they are not."""
        field = self.permuted.get(_NUMBER.sub(".N.", name))
        return None if field is None else field_of(spec, field)

    def offset(self, name: str) -> float:
        """By how much the values of `name` are larger in a file."""
        return self.norm_offset if name.endswith("norm") else 0.0


# A layer's number in a canonical name.
_NUMBER = re.compile(r"\.\d+\.")
