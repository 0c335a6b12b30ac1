"""The containers that hostile input reaches, a row each: seeds, damage, and what is right.

`read` gives everything that a model is, as plain values that can be compared. What must hold
for any damage: a typed error, or a reading that `judge` finds right. A new container is a row.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from bitnet_jax.containers.native import header_checksum
from bitnet_jax.containers.safetensors import open_safetensors
from bitnet_jax.formats.create_tokenizer import make_tokenizer
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.models.names import expected
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.runtime.tokenizer import Tokenizer
from tests.formats import checkpoints
from tests.hostile import gguf, mutate, onnx_samples
from tests.hostile.mutate import Choices, Mutation, Sample, inside
from tests.hostile.packed import trits_of
from tests.tiny import tiny_spec

# As small as a whole model can be, tokenizer included: some 20 KB.
MICRO = tiny_spec(
    vocab_size=272, hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2,
    num_kv_heads=1, head_dim=8, bos_token_id=256, eos_token_ids=(257,),
)  # fmt: skip

Reading = Mapping[str, Any]
UNREADABLE: Reading = {"unreadable": True}


@dataclass(frozen=True)
class Container:
    """One row.

    Attributes:
      seeds: name -> a good sample.
      entry: the file of a sample that is passed; "" is its folder.
      read: all of it, through our readers; raises `BitnetError` for what is not good.
      mutations: name -> what is done to a sample.
      judge: what is wrong with a reading, in words: given it, the damaged sample, and the
        reading of the good one.
      free: mutations after which any model may be read, so long as nothing else is raised:
        what a hostile writer seals again with checksums of his own.
    """

    seeds: Callable[[], Mapping[str, Sample]]
    entry: str
    read: Callable[[Path], Reading]
    mutations: Mapping[str, Mutation]
    judge: Callable[[Reading, Sample, Reading], str | None]
    free: frozenset[str] = frozenset()


def files_in(folder: Path) -> Sample:
    """The sample that a folder holds."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def put(sample: Sample, folder: Path) -> None:
    """Writes a sample into an empty folder."""
    for name, data in sample.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


# ------------------------------------------------------------------------ safetensors


@cache
def _safetensors_seeds() -> Mapping[str, Sample]:
    rng = np.random.default_rng(0)
    plain = {
        "a": rng.standard_normal((2, 3)).astype("<f4"),
        "b.c": rng.integers(0, 255, (4, 2)).astype("u1"),
        "empty": np.zeros((0, 3), "<f4"),
        "half": rng.standard_normal(5).astype("<f2"),
        "scalar": np.array(7, "<i8"),
    }
    none: dict[str, np.ndarray] = {}
    return {
        "plain": {"m": safetensors.numpy.save(plain, {"format": "pt"})},
        "none": {"m": safetensors.numpy.save(none)},
        "one": {"m": safetensors.numpy.save({"x": plain["a"]})},
    }


def _read_safetensors(path: Path) -> Reading:
    file = open_safetensors(path)
    return {
        name: (info.dtype, info.shape, file.read_bytes(name).tobytes())
        for name, info in file.tensors.items()
    }


def library_tensors(data: bytes) -> Reading:
    """A safetensors file as the library of that name reads it."""
    try:
        rows = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return UNREADABLE
    return {name: (row["dtype"], tuple(row["shape"]), bytes(row["data"])) for name, row in rows}


