"""A `.bitnet` file with any bytes changed gives a typed error, never a wrong model."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet_jax.containers.native import header_checksum
from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.create import create
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "m.bitnet"
    save_checkpoint(create("tiny", layers=1), path)
    return path.read_bytes()


def read_all(path) -> None:
    for _ in open_checkpoint(path).tensors():
        pass


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_change_of_bytes_is_noticed(data, good, tmp_path):
    raw = bytearray(good)
    # As many changes in the header as in the far larger data.
    end = data.draw(st.sampled_from([8 + int.from_bytes(good[:8], "little"), len(good)]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, end - 1))
        raw[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "m.bitnet"
    path.write_bytes(raw)
    if bytes(raw) != good:
        with pytest.raises(BadData):
            read_all(path)


@pytest.mark.parametrize("cut", [1, 64, 1000, 30_000])
def test_a_cut_or_grown_file(cut, good, tmp_path):
    path = tmp_path / "m.bitnet"
    for raw in (good[:-cut], good + b"\0" * cut):
        path.write_bytes(raw)
        with pytest.raises(BadData):
            read_all(path)


def sealed(good: bytes, change) -> bytes:
    """`good` with its metadata changed and sealed again, as a hostile writer would."""
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    change(header["__metadata__"])
    header["__metadata__"]["header_checksum"] = "0" * 16
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw = raw.ljust(max(length, -(-len(raw) // 64) * 64 - 8 + 64))
    seal = f'"header_checksum":"{header_checksum(raw, "0" * 16)}"'.encode()
    raw = raw.replace(b'"header_checksum":"' + b"0" * 16 + b'"', seal)
    return len(raw).to_bytes(8, "little") + raw + good[8 + length :]


def spec(**changes):
    def change(metadata):
        metadata["spec"] = json.dumps(json.loads(metadata["spec"]) | changes)

    return change


SPECS = {
    "hidden 0": (spec(hidden_size=0), "config.value"),
    "hidden absurd": (spec(hidden_size=1 << 50), "config.value"),
    "hidden other": (spec(hidden_size=128), "model.tensor_shape"),
    "vocab other": (spec(vocab_size=511), "model.tensor_shape"),
    "layers more": (spec(num_layers=2), "bitnet.names"),
    "layers none": (spec(num_layers=0), "config.value"),
    "untied": (spec(tie_embeddings=False), "bitnet.names"),
    "no sub-norms": (spec(sub_norms=False), "bitnet.names"),
    "family": (spec(family="gpt"), "model.unknown_family"),
    "family a list": (spec(family=["bitnet"]), "model.unknown_family"),
    "new field": (spec(experts=8), "config.value"),
    "kv heads": (spec(num_kv_heads=3), "config.value"),
    "eos text": (spec(eos_token_ids=["a"]), "config.value"),
    "eos a number": (spec(eos_token_ids=5), "config.value"),
    "a list": (lambda m: m.update(spec="[1]"), "bitnet.metadata"),
    "features a number": (lambda m: m.update(must_understand="5"), "bitnet.unknown_feature"),
    "layout a list": (
        lambda m: m.update(tensors=m["tensors"].replace('"t2.16x16"', "[]")),
        "bitnet.unknown_layout",
    ),
}


@pytest.mark.parametrize("case", SPECS)
def test_a_sealed_header_that_lies(case, good, tmp_path):
    change, code = SPECS[case]
    path = tmp_path / "m.bitnet"
    path.write_bytes(sealed(good, change))
    with pytest.raises(BadData) as caught:
        read_all(path)
    assert caught.value.code == code


def test_sealing_alone_changes_nothing(good, tmp_path):
    path = tmp_path / "m.bitnet"
    path.write_bytes(sealed(good, lambda metadata: None))
    assert open_checkpoint(path).digest() == create("tiny", layers=1).digest()
