"""Several parameters in one tensor of a GGUF file, their rows one after the other.

Rows are whole blocks, so that a part is a range of bytes: a reader sees each part as a tensor of
its own (`split`), a writer plans the whole and gives one part after another (`groups`). Knows no
key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.gguf import GgufFile, TensorInfo
from bitnet_jax.models.names import Expected


def groups(names: Mapping[str, str], order: Iterable[str]) -> dict[str, list[str]]:
    """Tensor -> the parameters in it, in the order of their rows.

    Args:
      names: canonical name -> tensor, the parts of one in the order of their rows.
      order: of canonical names; a tensor stands where the first of its parts does.
    """
    parts: dict[str, list[str]] = {}
    for name, tensor in names.items():
        parts.setdefault(tensor, []).append(name)
    return {tensor: parts[tensor] for tensor in dict.fromkeys(names[name] for name in order)}


def places(names: Mapping[str, str]) -> dict[str, str]:
    """What `split` calls each parameter's tensor: its name, or that of the whole and the part."""
    shared = {tensor: parts for tensor, parts in groups(names, names).items() if len(parts) > 1}
    return {
        name: f"{tensor}[{name.rpartition('.')[2]}]" if tensor in shared else tensor
        for name, tensor in names.items()
    }


def split(file: GgufFile, names: Mapping[str, str], wanted: Mapping[str, Expected]) -> GgufFile:
    """`file` with each part of a tensor as a tensor of its own, called as `places` says.

    Raises:
      BadData: a tensor has not the rows of its parts (``model.tensor_shape``), or is of a type
        whose rows cannot be taken apart (``model.tensor_dtype``).
    """
    called = places(names)
    tensors: dict[str, TensorInfo] = {}
    whole = {tensor: parts for tensor, parts in groups(names, names).items() if len(parts) > 1}
    for info in file.tensors.values():
        if info.name not in whole:
            tensors[info.name] = info
            continue
        parts = whole[info.name]
        shapes = [wanted[name].shape for name in parts]
        asked = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        if info.shape != asked:
            raise TensorError(
                "model.tensor_shape",
                f"`{file.path}`: tensor `{info.name}` is {list(info.shape)}; its keys ask for "
                f"{list(asked)}: the rows of {', '.join(parts)}",
                "are keys and weights of one model?",
                tensor=parts[0],
            )
        if info.nbytes != asked[0] * info.type.size(asked[1:]):
            raise TensorError(
                "model.tensor_dtype",
                f"`{file.path}`: tensor `{info.name}` is {info.type.name}, which has one scale for "
                f"all of {', '.join(parts)}",
                "convert again from the original as tq2_0 or f32",
                tensor=parts[0],
            )
        begin = info.begin
        for name, shape in zip(parts, shapes, strict=True):
            end = begin + info.type.size(shape)
            tensors[called[name]] = replace(
                info, name=called[name], shape=shape, begin=begin, end=end
            )
            begin = end
    return file.viewed(tensors)
