"""The files of a `transformers` checkpoint: one, or shards under an index.

Finds every tensor and the file it lies in, and checks that index and shards
agree. A file name from an index never leaves its folder. Which file of a folder it is,
`model_files` says. Knows no model.
"""

from __future__ import annotations

import re
from pathlib import Path

from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.safetensors import SafetensorsFile, TensorInfo, open_safetensors
from bitnet_jax.core.errors import BadData, NoInput, few, shown
from bitnet_jax.formats import tokenizer_files
from bitnet_jax.formats.model_files import INDEX, model_file

Tensors = tuple[dict[str, tuple[SafetensorsFile, TensorInfo]], list[SafetensorsFile]]
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
# Left over by old libraries, or our own padding: no parameter.
IGNORED = re.compile(r"__pad__\.\d+|(.*\.)?rotary_emb\.inv_freq")


def tensors_of(path: Path) -> Tensors:
    """Every tensor of the checkpoint with the file it lies in."""
    if path.is_file():
        index = path.parent / INDEX
        if index.exists() and path.name in set(weight_map(index).values()):
            return _sharded(index)
        return _of([open_safetensors(path)])
    name = model_file([item.name for item in path.iterdir()], path)
    return _sharded(path / name) if name == INDEX else _of([open_safetensors(path / name)])


def _of(files: list[SafetensorsFile]) -> Tensors:
    return {name: (file, info) for file in files for name, info in file.tensors.items()}, files


def weight_map(index: Path) -> dict[str, str]:
    """The index: tensor -> file name, each a plain name in the index's folder."""
    found = tokenizer_files.read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise BadData("huggingface.index", f"`{index}` has no `weight_map`")
    for name, file in found.items():
        plain = isinstance(file, str) and re.fullmatch(r"[\w.-]+", file) and ".." not in file
        if not plain or not file.endswith(".safetensors"):
            raise BadData(
                "huggingface.shard_path",
                f"`{index}`: tensor {shown(name)} is said to lie in {shown(file)}, which is "
                "no plain file name",
                "the index is damaged or hostile",
            )
    return found


def _sharded(index: Path) -> Tensors:
    named = weight_map(index)
    names = sorted(set(named.values()))
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise NoInput(
            "huggingface.missing_shard",
            f"`{index.parent}` lacks {len(missing)} of {len(names)} shards: {few(missing)}",
            "the download is not complete: download those files",
        )
    extra = [
        file.name
        for file in sorted(index.parent.glob("*.safetensors"))
        if _SHARD.fullmatch(file.name) and file.name not in names
    ]
    if extra:
        raise BadData(
            "huggingface.extra_shard",
            f"`{index.parent}` holds shards that its index does not name: {few(extra)}",
            "two downloads were mixed: remove the files of the other one",
        )
    files = {name: open_safetensors(index.parent / name) for name in names}
    for name, file in named.items():
        if name not in files[file].tensors:
            raise TensorError(
                "huggingface.index",
                f"`{index}` says that tensor {shown(name)} lies in {file}, which does not hold it",
                "index and shards are not of one checkpoint: download them again",
                tensor=name,
            )
    for shard, opened in files.items():
        for name in opened.tensors:
            if named.get(name, shard) != shard or (
                name not in named and not IGNORED.fullmatch(name)
            ):
                raise TensorError(
                    "huggingface.index",
                    f"`{index}` does not say that {shard} holds tensor {shown(name)}",
                    "index and shards are not of one checkpoint: download them again",
                    tensor=name,
                )
    return _of(list(files.values()))
