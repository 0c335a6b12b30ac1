"""Models with one fault each, as a person may come to hold one: data for `test_bad_input`.

A case makes its model in an empty folder and returns the path to pass. The files by name
come from `tests/hostile`; what only a path or a whole folder can have wrong is made here.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import xxhash

from bitnet_jax.formats.create import create
from bitnet_jax.formats.save import save_checkpoint
from tests.formats.checkpoints import AUTO, ONLINE, config, tensors, write
from tests.hostile.files import AS_MODELS, FILES, PICKLE, safetensors_bytes
from tests.hostile.test_bitnet import SPECS, sealed
from tests.hostile.test_huggingface import FAULTS

CODES = "layers.0.mlp.up_proj"


@dataclass(frozen=True)
class Case:
    """`make(folder)` gives the path; every command refuses it with `code` and `rc`.

    `words` stand in the message or hint. `told`: `validate` has it as a finding (exit 1).
    """

    make: Callable[[Path], Path]
    code: str
    rc: int = 65
    words: str = ""
    told: bool = True


@cache
def bitnet_bytes() -> bytes:
    """A good `.bitnet` file of one layer."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.bitnet"
        save_checkpoint(create("tiny", layers=1), path)
        return path.read_bytes()


def good_folder(folder: Path, shards: int = 1, **changes: object) -> Path:
    """A good packed `transformers` folder of one layer."""
    return write(folder / "m", tensors()[0], config(quantization=AUTO, **changes), shards)


def _file(content: bytes, name: str = "m.bitnet") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _weights(content: bytes) -> Callable[[Path], Path]:
    """A folder whose config is good and whose weights are `content`."""

    def make(folder: Path) -> Path:
        path = good_folder(folder)
        (path / "model.safetensors").write_bytes(content)
        return path

    return make


