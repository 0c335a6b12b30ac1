"""The hostile files of `fixtures/`, with what each must come to; `python -m` this writes them.

They are kept so that anybody can try them, on this program or on another. Made from the tables
of the tests, so that no case is kept twice; what is larger than 32 KB stays a row of a table.
Pieces of a model (a config, an index, a tokenizer, a template) are tried in a good one.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from tests.containers.test_gguf import REFUSED
from tests.formats.checkpoints import AUTO, config, tensors
from tests.hostile.containers import CONTAINERS
from tests.hostile.files import AS_MODELS, FILES
from tests.hostile.test_bitnet import SPECS, sealed
from tests.hostile.test_huggingface import CONFIG_FILES, FAULTS, SHARD_PATHS, Q
from tests.runtime import vocabularies
from tests.runtime.test_chat import HOSTILE as TEMPLATES

FOLDER = Path(__file__).parent / "fixtures"
LARGEST = 32 << 10


@dataclass(frozen=True)
class Fixture:
    """A file: where it lies, what it is, and the code of the error it must come to.

    `code` may be the end of a family (``tokenizer.``); ``""``: it is read, with a warning.
    """

    path: str
    data: bytes
    what: str
    code: str


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _files() -> Iterator[Fixture]:
    for name, (data, code, _) in FILES.items():
        if name == "gguf":  # is a model's file itself, below
            continue
        yield Fixture(f"file/{_slug(name)}", data, name, AS_MODELS.get(name, (code,))[0])


def _configs() -> Iterator[Fixture]:
    for name, (change, code, _) in FAULTS.items():
        data, settings = tensors()[0], config(quantization=AUTO)
        before = copy.deepcopy(settings)
        names = set(data)
        change(data, settings)
        if settings != before and set(data) == names:
            text = json.dumps(settings, indent=1).encode()
            yield Fixture(f"config/{_slug(name)}.json", text, name, code)
    for name, text in CONFIG_FILES.items():
        code = "config." if name != "list" else "config.json"
        yield Fixture(f"config/file-{_slug(name)}.json", text, f"the file: {name}", code)
    mapped = config(quantization=AUTO, auto_map={"AutoModel": "modeling_x.Model"})
    yield Fixture(
        "config/auto-map.json", json.dumps(mapped, indent=1).encode(),
        "names code, which is never imported", "",
    )  # fmt: skip


def _indexes() -> Iterator[Fixture]:
    for number, path in enumerate(SHARD_PATHS):
        text = json.dumps({"weight_map": {Q: path}}).encode()
        what = f"a tensor is said to lie in {path!r}"
        yield Fixture(f"index/path-{number}.json", text, what, "huggingface.shard_path")


def micro() -> bytes:
    """A good `.bitnet` file, as small as one can be."""
    return CONTAINERS["bitnet"].seeds()["packed"]["m.bitnet"]


def _resealed(tensor: str, change: Callable[[np.ndarray], object]) -> bytes:
    """`micro` with a tensor's bytes changed, and every checksum right again."""
    raw = bytearray(micro())
    start = 8 + int.from_bytes(raw[:8], "little")
    begin, end = json.loads(raw[8:start])[tensor]["data_offsets"]
    values = np.frombuffer(raw, np.uint8, end - begin, start + begin).copy()
    change(values)
    raw[start + begin : start + end] = values.tobytes()

    def seal(metadata: dict) -> None:
        sums = json.loads(metadata["checksums"])
        sums[tensor] = xxhash.xxh3_64_hexdigest(values.tobytes())
        metadata["checksums"] = json.dumps(sums)

    return sealed(bytes(raw), seal)


def _flipped() -> bytes:
    raw = bytearray(micro())
    raw[-100] ^= 1
    return bytes(raw)


def _scale(value: float) -> Callable[[np.ndarray], None]:
    return lambda data: data.view("<f4").__setitem__(0, value)


def _code_three(data: np.ndarray) -> None:
    data[0] |= 3


_SCALES = {"NaN": np.nan, "infinite": np.inf, "0": 0.0, "negative": -1.0, "denormal": 1e-40}


