"""docs/formats/bitnet.md, taken at its word: its reader decodes a file and both digests."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
import xxhash

from bitnet_jax.formats.create import create
from bitnet_jax.formats.save import save_checkpoint


def reader(repo):
    """The code block of the specification."""
    text = (repo / "docs/formats/bitnet.md").read_text()
    scope: dict = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S).group(1), scope)
    return scope["read_bitnet"]


@pytest.mark.parametrize("encoding", ["packed", "packed-1.6"])
def test_the_readers_trits_and_scales_give_the_digests_in_the_file(tmp_path, repo, encoding):
    path = tmp_path / "m.bitnet"
    model = create("tiny", layers=1)
    save_checkpoint(model, path, encoding=encoding)
    trits = hashlib.sha256(b"bitnet-trits/1\n")
    tail = b""
    for name, matrix, kind, scale in sorted(reader(repo)(path)):
        codes = np.pad(matrix.ravel() + 1, (0, -matrix.size % 4)).reshape(-1, 4)
        trits.update(f"{name}\0{matrix.shape[0]},{matrix.shape[1]}\n".encode())
        trits.update((codes << np.array([0, 2, 4, 6])).sum(1).astype(np.uint8).tobytes())
        tail += f"{name}\0{kind}\0\n".encode() + scale.tobytes()  # a tensor scale has no sizes
    scales = hashlib.sha256(b"bitnet-trits-scales/1\n" + trits.digest() + tail)
    raw = path.read_bytes()
    header = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
    metadata = json.loads(header)["__metadata__"]
    assert json.loads(metadata["digests"]) == {
        "trits": trits.hexdigest(),
        "trits_scales": scales.hexdigest(),
    }
    assert model.digest().to_json() == json.loads(metadata["digests"])


def test_checksums_are_as_specified(tmp_path):
    path = tmp_path / "m.bitnet"
    save_checkpoint(create("tiny", layers=1), path)
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    metadata = header.pop("__metadata__")
    sums = json.loads(metadata["checksums"])
    assert start % 64 == 0
    assert sums.keys() == {name for name in header if not name.startswith("__pad__.")}
    for name, row in header.items():
        begin, end = row["data_offsets"]
        data = raw[start + begin : start + end]
        if name.startswith("__pad__."):
            assert not any(data)
        else:
            assert begin % 64 == 0
            assert sums[name] == xxhash.xxh3_64_hexdigest(data)
    stated = metadata["header_checksum"].encode()
    assert xxhash.xxh3_64_hexdigest(raw[8:start].replace(stated, b"0" * 16)).encode() == stated
