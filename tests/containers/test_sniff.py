"""A kind is known by content, and the specification's first rows win."""

from __future__ import annotations

import pytest

from bitnet_jax.containers.sniff import sniff, sniff_bytes

CASES = {
    b"": "empty",
    b"GGUF\3": "gguf",
    b"\x10\0\0\0\0\0\0\0{}": "safetensors",
    b"PK\3\4....": "zip",
    b"\x80\x04\x95": "pickle",
    b"version https://git-lfs.github.com/spec/v1\n": "lfs-pointer",
    b"<html>": "html",
    b"\x08\x07\x12\x04": "onnx",
    b'{"a": 1}': "json",
    b"hello": "text",
    b"h\xc3\xa9llo " * 100: "text",
    b"\x00" * 40: "unknown",
}


@pytest.mark.parametrize("head", CASES, ids=CASES.values())
def test_kind(head):
    assert sniff_bytes(head[:512]).id == CASES[head]


def test_a_letter_cut_by_the_end_of_the_head_is_still_text():
    assert sniff_bytes(b"a" * 511 + b"\xc3").id == "text"


def test_a_name_says_nothing(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"GGUF" + b"\0" * 20)
    assert sniff(path).id == "gguf"
