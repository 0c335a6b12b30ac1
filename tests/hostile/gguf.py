"""GGUF under damage: seeds, changes of its numbers and texts, and what is right of a reading.

There are no checksums in the format, so a reading is right when another parser finds the same
under the same names (`tests/formats/gguf_models.py`, twenty lines of numpy).
"""

from __future__ import annotations

import struct
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.containers.dtypes import numpy_dtype
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.models.names import expected, gguf_names
from tests.formats import gguf_edit as edit
from tests.formats import gguf_models as made
from tests.hostile import mutate
from tests.hostile.mutate import Choices, Sample
from tests.hostile.packed import trits_of
from tests.tiny import tiny_of, tiny_spec

NAME = "m.gguf"
_SMALL: dict[str, Any] = {
    "vocab_size": 272, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "bos_token_id": 256,
    "eos_token_ids": (257,),
}  # fmt: skip
_TINY = _SMALL | {"hidden_size": 16, "intermediate_size": 24, "head_dim": 8}
_BLOCKS = _SMALL | {"hidden_size": 128, "intermediate_size": 128, "head_dim": 64}


@cache
def seeds() -> Mapping[str, Sample]:
    """As small as each kind of file can be."""
    models = {
        "floats that are ternary": (tiny_spec(**_TINY), "f32", {}),
        "scales beside": (tiny_spec(**_TINY), "f16", {"awkward": True}),
        "scales in a table": (
            tiny_of("llama", **_TINY, extra={"mlp_bias": True} | made.LLAMA3), "f16",
            {"awkward": True}),
        "scales of rows": (tiny_of("llama", **_TINY), "f32", {"scale_kind": "row"}),
        "parts of one tensor": (tiny_of("phi3", **_TINY), "f16", {"awkward": True}),
        "norms that are sums": (
            tiny_of("gemma3", **_TINY | {"activation": "gelu_tanh"}, extra={
                "sliding_window": 4, "layer_types": "s", "query_pre_attn_scalar": _TINY["head_dim"],
            }), "f32", {}),
        "i2_s": (tiny_spec(**_BLOCKS), "i2_s+q8_0", {}),
    }  # fmt: skip
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (spec, encoding, how) in models.items():
            path = Path(folder) / NAME
            save_checkpoint(made.model(spec, **how), path, encoding=encoding, force=True)
            found[name] = {NAME: path.read_bytes()}
            if name in ("floats that are ternary", "i2_s"):
                edit.without_ours(path, path)
                found[f"{name}, of others"] = {NAME: path.read_bytes()}
    return found


# -------------------------------------------------------------------------------- damage
def _fields(data: bytes) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int]:
    """Numbers (place, width), texts (place of their length, length), and the header's end.

    Raises:
      Exception: of any kind, where the header is damaged already.
    """
    numbers, texts = [(4, 4), (8, 8), (16, 8)], []
    at = 24

    def number(width: int) -> int:
        nonlocal at
        if at + width > len(data):  # a damaged count would be believed for ever
            raise ValueError("beyond the end")
        numbers.append((at, width))
        at += width
        return int.from_bytes(data[at - width : at], "little")

    def text() -> None:
        nonlocal at
        begin = at
        length = number(8)
        texts.append((begin, length))
        at += length

    def value(kind: int) -> None:
        if kind == 8:
            text()
        elif kind == 9:
            inner, length = number(4), number(8)
            for _ in range(min(length, 400)):
                value(inner)
            if length > 400:
                raise ValueError("too long to be worth it")
        else:
            number(struct.calcsize(made._NUMBERS[kind]))

    count, keys = struct.unpack_from("<QQ", data, 8)
    for _ in range(keys):
        text()
        value(number(4))
    for _ in range(count):
        text()
        for _ in range(number(4)):
            number(8)
        number(4)
        number(8)
    return numbers, texts, at


def numbers(choose: Choices, data: bytes) -> bytes:
    """A count, length, size, type or offset of the header is another one."""
    try:
        found, _, _ = _fields(data)
    except (ValueError, KeyError, struct.error, MemoryError):  # damaged already
        return mutate.flip_early_bits(choose, data)
    for _ in range(choose.whole(1, 2)):
        # The vocabulary's numbers are most; the others are as interesting.
        place, width = choose.one_of(choose.one_of((found[:60], found[-60:], found)))
        old = int.from_bytes(data[place : place + width], "little")
        new = choose.one_of((choose.one_of(mutate.EDGES), old + 1, old - 1, old * 2, old ^ 32))
        new %= 1 << 8 * width
        data = data[:place] + new.to_bytes(width, "little") + data[place + width :]
    return data


def texts(choose: Choices, data: bytes) -> bytes:
    """A key, name or text is another one, and every length and offset right again."""
    try:
        _, found, end = _fields(data)
    except (ValueError, KeyError, struct.error, MemoryError):  # damaged already
        return mutate.flip_early_bits(choose, data)
    place, length = choose.one_of(choose.one_of((found[:60], found[-60:], found)))
    old = data[place + 8 : place + 8 + length]
    new = choose.one_of((mutate.json_text, mutate.splice, mutate.flip_bits))(choose, old)
    head = data[:place] + struct.pack("<Q", len(new)) + new + data[place + 8 + length : end]
    return head + bytes(-len(head) % 32) + data[end + -end % 32 :]


# ------------------------------------------------------------------------------- judging
def as_the_bytes(ours: Mapping[str, Any], sample: Sample, good: Mapping[str, Any]) -> str | None:
    """What our reading has that the file's bytes have not, in words; None if nothing."""
    _, tensors = made.raw_file(sample[NAME])
    spec = ours["__spec__"]
    names = gguf_names(spec)
    raised = spec.family.startswith("gemma")
    taken: Counter[str] = Counter()  # rows of a tensor of several parts, which come in their order
    for name, item in expected(spec).items():
        what, *rest = ours[name]
        kind, shape, data = tensors[names[name]]
        if spec.family == "phi3" and "_proj" in name and item.rows is not None:
            of_row, at = data.size // shape[0], taken[names[name]]
            taken[names[name]] += item.shape[0]
            shape = (item.shape[0], shape[1])
            data = data[at * of_row : taken[names[name]] * of_row]
        if tuple(shape) != item.shape:
            return f"{name} has another shape in the file"
        turned = name.rpartition(".")[2] in ("q_proj", "k_proj") and spec.family == "llama"
        if what != "ternary":
            if kind == 0 and rest[0] is not None and not turned:
                value = np.frombuffer(rest[1], numpy_dtype(what)).astype("<f4")
                value = value + np.float32(1) if raised and name.endswith("norm") else value
                if value.tobytes() != data.tobytes():
                    return f"{name} is not what stands in the file"
            continue
        trits, _ = made.raw_trits(kind, shape, data)
        if turned:
            heads = spec.num_heads if "q_proj" in name else spec.num_kv_heads
            trits = trits.reshape(heads, -1, 2, shape[1]).swapaxes(1, 2).reshape(shape)
        if trits_of(rest[1], shape) != trits.tolist():
            return f"the trits of {name} are not those in the file"
    return None
