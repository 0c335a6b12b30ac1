"""Reading `transformers` checkpoints: a directory, a shard set, or one safetensors file.

Every form that `BitNetForCausalLM` comes in, for every family that has names there: the
float master (quantized as the reference does at load), packed `autobitlinear` (multiply by
weight_scale) and packed `bitlinear` (divide), floats that are already ternary, and plain
floats. Which one it is stands in the config and the header, and is never guessed from values
where they say. Code in a checkpoint is never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.containers.dtypes import FLOATS
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.safetensors import TensorInfo
from bitnet_jax.core.errors import BadData, few, nearest
from bitnet_jax.formats import huggingface_config, tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint, Source, TensorEntry
from bitnet_jax.formats.huggingface_config import Config, Quantization
from bitnet_jax.formats.huggingface_files import IGNORED, tensors_of
from bitnet_jax.formats.huggingface_packing import packed_rows
from bitnet_jax.formats.huggingface_weights import (
    BIAS_SUFFIX,
    LATENT_KEY,
    SCALE_SUFFIX,
    ExactScale,
    Stored,
    exact_scales,
    float_names,
    look_ternary,
    read_dequantized,
    read_float,
    read_latent,
    read_master,
    read_packed,
    read_scaled,
    scale_of_bias,
)
from bitnet_jax.formats.metadata import CONFIG_KEY, check_metadata
from bitnet_jax.formats.model_files import CONFIG, INDEX
from bitnet_jax.models.names import Expected, expected, tied_away


def open_huggingface(path: Path) -> Checkpoint:
    """Opens a directory, or one safetensors file with its config beside it.

    Raises:
      NoInput: a file that the index names is missing.
      BadData: config, header or their agreement is wrong; the codes say what.
    """
    folder = path if path.is_dir() else path.parent
    config_path = folder / CONFIG
    data = tokenizer_files.read_small(config_path)
    if data is None:
        raise BadData(
            "huggingface.no_config",
            f"`{folder}` has no {CONFIG}, so nothing tells the architecture of `{path}`",
            f"put the model's {CONFIG} beside it",
        )
    generation = tokenizer_files.read_json(folder / tokenizer_files.GENERATION)
    raw = tokenizer_files.read_json(config_path)
    config = huggingface_config.parse(raw, generation, f"`{config_path}`")
    tensors, files = tensors_of(path)
    stored = Stored(
        tensors,
        exact_scales(files),
        latent=any(file.metadata.get(LATENT_KEY) == "true" for file in files),
    )
    detail = {"files": sorted({file.path.name for file in files} | small_files(folder))}
    metadata = check_metadata(raw.get(CONFIG_KEY), f"`{config_path}`")
    return checkpoint_of_stored(path, folder, config, stored, "huggingface", detail, metadata)


def checkpoint_of_stored(
    path: Path,
    folder: Path,
    config: Config,
    stored: Stored,
    format: str,
    detail: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> Checkpoint:
    """The checkpoint of tensors that stand under their `transformers` names, whatever holds them.

    Args:
      folder: where the tokenizer's files are.
      format: what `Source.format` says, with `detail`.

    Raises:
      BadData: the tensors are not those that the config asks for.
    """
    warnings = list(config.warnings)
    wanted = expected(config.spec)
    ones = _absent_norms(path, wanted, stored, config, warnings)
    there = {name: item for name, item in wanted.items() if name not in ones}
    _check_names(path, there, stored, config, warnings)
    encoding = _encoding(there, stored, config)
    entries = {
        name: ones.get(name) or _entry(item, stored, config, encoding, f"`{path}`")
        for name, item in wanted.items()
    }
    tokenizer = tokenizer_files.from_files(
        lambda name: tokenizer_files.read_small(folder / name), f"`{folder}`"
    )
    if tokenizer is None:
        warnings.append(f"`{folder}` has no tokenizer.json: token ids only")
    detail = {
        **detail,
        "linear_class": config.quantization.linear_class if config.quantization.present else None,
        "quantization_mode": config.quantization.mode if config.quantization.present else None,
    }
    source = Source(path, format, encoding, detail)
    return Checkpoint(config.spec, entries, tokenizer, source, tuple(warnings), metadata)


def small_files(folder: Path) -> set[str]:
    """Names of the files beside the weights that are read, those that are there."""
    return {name for name in (CONFIG, INDEX, *tokenizer_files.NAMES) if (folder / name).is_file()}


# ------------------------------------------------------------------- names and shapes


def _absent_norms(
    path: Path,
    wanted: Mapping[str, Expected],
    stored: Stored,
    config: Config,
    warnings: list[str],
) -> dict[str, TensorEntry]:
    """Norms inside linears that the file has not: the reference starts them at 1, and says so."""
    norms = [item for item in wanted.values() if item.name.endswith(".rms_norm")]
    kept = [i for i in wanted.values() if i.ternary and config.quantization.excludes(_module(i))]
    if norms and kept:
        raise BadData(
            "config.unsupported",
            f"`{path}`: use_rms_norm, and `{_module(kept[0])}` is not to be converted: that linear "
            "alone would have no norm",
            "all linears of the layers must be quantized, or none have a norm",
        )
    absent = [item for item in norms if item.huggingface not in stored.tensors]
    if absent:
        warnings.append(
            f"`{path}` lacks {len(absent)} of {len(norms)} norms inside its linears: "
            f"{few([item.huggingface for item in absent])}; they are 1, as in transformers"
        )

    def one(item: Expected) -> TensorEntry:
        return TensorEntry(
            item.name, item.shape, "float32", False, lambda: np.ones(item.shape, np.float32)
        )

    return {item.name: one(item) for item in absent}


def _check_names(
    path: Path,
    wanted: Mapping[str, Expected],
    stored: Stored,
    config: Config,
    warnings: list[str],
) -> None:
    """The tensors must be those the spec asks for, no more and no less."""
    theirs = {item.huggingface: item for item in wanted.values()}
    scales = {name + SCALE_SUFFIX for name, item in theirs.items() if item.ternary}
    tied = tied_away(config.spec)
    extra = []
    for name in stored.tensors:
        if name in theirs or name in scales or IGNORED.fullmatch(name):
            continue
        if name in tied:
            warnings.append(f"`{path}`: {name} is there though it is tied; ignored")
            continue
        extra.append(name)
    missing = [name for name in theirs if name not in stored.tensors]
    if missing:
        first = missing[0]
        close = nearest(first, extra)
        norm = "sub_norm" in theirs[first].name
        raise TensorError(
            "model.missing_sub_norm" if norm else "model.missing_tensor",
            f"`{path}` lacks {len(missing)} of the {len(theirs)} tensors that its config asks "
            f"for: {few(missing)}" + (f"; found instead: {few(close)}" if close else ""),
            _missing_hint(theirs[first], config),
            tensor=theirs[first].name,
        )
    if extra:
        close = nearest(extra[0], theirs)
        raise TensorError(
            "model.unknown_tensor",
            f"`{path}` holds {len(extra)} tensors that its config does not ask for: {few(extra)}",
            f"the nearest known: {few(close)}" if close else "is this the right config?",
            tensor=extra[0],
        )
    for name, item in theirs.items():
        _check_shape(path, item, stored.info(name))
        if name + SCALE_SUFFIX in stored.tensors and item.ternary:
            continue
        if stored.info(name).dtype == "U8":
            raise TensorError(
                "model.missing_scale",
                f"`{path}` holds packed `{name}` without `{name}{SCALE_SUFFIX}`",
                "the scale was lost: convert again from the original",
                tensor=item.name,
            )


def _missing_hint(item: Expected, config: Config) -> str:
    if item.name == "lm_head" and not config.spec.tie_embeddings:
        return (
            "if the head is tied to the embedding, config.json must say tie_word_embeddings: true"
        )
    if "sub_norm" in item.name:
        return (
            "some converters drop the sub-norms; without them the model is another one: get the "
            "original checkpoint"
        )
    return "is this the right config for these weights, and is the download complete?"


def _check_shape(path: Path, item: Expected, info: TensorInfo) -> None:
    name = item.huggingface
    packed = item.ternary and info.dtype == "U8"
    shape = item.file_shape
    if packed:
        shape = (packed_rows(shape[0]), *shape[1:])
    if info.shape != shape:
        hint = "is this the right config for these weights?"
        if item.name in ("embed_tokens", "lm_head") and info.shape[1:] == shape[1:]:
            hint = f"vocab_size in config.json is {shape[0]}, the weights have {info.shape[0]} rows"
        raise TensorError(
            "model.tensor_shape",
            f"`{path}`: tensor `{name}` is {info.dtype} {list(info.shape)}; the config asks for "
            f"{list(shape)}",
            hint,
            tensor=item.name,
        )
    if not packed and info.dtype not in FLOATS:
        raise TensorError(
            "model.tensor_dtype",
            f"`{path}`: tensor `{name}` is {info.dtype}; a float was expected",
            f"known: {', '.join(FLOATS)}",
            tensor=item.name,
        )


# ------------------------------------------------------------------------------ forms


def _encoding(wanted: Mapping[str, Expected], stored: Stored, config: Config) -> str:
    """How the ternary matrices are stored: ``packed``, ``master``, ``dequantized`` or ``float``."""
    matrices = [
        item
        for item in wanted.values()
        if item.ternary and not config.quantization.excludes(_module(item))
    ]
    if any(stored.info(item.huggingface).dtype == "U8" for item in matrices):
        return "packed"
    if config.quantization.mode == "online":
        return "master"
    if config.quantization.present or look_ternary(matrices, stored):
        return "dequantized"
    return "float"


def _module(item: Expected) -> str:
    return item.huggingface.removesuffix(".weight")


def _is_scaled(item: Expected, stored: Stored, quantization: Quantization) -> bool:
    """True for the bias of a packed `autobitlinear`: it adds it first, and then multiplies."""
    multiplies = quantization.linear_class == "autobitlinear" and quantization.mode == "offline"
    if not multiplies or not item.huggingface.endswith(BIAS_SUFFIX):
        return False
    return scale_of_bias(item) in stored.tensors


def _entry(
    item: Expected, stored: Stored, config: Config, encoding: str, where: str
) -> TensorEntry:
    info = stored.info(item.huggingface)
    held = stored.held(item)
    quantization = config.quantization
    is_float = not item.ternary or encoding == "float" or quantization.excludes(_module(item))

    if _is_scaled(item, stored, quantization):
        return TensorEntry(
            item.name, item.shape, "float32", False, lambda: read_scaled(item, stored, where),
            **held,
        )  # fmt: skip
    if is_float and info.dtype != "U8":
        whole = not (item.transposed or item.rows)
        return TensorEntry(
            item.name, item.shape, float_names(info.dtype), False, lambda: read_float(item, stored),
            parts=(lambda rows: stored.parts(item.huggingface, rows)) if whole else None, **held,
        )  # fmt: skip
    divides = quantization.linear_class == "bitlinear"
    exact: ExactScale | None = stored.exact.get(item.name)
    if info.dtype == "U8":
        dtype = config.dtype if exact is None else exact.dtype
        return TensorEntry(
            item.name, item.shape, dtype, True,
            lambda: read_packed(item, stored, divides, exact, dtype, where), **held,
        )  # fmt: skip
    read = read_master if quantization.mode == "online" else read_dequantized
    return TensorEntry(
        item.name, item.shape, float_names(info.dtype), True,
        lambda: read(item, stored, divides, exact, where),
        latent=(lambda: read_latent(item, stored, where))
        if quantization.mode == "online"
        else None,
        **held,
    )  # fmt: skip