def _changed(change: Callable[[dict, dict], object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        data, settings = tensors()[0], config(quantization=AUTO)
        change(data, settings)
        return write(folder / "m", data, settings)

    return make


def _folder(change: Callable[[Path], object], **options: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = good_folder(folder, **options)
        change(path)
        return path

    return make


def _instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], Path]:
    """The folder with another thing in the place of one of its files."""

    def change(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        make(path / name)

    return _folder(change)


def resealed(tensor: str, change: Callable[[np.ndarray], np.ndarray | None]) -> bytes:
    """A `.bitnet` file with a tensor's bytes changed, and every checksum right again."""
    raw = bytearray(bitnet_bytes())
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    begin, end = (8 + length + offset for offset in header[tensor]["data_offsets"])
    values = np.frombuffer(raw, np.uint8, end - begin, begin).copy()
    change(values)
    raw[begin:end] = values.tobytes()

    def seal(metadata: dict) -> None:
        sums = json.loads(metadata["checksums"])
        sums[tensor] = xxhash.xxh3_64_hexdigest(values.tobytes())
        metadata["checksums"] = json.dumps(sums)

    return sealed(bytes(raw), seal)


def _scale(value: float) -> Callable[[np.ndarray], None]:
    def change(data: np.ndarray) -> None:
        data.view("<f4")[1] = value

    return change


def _code_three(codes: np.ndarray) -> None:
    codes[0] |= 3


def flipped(tensor: str = CODES) -> bytes:
    """A `.bitnet` file with the lowest bit of a tensor's eighth byte turned over."""
    raw = bytearray(bitnet_bytes())
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    raw[8 + length + header[tensor]["data_offsets"][0] + 7] ^= 1
    return bytes(raw)


def plant_nan(path: Path, tensor: str) -> None:
    """Makes the first value of a bfloat16 tensor of a safetensors file a NaN."""
    raw = bytearray(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    begin = 8 + length + json.loads(raw[8 : 8 + length])[tensor]["data_offsets"][0]
    raw[begin : begin + 2] = b"\xc0\x7f"
    path.write_bytes(raw)


def _master_with(value: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        data = tensors(form="master")[0]
        data["model.layers.0.self_attn.q_proj.weight"][3, 5] = value
        return write(folder / "m", data, config(quantization=ONLINE))

    return make


def _pickles(folder: Path) -> Path:
    path = folder / "m"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config(quantization=AUTO)))
    (path / "pytorch_model.bin").write_bytes(PICKLE)
    return path


def _link(target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "link").symlink_to(target)
        return folder / "link"

    return make


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


def _two_models(folder: Path) -> Path:
    for name in ("a.bitnet", "b.bitnet"):
        (folder / name).write_bytes(bitnet_bytes())
    return folder


def _empty(folder: Path) -> Path:
    (folder / "m").mkdir()
    return folder / "m"


def _drop(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def _cut(path: Path) -> None:
    weights = path / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def _mix(path: Path) -> None:
    shutil.copy(
        path / "model-00001-of-00003.safetensors", path / "model-00004-of-00004.safetensors"
    )


SHARD = "model-00002-of-00003.safetensors"
_SPAN = {"x": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}

OWN: dict[str, Case] = {
    "missing": Case(lambda f: f / "none.bitnet", "model.not_found", 66, "does not exist", False),
    "missing, a letter off": Case(
        lambda f: _file(bitnet_bytes(), "mine.bitnet")(f).with_name("mien.bitnet"),
        "model.not_found", 66, "did you mean", False),
    "missing folder too": Case(
        lambda f: f / "no" / "m.bitnet", "model.not_found", 66, "either", False),
    "a file where a folder should be": Case(
        lambda f: _file(b"x", "f")(f) / "m.bitnet", "model.not_found", 66, "", False),
    "dangling link": Case(_link("none"), "io.not_found", 66, "", False),
    "loop of links": Case(_link("link"), "io.failed", 74, "symbolic links", False),
    "name of 5000 letters": Case(
        lambda f: f / ("a" * 5000), "model.not_found", 66, "does not exist", False),
    "FIFO": Case(_fifo, "file.not_regular", words="not a regular file"),
    "empty folder": Case(_empty, "huggingface.no_config", words="config.json"),
    "two models in a folder": Case(_two_models, "file.which_model", words="`a.bitnet`, `b.bitnet`"),
    "folder of pickles": Case(_pickles, "huggingface.pickle", words="never unpickled"),
    "bitnet cut in half": Case(
        lambda f: _file(bitnet_bytes()[:40_000])(f), "safetensors.truncated", words="cut short"),
    "bitnet cut in the header": Case(
        lambda f: _file(bitnet_bytes()[:400])(f), "safetensors.header_length"),
    "bitnet with more behind": Case(
        lambda f: _file(bitnet_bytes() + b"more")(f), "safetensors.trailing"),
    "bitnet, one bit of a weight": Case(
        lambda f: _file(flipped())(f), "bitnet.checksum", words=CODES),
    "bitnet, one bit of a norm": Case(
        lambda f: _file(flipped("norm"))(f), "bitnet.checksum", words="norm"),
    "bitnet, one bit of the scales": Case(
        lambda f: _file(flipped("__scales__"))(f), "bitnet.checksum", words="__scales__"),
    "bitnet, one bit of the tokenizer": Case(
        lambda f: _file(flipped("__file__.tokenizer.json"))(f), "bitnet.checksum",
        words="tokenizer.json"),
    "bitnet, code 3": Case(
        lambda f: _file(resealed(CODES, _code_three))(f), "bitnet.illegal_code", words=CODES),
    "bitnet, scale NaN": Case(
        lambda f: _file(resealed("__scales__", _scale(np.nan)))(f), "scale.invalid", words="nan"),
    "bitnet, scale infinite": Case(
        lambda f: _file(resealed("__scales__", _scale(np.inf)))(f), "scale.invalid", words="inf"),
    "bitnet, scale 0": Case(
        lambda f: _file(resealed("__scales__", _scale(0)))(f), "scale.invalid"),
    "bitnet, scale negative": Case(
        lambda f: _file(resealed("__scales__", _scale(-1.5)))(f), "scale.invalid", words="-1.5"),
    "folder cut in half": Case(_folder(_cut), "safetensors.truncated", words="cut short"),
    "folder without weights": Case(
        _folder(_drop("model.safetensors")), "huggingface.no_weights", 66, "complete"),
    "folder without a config": Case(
        _folder(_drop("config.json")), "huggingface.no_config", words="config.json"),
    "weights are a folder": Case(
        _instead("model.safetensors", Path.mkdir), "file.not_regular", words="directory"),
    "weights are a FIFO": Case(_instead("model.safetensors", os.mkfifo), "file.not_regular"),
    "weights are a dangling link": Case(
        _instead("model.safetensors", lambda p: p.symlink_to("../blobs/none")),
        "io.not_found", 66, "model.safetensors"),
    "config is a folder": Case(
        _instead("config.json", Path.mkdir), "file.not_regular", words="directory"),
    "config is a FIFO": Case(_instead("config.json", os.mkfifo), "file.not_regular"),
    "config of 300 MB": Case(
        _folder(lambda p: os.truncate(p / "config.json", 300 << 20)), "file.too_large"),
    "config is no JSON": Case(
        _folder(lambda p: (p / "config.json").write_text("<html>")), "config.json"),
    "tokenizer is a FIFO": Case(_instead("tokenizer.json", os.mkfifo), "file.not_regular"),
    "weights of nothing known": Case(
        _weights(safetensors_bytes(_SPAN, b"\0" * 4)), "model.missing_tensor", words="complete"),
    "missing shard": Case(
        _folder(_drop(SHARD), shards=3), "huggingface.missing_shard", 66, SHARD),
    "shard of another download": Case(
        _folder(_mix, shards=3), "huggingface.extra_shard", words="00004-of-00004"),
    "master with a NaN": Case(_master_with(np.nan), "tensor.not_finite", words="[3, 5]"),
    "master with an infinity": Case(_master_with(np.inf), "tensor.not_finite", words="q_proj"),
}  # fmt: skip


def _table() -> Iterator[tuple[str, Case]]:
    for name, case in OWN.items():
        yield name, case
    for name, (content, code, words) in FILES.items():
        of_model, its_words = AS_MODELS.get(name, (code, words))
        yield f"file, {name}", Case(_file(content), of_model, words=its_words)
        yield f"weights, {name}", Case(_weights(content), code, words=words)
    for name, (change, code, words) in FAULTS.items():
        yield f"folder, {name}", Case(_changed(change), code, words=words)
    for name, (alter, code) in SPECS.items():
        yield (
            f"bitnet spec, {name}",
            Case(lambda f, alter=alter: _file(sealed(bitnet_bytes(), alter))(f), code),
        )


CASES: dict[str, Case] = dict(_table())