def header(changes: Callable[[Choices, Any], Any], seal: bool = False) -> mutate.Change:
    """A change of a safetensors header, its length put right, as `seal` says its checksum too."""

    def change(choose: Choices, data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        if length > len(data):
            return mutate.flip_bits(choose, data)
        try:
            value = changes(choose, mutate.loads(data[8 : 8 + length]))
        except (ValueError, RecursionError):
            return mutate.flip_bits(choose, data)
        raw = mutate.dumps(value).encode("utf-8", "surrogatepass")
        raw = raw.ljust(choose.one_of((length, len(raw), -(-len(raw) // 64) * 64 + 56)))
        if seal:
            raw = _sealed(raw)
        return len(raw).to_bytes(8, "little") + raw + data[8 + length :]

    return change


def _sealed(raw: bytes) -> bytes:
    key = b'"header_checksum":"'
    at = raw.find(key)
    if at < 0:
        return raw
    begin, end = at + len(key), at + len(key) + 16
    stated = raw[begin:end].decode("latin-1")
    return raw[:begin] + header_checksum(raw, stated).encode() + raw[end:]


def _offsets(choose: Choices, value: Any) -> Any:
    """Tensors that overlap, leave a hole, share their data or change places."""
    if not isinstance(value, mutate.Pairs):
        return mutate.change_json(choose, value)
    rows = [row for row in value if row[0] != "__metadata__" and isinstance(row[1], mutate.Pairs)]
    spans = [pair for _, row in rows for pair in _of(row, "data_offsets")]
    if not spans:
        return mutate.change_json(choose, value)
    one, other = choose.one_of(spans), choose.one_of(spans)
    move = choose.one_of(("same", "swap", "shift", "double"))
    if move == "same":
        one[:] = other
    elif move == "swap":
        one[:], other[:] = list(other), list(one)
    elif move == "shift":
        step = choose.one_of((-8, -1, 1, 8, 1 << 62))
        one[:] = [item + step for item in one]
    else:
        name, row = choose.one_of(rows)
        value.append((name + choose.one_of(("", "x")), row))
    return value


def _of(row: Any, key: str) -> list[list[int]]:
    return [
        item for name, item in row
        if name == key and type(item) is list and all(isinstance(i, int) for i in item)
    ]  # fmt: skip


def _metadata(choose: Choices, value: Any) -> Any:
    """A change inside one of the JSON texts of `__metadata__`."""
    rows = dict(value).get("__metadata__") if isinstance(value, mutate.Pairs) else None
    if not isinstance(rows, mutate.Pairs) or not rows:
        return mutate.change_json(choose, value)
    index = choose.whole(0, len(rows) - 1)
    name, text = rows[index]
    if isinstance(text, str):
        changed = mutate.json_text(choose, text.encode("utf-8", "surrogatepass"))
        rows[index] = (name, changed.decode("utf-8", "replace"))
    return value


def _any(name: str) -> bool:
    return True


def _weights(name: str) -> bool:
    return name.endswith(".safetensors")


_RAW: Mapping[str, Mutation] = {"bytes": inside(_any, mutate.BYTES)}
_HEADERS: Mapping[str, Mutation] = {
    "header": inside(_any, (header(mutate.change_json),)),
    "offsets": inside(_any, (header(_offsets),)),
}


# ----------------------------------------------------------------------------- models


def _plain(value: Any) -> Any:
    if isinstance(value, QuantTensor):
        codes, scale = np.asarray(value.codes), np.asarray(value.scale, np.float32)
        return "ternary", value.shape, codes.tobytes(), scale.tobytes(), value.layout
    array = np.asarray(value)
    return str(array.dtype), array.shape, array.tobytes()


def _read_model(path: Path) -> Reading:
    checkpoint = open_checkpoint(path)
    tokenizer = checkpoint.tokenizer
    found: dict[str, Any] = {name: _plain(value) for name, value in checkpoint.tensors()}
    return found | {"__spec__": checkpoint.spec, "__tokenizer__": tokenizer}


@cache
def _made(form: str, quantization: str | None, shards: int = 1, head: bool = False) -> Sample:
    rows = {"auto": checkpoints.AUTO, "bit": checkpoints.BIT, "online": checkpoints.ONLINE}
    data, _, _ = checkpoints.tensors(MICRO, form)
    config = checkpoints.config(MICRO, rows[quantization] if quantization else None)
    tokenizer = make_tokenizer(MICRO)
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoints.write(Path(folder) / "m", data, config, shards)
        sample = files_in(path)
    return sample | {
        "tokenizer.json": tokenizer.tokenizer_json,
        "tokenizer_config.json": json.dumps(dict(tokenizer.config)).encode(),
        "generation_config.json": json.dumps(dict(tokenizer.generation)).encode(),
    }


def _folders() -> Mapping[str, Sample]:
    return {
        "packed, multiplied": _made("auto", "auto"),
        "packed, divided": _made("bit", "bit"),
        "master": _made("master", "online"),
        "dequantized": _made("dequantized", "auto"),
        "floats": _made("master", None),
        "shards": _made("auto", "auto", shards=3),
    }


def _library_model(sample: Sample) -> Reading:
    """What the weight files hold as the safetensors library reads them, by our names.

    No more than which bytes stand under which name: floats as they are, packed trits by the
    formula of the format. Which files count is decided as `transformers` does.
    """
    files: dict[str, bytes] = {}
    if "model.safetensors" in sample:
        files = {"": sample["model.safetensors"]}
    else:
        files = {name: data for name, data in sample.items() if _weights(name)}
    found: dict[str, Any] = {}
    for data in files.values():
        rows = library_tensors(data)
        if rows is UNREADABLE:
            return UNREADABLE
        found |= rows
    return found


def _as_the_library(ours: Reading, sample: Sample, good: Reading) -> str | None:
    """Where there are no checksums: another reader of the same bytes must find the same."""
    if ours != library_tensors(sample["m"]):
        return "the safetensors library reads something else"
    return None


def _unchanged(ours: Reading, sample: Sample, good: Reading) -> str | None:
    """Where everything has a checksum: damage is found, or changed nothing."""
    changed = [name for name in {**ours, **good} if ours.get(name) != good.get(name)]
    return f"other than the good file's: {changed}" if changed else None


def _as_the_bytes(ours: Reading, sample: Sample, good: Reading) -> str | None:
    """What our reading of a folder has that its bytes have not, in words; None if nothing."""
    theirs = _library_model(sample)
    if theirs is UNREADABLE:
        return "the safetensors library refuses the weights"
    for name, item in expected(ours["__spec__"]).items():
        kind, *rest = ours[name]
        dtype, shape, data = theirs[item.huggingface]
        if kind != "ternary":
            if (tuple(shape), data) != (tuple(rest[0]), rest[1]):
                return f"{name} is not what stands in the file"
        elif dtype == "U8" and trits_of(rest[1], item.file_shape) != _packed(data, shape, item):
            return f"the trits of {name} are not those in the file"
    return None


def _packed(data: bytes, shape: tuple[int, ...], item: Any) -> list[list[int]]:
    """Trits by the published formula: row r of plane i is row i*R + r."""
    rows = np.frombuffer(data, np.uint8).reshape(shape).astype(int)
    planes = [(rows >> 2 * plane & 3) - 1 for plane in range(4)]
    return np.concatenate(planes)[: item.file_shape[0]].tolist()


@cache
def _orbax() -> Mapping[str, Sample]:
    from tests.formats import orbax_files

    found = {}
    for layout in orbax_files.LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            orbax_files.write(Path(folder), layout, spec=MICRO)
            found[layout] = files_in(Path(folder))
    return found


def _of_orbax(name: str) -> bool:
    return name.rpartition("/")[2] in ("_METADATA", ".zarray", "zarr.json", "config.json")


def _same_shapes(ours: Reading, sample: Sample, good: Reading) -> str | None:
    """Orbax keeps no checksums: other numbers may stand there, but of the same model."""
    odd = [name for name, item in expected(ours["__spec__"]).items() if name not in ours]
    return f"without {odd}" if odd else None


def _graph(name: str) -> bool:
    return name.endswith(".onnx")


def _same_trits(ours: Reading, good: Reading) -> bool:
    """What has checksums; the spec and the graph have none."""
    both = [name for name in good if not name.startswith("__") and name in ours]
    return all(ours[name] == good[name] for name in both)


def _json_file(name: str) -> bool:
    return name.endswith(".json")


@cache
def _native_seeds() -> Mapping[str, Sample]:
    seeds = {}
    for name, sample in (("packed", _made("auto", "auto")), ("floats", _made("master", None))):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "m").mkdir()
            put(sample, Path(folder) / "m")
            save_checkpoint(open_checkpoint(Path(folder) / "m"), Path(folder) / "m.bitnet")
            seeds[name] = {"m.bitnet": (Path(folder) / "m.bitnet").read_bytes()}
    return seeds


# -------------------------------------------------------------------------- tokenizers


def _read_tokenizer(path: Path) -> Reading:
    from bitnet_jax.formats.tokenizer_files import from_files, read_small

    files = from_files(lambda name: read_small(path / name), f"`{path}`")
    if files is None:
        return {}
    tokenizer = Tokenizer.from_files(files)
    ids = tokenizer.encode("def f(x): é<|eot_id|>")
    stream = tokenizer.stream()
    pieces = [stream.push(id_) for id_ in ids] + [stream.finish()]
    tokenizer.check_fits(1 << 40)
    return {"text": tokenizer.decode(ids), "pieces": pieces}


def _tokenizers() -> Mapping[str, Sample]:
    from tests.runtime import vocabularies

    config = b'{"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|end_of_text|>"}}'
    kinds = {
        "byte level": (vocabularies.byte_level_json(), config),
        "byte fallback": (vocabularies.byte_fallback_json(), b'{"bos_token": "<s>"}'),
    }
    return {
        name: {"tokenizer.json": source.encode(), "tokenizer_config.json": config}
        for name, (source, config) in kinds.items()
    }


CONTAINERS: Mapping[str, Container] = {
    "safetensors": Container(
        _safetensors_seeds, "m", _read_safetensors, {**_RAW, **_HEADERS},
        _as_the_library,
    ),
    "bitnet": Container(
        _native_seeds, "m.bitnet", _read_model,
        {
            **_RAW, **_HEADERS,
            "metadata": inside(_any, (header(_metadata),)),
            "sealed metadata": inside(_any, (header(_metadata, seal=True),)),
            "sealed header": inside(_any, (header(mutate.change_json, seal=True),)),
            "sealed offsets": inside(_any, (header(_offsets, seal=True),)),
        },
        _unchanged,
        free=frozenset({"sealed metadata", "sealed header", "sealed offsets"}),
    ),
    "huggingface": Container(
        _folders, "", _read_model,
        {
            "weights, bytes": inside(_weights, mutate.BYTES),
            "weights, header": inside(_weights, (header(mutate.change_json),)),
            "weights, offsets": inside(_weights, (header(_offsets),)),
            "JSON": inside(_json_file, (mutate.json_text,)),
            "JSON, bytes": inside(_json_file, mutate.BYTES),
            "file replaced": mutate.replace_file,
            "file dropped": mutate.drop_file,
            "file renamed": mutate.rename_file,
        },
        _as_the_bytes,
    ),
    "onnx": Container(
        onnx_samples.foreign, "m.onnx", onnx_samples.read_foreign,
        {**_RAW, "fields": inside(_graph, (onnx_samples.fields,)),
         "file dropped": mutate.drop_file},
        onnx_samples.as_the_library,
    ),
    "onnx, ours": Container(
        onnx_samples.ours, "m.onnx", _read_model,
        {**_RAW, "fields": inside(_graph, (onnx_samples.fields,))},
        lambda ours, sample, good: None if _same_trits(ours, good) else "other trits",
        free=frozenset({"fields"}),  # a hostile writer's own checksums, spec and rows
    ),
    "gguf": Container(
        gguf.seeds, gguf.NAME, _read_model,
        {
            **_RAW,
            "numbers": inside(_any, (gguf.numbers,)),
            "texts": inside(_any, (gguf.texts,)),
        },
        gguf.as_the_bytes,
    ),
    "orbax": Container(
        _orbax, "ck", _read_model,
        {
            **_RAW,
            "JSON": inside(_of_orbax, (mutate.json_text,)),
            "JSON, bytes": inside(_of_orbax, mutate.BYTES),
            "file replaced": mutate.replace_file,
            "file dropped": mutate.drop_file,
            "file renamed": mutate.rename_file,
        },
        _same_shapes,
    ),
    "tokenizer": Container(
        _tokenizers, "", _read_tokenizer,
        {
            "JSON": inside(_json_file, (mutate.json_text,)),
            "JSON, bytes": inside(_json_file, mutate.BYTES),
        },
        lambda ours, sample, good: None,  # other words, another tokenizer
    ),
}  # fmt: skip
