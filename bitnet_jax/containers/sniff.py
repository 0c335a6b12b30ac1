"""What a file really is, by its first bytes: a name says nothing.

Reads at most a few hundred bytes, and never opens archives or runs anything.
Knows the kinds people pass by mistake, so that the error names the real one.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from dataclasses import dataclass

from bitnet_jax.containers.blob import Blob
from bitnet_jax.core.errors import BadData

HEAD = 512


@dataclass(frozen=True)
class Kind:
    """One row: the kind's `id`, what to call it, what to do instead, how to know it."""

    id: str
    words: str
    hint: str
    matches: Callable[[bytes], bool]


def _starts(*prefixes: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(prefixes)


def _is_html(head: bytes) -> bool:
    return (
        head.lstrip(b"\xef\xbb\xbf \t\r\n")
        .lower()
        .startswith((b"<!doctype html", b"<html", b"<head", b"<?xml"))
    )


def _is_text(head: bytes) -> bool:
    try:
        # Final=False: the end of the head may cut a letter of several bytes in two.
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < HEAD)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\r\n\f\ufeff" for letter in text)


def _is_onnx(head: bytes) -> bool:
    # ModelProto: field 1 (ir_version, varint 1..99), then field 2, 7 or 8 (producer, graph, opset).
    return len(head) > 3 and head[0] == 0x08 and 0 < head[1] < 100 and head[2] in (0x12, 0x3A, 0x42)


_UNPICKLED = (
    "it is never unpickled, since that could run any code: in the environment that made it, write "
    "`safetensors.torch.save_file(model.state_dict(), 'model.safetensors')`, or look for the "
    "safetensors form of the same model"
)

# The first row that matches wins, so magic numbers stand before guesses.
KINDS: tuple[Kind, ...] = (
    Kind("empty", "an empty file", "download or copy it again", lambda head: not head),
    Kind("gguf", "a GGUF file", "GGUF is read as a whole, not as safetensors", _starts(b"GGUF")),
    Kind(
        "lfs-pointer",
        "a Git LFS pointer, not the model itself",
        "run `git lfs pull` in that repository, or download the file itself",
        _starts(b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/"),
    ),
    Kind(
        "html",
        "an HTML page (a login or error page?)",
        "open the address in a browser: it may ask you to log in or to accept a licence",
        _is_html,
    ),
    Kind(
        "zip",
        "a zip archive, most likely a PyTorch `.pth`/`.bin` pickle or `.npz`",
        _UNPICKLED,
        _starts(b"PK\x03\x04", b"PK\x05\x06"),
    ),
    Kind(
        "pickle",
        "a Python pickle (`.pth`, `.bin`, `.pkl`)",
        _UNPICKLED,
        lambda head: len(head) > 2 and head[0] == 0x80 and head[1] in range(2, 6),
    ),
    Kind("numpy", "a NumPy `.npy` array", "pass a whole model", _starts(b"\x93NUMPY")),
    Kind("hdf5", "an HDF5 file (Keras?)", "convert it to safetensors first", _starts(b"\x89HDF")),
    Kind("gzip", "a gzip archive", "unpack it first", _starts(b"\x1f\x8b")),
    Kind("zstd", "a Zstandard archive", "unpack it first", _starts(b"\x28\xb5\x2f\xfd")),
    Kind("tar", "a tar archive", "unpack it first", lambda head: head[257:262] == b"ustar"),
    Kind("onnx", "an ONNX model", "ONNX is read as a whole, not as safetensors", _is_onnx),
    Kind(
        "json",
        "a JSON file",
        "pass the model, not its config or index",
        lambda head: head.lstrip()[:1] in (b"{", b"[") and _is_text(head),
    ),
    Kind("text", "a text file", "pass the model file or directory", _is_text),
    # Eight ASCII letters before a brace are text, matched above: a length is never printable.
    Kind("safetensors", "a safetensors file", "", lambda head: head[8:9] == b"{"),
)
UNKNOWN = Kind("unknown", "of no kind that we know", "pass a model file", lambda head: True)


def sniff_bytes(head: bytes) -> Kind:
    """Returns the kind of a file that starts with `head` (its first `HEAD` bytes)."""
    return next((kind for kind in KINDS if kind.matches(head)), UNKNOWN)


def sniff(path: os.PathLike | str) -> Kind:
    """Returns the kind of the file at `path`.

    Raises:
      NoInput, PermissionDenied: from the operating system.
      BadData: it is not a regular file.
    """
    blob = Blob(path)
    return sniff_bytes(blob.read(0, min(HEAD, blob.size)).tobytes())


def wrong_kind(path: os.PathLike | str, head: bytes, wanted: str) -> BadData:
    """Returns the error for a file that should be `wanted` and starts with `head`."""
    kind = sniff_bytes(head)
    code = "file.empty" if kind.id == "empty" else "file.wrong_kind"
    return BadData(code, f"`{path}` is {kind.words}; {wanted} was expected", kind.hint or None)
