"""Hostile and mistaken files, by name: what a stranger may hand us as a model."""

from __future__ import annotations

import io
import json
import struct
import zipfile


def safetensors_bytes(header, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header (an object, or raw bytes) and data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def one(name="x", dtype="U8", shape=(4,), offsets=(0, 4), data=b"\0" * 4) -> bytes:
    """A file with one tensor as described."""
    row = {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}
    return safetensors_bytes({name: row}, data)


def two(first, second, data) -> bytes:
    """A file with two U8 vectors at these offsets."""
    rows = {
        name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for name, (begin, end) in (("x", first), ("y", second))
    }
    return safetensors_bytes(rows, data)


# A pickle that, loaded, creates the file `canary` in the working directory. As bytes: Python 3.12
# would call the module of `open` otherwise.
PICKLE = (
    b"\x80\x04\x95 \0\0\0\0\0\0\0\x8c\x02io\x94\x8c\x04open\x94\x93\x94"
    b"\x8c\x06canary\x94\x8c\x01w\x94\x86\x94R\x94."
)


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), PICKLE)
    return stream.getvalue()


_ROW = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'

# name -> (bytes, error code, words the message must hold)
FILES: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "file.empty", "empty"),
    "seven bytes": (b"\1\2\3\4\5\6\7", "file.wrong_kind", "no kind"),
    "text": (b"just some notes about the model\n", "file.wrong_kind", "text"),
    "text with a brace": (b"version {1} of the notes\n", "file.wrong_kind", "text"),
    "json": (b'{"architectures": []}', "file.wrong_kind", "JSON"),
    "html": (b"\n<!DOCTYPE html><html><body>login</body></html>", "file.wrong_kind", "HTML"),
    "lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        "file.wrong_kind",
        "Git LFS",
    ),
    "pickle": (PICKLE, "file.wrong_kind", "pickle"),
    "torch zip": (_zip(), "file.wrong_kind", "zip"),
    "gguf": (b"GGUF\3\0\0\0" + b"\0" * 64, "file.wrong_kind", "GGUF"),
    "onnx": (b"\x08\x0a\x12\x07pytorch" + b"\0" * 9, "file.wrong_kind", "ONNX"),
    "npy": (b"\x93NUMPY\1\0" + b"\0" * 64, "file.wrong_kind", "NumPy"),
    "zeros": (b"\0" * 64, "file.wrong_kind", "no kind"),
    "length 2^63": (
        safetensors_bytes(b"{}", length=1 << 63), "safetensors.header_length", "100 MB"),
    "length over the file": (
        safetensors_bytes(b"{}", length=9999), "safetensors.header_length", "more than the file"),
    "length over 100 MB": (
        safetensors_bytes(b"{}", length=100_000_001), "safetensors.header_length", "100 MB"),
    "invalid json": (safetensors_bytes(b"{x}"), "safetensors.header_json", "byte 1"),
    "invalid utf-8": (safetensors_bytes(b'{"\xff":1}'), "safetensors.header_json", "byte 2"),
    "nan": (safetensors_bytes(b'{"x":NaN}'), "safetensors.header_json", "NaN"),
    "huge number": (
        safetensors_bytes(b'{"x":' + b"9" * 5000 + b"}"), "safetensors.header_json", "digits"),
    "deep json": (
        safetensors_bytes(b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
        "safetensors.header_json", "deeply"),
    "duplicate names": (
        safetensors_bytes(f'{{"x":{_ROW},"x":{_ROW}}}'.encode()),
        "safetensors.header_json", "twice"),
    "metadata of numbers": (
        safetensors_bytes({"__metadata__": {"a": 1}}), "safetensors.metadata", "strings"),
    "row is no object": (safetensors_bytes({"x": []}), "safetensors.entry", "dtype"),
    "row lacks shape": (
        safetensors_bytes({"x": {"dtype": "U8", "data_offsets": [0, 0]}}),
        "safetensors.entry", "shape"),
    "unknown dtype": (one(dtype="Q7"), "safetensors.dtype", "Q7"),
    "dtype is a list": (
        safetensors_bytes({"x": {"dtype": [], "shape": [], "data_offsets": [0, 0]}}),
        "safetensors.dtype", "dtype"),
    "negative dimension": (one(shape=(-4,)), "safetensors.shape", "-4"),
    "float dimension": (one(shape=(4.0,)), "safetensors.shape", "4.0"),
    "boolean dimension": (one(shape=(True,)), "safetensors.shape", "True"),
    "overflowing shape": (one(shape=(1 << 32, 1 << 32)), "safetensors.shape", "overflow"),
    "overflow behind a zero": (one(shape=(0, 1 << 62, 8)), "safetensors.shape", "overflow"),
    "rank 100": (one(shape=(1,) * 100), "safetensors.shape", "sizes"),
    "end before begin": (one(offsets=(4, 0)), "safetensors.offsets", "begin"),
    "negative offset": (one(offsets=(-4, 0)), "safetensors.offsets", "begin"),
    "three offsets": (one(offsets=(0, 2, 4)), "safetensors.offsets", "begin"),
    "out of range": (one(offsets=(0, 400), shape=(400,)), "safetensors.truncated", "cut short"),
    "size unlike span": (one(shape=(3,)), "safetensors.size", "takes 3"),
    "overlap": (two((0, 4), (2, 6), b"\0" * 6), "safetensors.overlap", "overlaps"),
    "hole": (two((0, 2), (4, 6), b"\0" * 6), "safetensors.hole", "hole"),
    "hole at the start": (one(offsets=(2, 6), data=b"\0" * 6), "safetensors.hole", "hole"),
    "trailing bytes": (one(data=b"\0" * 9), "safetensors.trailing", "5 bytes"),
    "name with NUL": (one(name="a\0b"), "safetensors.name", "control"),
    "name climbing": (one(name="a/../../b"), "safetensors.name", "path"),
    "name climbing, backslash": (one(name="..\\b"), "safetensors.name", "path"),
    "name absolute": (one(name="/etc/passwd"), "safetensors.name", "path"),
    "name empty": (one(name=""), "safetensors.name", "empty"),
    "name half a pair": (one(name="\ud800"), "safetensors.name", "surrogate"),
    "name of a megabyte": (one(name="a" * 1_000_000), "safetensors.name", "letters long"),
}  # fmt: skip

# What becomes of those that are of a format of models, damaged, where any format will do.
AS_MODELS: dict[str, tuple[str, str]] = {
    "gguf": ("model.unknown_architecture", "general.architecture"),
    "onnx": ("onnx.protobuf", "ONNX"),
}
