"""Writing `transformers` checkpoints: a directory that its loader takes as it stands.

Encodings: ``master`` (floats that the reference quantizes at load to the same trits and scale),
``autobitlinear`` and ``bitlinear`` (packed, multiply or divide), ``packed`` (whichever of the
two the source was), ``latent`` (the trainable weights), ``dequantized`` (floats that are trits
times scale, of any kind). Tensors pass through one at a time (`huggingface_shards`); the config is
written last, when the scales are known. Writes into a folder it is given: the caller makes it
atomic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np

from bitnet_jax.formats import model_card, tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.huggingface_config import Quantization, check_spelling, spell
from bitnet_jax.formats.huggingface_encoding import UNQUANTIZED, choose_encoding
from bitnet_jax.formats.huggingface_matrices import Matrices
from bitnet_jax.formats.huggingface_plan import Piece, cut_into_shards, planned_pieces
from bitnet_jax.formats.huggingface_shards import write_shards
from bitnet_jax.formats.huggingface_weights import LATENT_KEY
from bitnet_jax.formats.metadata import CONFIG_KEY
from bitnet_jax.formats.model_files import SINGLE
from bitnet_jax.formats.survey import each
from bitnet_jax.models.names import expected

MAX_SHARD_BYTES = 5 << 30


@dataclass
class Written:
    """What was written: file names, the encoding chosen, and what the user should know."""

    encoding: str
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Spelling:
    """How the config and metadata are spelled; the default is what users get.

    Attributes:
      old: transformers 4's spelling of the config.
      exact: carry the exact scales in the metadata.
      extra: keys that override the config's.
      partial: leave out tensors that the checkpoint lacks (made with a defect).
      card: write a model card.
    """

    old: bool = False
    exact: bool = True
    extra: Mapping[str, object] = field(default_factory=dict)
    partial: bool = False
    card: bool = True


def write_huggingface(
    checkpoint: Checkpoint,
    folder: Path,
    encoding: str | None = None,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    spelling: Spelling = Spelling(),
    jobs: int = 1,
    single: str = SINGLE,
) -> Written:
    """Writes `checkpoint` into the empty `folder`.

    Args:
      single: what the weights are called where they fit into one file.
      jobs: threads that read tensors and turn them; the bytes are the same for any number.

    Raises:
      CannotCreate: the encoding cannot hold the model (codes ``huggingface.*``).
    """
    encoding, warnings = choose_encoding(checkpoint, encoding)
    check_spelling(checkpoint.spec, encoding not in UNQUANTIZED)
    written = Written(encoding, warnings=warnings)
    matrices = Matrices(checkpoint, encoding)
    wanted = expected(checkpoint.spec)
    if spelling.partial:
        wanted = {name: item for name, item in wanted.items() if name in checkpoint.entries}
    pieces = list(planned_pieces(checkpoint, wanted, encoding, matrices))
    shards = cut_into_shards(pieces, max_shard_bytes)
    weight_map: dict[str, str] = {}
    total = 0
    names = [single]
    if len(shards) > 1:
        count = range(1, len(shards) + 1)
        names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in count]
    fixed = {"format": "pt"}
    if encoding == "latent" and spelling.exact:
        fixed[LATENT_KEY] = "true"

    def run(work: list[Piece]) -> Iterator[np.ndarray | None]:
        reads = {piece.name: piece for piece in work}

        def read(name: str) -> np.ndarray | None:
            return reads[name].read() if reads[name].parts is None else None

        return each(checkpoint, list(reads), read, jobs)

    files = [folder / name for name in names]
    found = write_shards(files, shards, matrices, fixed, spelling.exact, run)
    for name, sizes in zip(names, found, strict=True):
        weight_map |= dict.fromkeys(sizes, name)
        total += sum(sizes.values())
        written.files.append(name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        _put(folder, "model.safetensors.index.json", tokenizer_files.to_json(index), written)
    config = spell(
        checkpoint.spec,
        _quantization(checkpoint, encoding),
        _load_dtype(checkpoint, encoding, matrices),
        old_spelling=spelling.old,
    )
    if checkpoint.metadata:
        config[CONFIG_KEY] = dict(checkpoint.metadata)
    config = dict(sorted((config | dict(spelling.extra)).items()))
    _put(folder, "config.json", tokenizer_files.to_json(config), written)
    for name, data in companions(checkpoint).items():
        _put(folder, name, data, written)
    if spelling.card:
        _put(folder, model_card.NAME, model_card.model_card(checkpoint, encoding), written)
    return written


def _put(folder: Path, name: str, data: bytes, written: Written) -> None:
    (folder / name).write_bytes(data)
    written.files.append(name)


def _quantization(checkpoint: Checkpoint, encoding: str) -> Quantization:
    if encoding in UNQUANTIZED:
        return Quantization(present=False)
    kept = [
        item.huggingface.removesuffix(".weight")
        for item in expected(checkpoint.spec).values()
        if item.ternary and not checkpoint.entries[item.name].ternary
    ]
    # Once the list is given, transformers no longer adds the head by itself.
    excluded = (*kept, "lm_head") if kept else ()
    online = encoding in ("master", "latent")
    linear_class = "autobitlinear" if online else encoding
    return Quantization(True, linear_class, "online" if online else "offline", excluded)


def _load_dtype(checkpoint: Checkpoint, encoding: str, matrices: Matrices) -> str:
    """The dtype the loader should use: it casts floats and scales to it, so it must hold them."""
    floats = {entry.dtype for entry in checkpoint.entries.values() if not entry.ternary}
    if floats != {"bfloat16"} or encoding in ("master", "dequantized"):
        return "float32"
    if encoding in ("float", "latent"):
        return "bfloat16"
    narrow = all(
        matrices.scale(item).dtype == ml_dtypes.bfloat16
        for item in expected(checkpoint.spec).values()
        if item.name in matrices.exact
    )
    return "bfloat16" if narrow else "float32"


def companions(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Tokenizer, template and generation defaults, as files: what stands beside the config."""
    spec, files = checkpoint.spec, checkpoint.tokenizer
    generation = {
        "bos_token_id": spec.bos_token_id,
        "eos_token_id": list(spec.eos_token_ids),
        "pad_token_id": spec.pad_token_id,
    }
    generation = {key: value for key, value in generation.items() if value not in (None, [])}
    out = tokenizer_files.to_files(files) if files is not None else {}
    if generation:
        out.setdefault(tokenizer_files.GENERATION, tokenizer_files.to_json(generation))
    special = {
        key: value
        for key, value in (files.config if files is not None else {}).items()
        if key in ("bos_token", "eos_token", "pad_token", "unk_token", "additional_special_tokens")
        and value is not None
    }
    if special:
        out["special_tokens_map.json"] = tokenizer_files.to_json(special)
    return out