def _natives() -> Iterator[Fixture]:
    codes = "layers.0.mlp.up_proj"
    rows = {
        "one flipped bit": (_flipped(), "bitnet.checksum"),
        "cut in half": (micro()[: len(micro()) // 2], "safetensors.truncated"),
        "packed code 0b11, sealed": (_resealed(codes, _code_three), "bitnet.illegal_code"),
    }
    for name, value in _SCALES.items():
        rows[f"scale {name}, sealed"] = (_resealed("__scales__", _scale(value)), "scale.invalid")
    for name in ("hidden 0", "hidden absurd", "family a list", "layout a list"):
        change, code = SPECS[name]
        rows[f"spec, {name}, sealed"] = (sealed(micro(), change), code)
    for name, (data, code) in rows.items():
        yield Fixture(f"bitnet/{_slug(name)}.bitnet", data, name, code)


def _ggufs() -> Iterator[Fixture]:
    for name, (data, code, _) in REFUSED.items():
        yield Fixture(f"gguf/{_slug(name)}.gguf", data, name, code)


def _tokenizer(change: Callable[[dict], object]) -> bytes:
    found = json.loads(vocabularies.byte_level_json())
    change(found)
    return json.dumps(found).encode()


def _put(key: str, value: object) -> Callable[[dict], object]:
    return lambda found: found.__setitem__(key, value)


def _split(pattern: str) -> dict:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def _writes(content: str) -> dict:
    return {"type": "Replace", "pattern": {"String": "a"}, "content": content}


_GROWING = {"type": "Sequence", "normalizers": [_writes("a" * 32) for _ in range(8)]}
TOKENIZERS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "tokenizer.json"),
    "not UTF-8": (b'{"version": "\xff"}', "tokenizer.json"),
    "deep": (b'{"model":' + b"[" * 10_000, "tokenizer.json"),
    "no model": (_tokenizer(_put("model", None)), "tokenizer.json"),
    "negative id": (
        _tokenizer(lambda found: found["model"]["vocab"].update(x=-1)), "tokenizer.json"),
    "id 4294967295": (
        _tokenizer(lambda found: found["model"]["vocab"].update(xyz=(1 << 32) - 1)),
        "tokenizer.vocabulary"),
    "merge of unknown tokens": (
        _tokenizer(lambda found: found["model"]["merges"].append(["q", "zzz"])),
        "tokenizer.json"),
    "one letter becomes 5000": (_tokenizer(_put("normalizer", _writes("b" * 5000))),
        "tokenizer.json"),
    "one letter becomes 10^12": (_tokenizer(_put("normalizer", _GROWING)), "tokenizer.json"),
    "a pattern that never ends": (
        _tokenizer(_put("pre_tokenizer", _split("(a+)+$"))), "tokenizer.json"),
    "a pattern that is none": (
        _tokenizer(_put("pre_tokenizer", _split("(a"))), "tokenizer.json"),
}  # fmt: skip


def _pieces() -> Iterator[Fixture]:
    for name, (data, code) in TOKENIZERS.items():
        yield Fixture(f"tokenizer/{_slug(name)}.json", data, name, code)
    for name, text in TEMPLATES.items():
        yield Fixture(f"template/{_slug(name)}.jinja", text.encode(), name, "chat.template")


def fixtures() -> list[Fixture]:
    """All that are kept."""
    found = [*_files(), *_configs(), *_indexes(), *_natives(), *_ggufs(), *_pieces()]
    return [fixture for fixture in found if len(fixture.data) <= LARGEST]


_HEAD = """# Hostile files

What a stranger may hand us as a model, or as a piece of one. Each must end in the error named,
exit code 65 on the command line, in bounded memory and time, and nothing in it may run.
`python -m tests.hostile.fixtures` writes this folder; `tests/hostile/test_fixtures.py` tries it.

| file | what it is | what must happen |
|---|---|---|
"""


def page() -> str:
    """The README: a line for each file."""
    rows = []
    for fixture in fixtures():
        must = f"`{fixture.code}`" if fixture.code else "it is read, with a warning"
        if fixture.code.endswith("."):
            must = f"an error `{fixture.code}*`"
        what = fixture.what.replace("|", "\\|").replace("\0", "\\0")
        rows.append(f"| `{fixture.path}` | {what} | {must} |\n")
    return _HEAD + "".join(rows)


def main() -> None:
    for fixture in fixtures():
        path = FOLDER / fixture.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(fixture.data)
    (FOLDER / "README.md").write_text(page())


if __name__ == "__main__":
    main()
