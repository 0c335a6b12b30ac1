"""Folders of exported StableHLO programs beside the weights that they take.

    manifest.json     which programs there are, their inputs, and the checksums of their files
    prefill.stablehlo, decode.stablehlo   what `jax.export` serialized
    weights.bitnet    the parameters, as the programs take them: a `.bitnet` file like any other

The weights are the model and last; the programs are rebuilt from them in seconds, and must be
after six months (JAX's window). So such a folder is no source of a conversion: it is opened to be
checked, and nothing else. Deserializes no program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from bitnet_jax.containers.blob import Blob, load_json
from bitnet_jax.core.errors import BadData, UsageError, few, nearest, shown
from bitnet_jax.formats.checkpoint import Checkpoint, Source
from bitnet_jax.formats.native import ENCODINGS, open_bitnet

MANIFEST = "manifest.json"
WEIGHTS = "weights.bitnet"
SUFFIX = ".stablehlo"
PROGRAMS = ("prefill", "decode")
FORMAT, VERSION = "bitnet-stablehlo", 1
_MOST_BYTES = 1 << 30
_AGAIN = "make it again: bitnet model convert {weights} -o OTHER.stablehlo"


@dataclass(frozen=True)
class StablehloFolder:
    """A folder whose manifest and files agree.

    Attributes:
      manifest: parsed; its ``programs`` are exactly `PROGRAMS`.
      programs: the serialized bytes of each.
    """

    path: Path
    manifest: Mapping[str, Any]
    programs: Mapping[str, bytes]


def is_stablehlo(folder: Path) -> bool:
    """True for a folder that `write` of `export.stablehlo` made, or what is left of one."""
    return (folder / MANIFEST).is_file() and (
        (folder / WEIGHTS).exists()
        or any((folder / f"{name}{SUFFIX}").exists() for name in PROGRAMS)
    )


def refuse_as_source(path: Path, verify: bool = True) -> Checkpoint:
    """Raises: it is no source.

    Raises:
      BadData: always (``stablehlo.not_a_source``).
    """
    del verify
    folder = path if path.is_dir() else path.parent
    raise BadData(
        "stablehlo.not_a_source",
        f"`{path}` holds exported programs, which run for six months from the jax that wrote them; "
        "they are no source of a model",
        f"its weights are one: {folder / WEIGHTS}",
    )


def check_encoding(encoding: str | None) -> None:
    """Raises `UsageError` (``format.encoding``) unless the weights can be held so."""
    if encoding is not None and encoding not in ENCODINGS:
        close = nearest(encoding, ENCODINGS)
        raise UsageError(
            "format.encoding",
            f"encoding `{encoding}` is not one of the stablehlo format",
            (f"did you mean `{close[0]}`? " if close else "") + f"known: {', '.join(ENCODINGS)}",
        )


def read_folder(path: Path) -> StablehloFolder:
    """Reads the manifest and the programs' bytes; compares their checksums.

    Raises:
      BadData: a file is missing, damaged, or not what the manifest says (``stablehlo.…``).
      NoInput: there is no manifest.
    """
    raw = load_json(
        _bytes(path / MANIFEST), code="stablehlo.manifest", where=f"`{path / MANIFEST}`"
    )
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise _manifest(path, f"it is no manifest of the format {FORMAT}")
    if raw.get("version") != VERSION:
        raise BadData(
            "stablehlo.version",
            f"`{path}` is version {shown(raw.get('version'))} of its format; known: {VERSION}",
            "a newer bitnet-jax wrote it: update this one",
        )
    rows = raw.get("programs")
    if not isinstance(rows, dict) or set(rows) != {*PROGRAMS}:
        raise _manifest(path, f"its programs are not {few(PROGRAMS)}")
    programs = {}
    for name, row in rows.items():
        file = f"{name}{SUFFIX}"
        if not isinstance(row, dict) or row.get("file") != file:
            raise _manifest(path, f"program `{name}` is described as {shown(row)}")
        data = _bytes(path / file)
        if len(data) != row.get("bytes") or xxhash.xxh3_64_hexdigest(data) != row.get("xxh3"):
            raise BadData(
                "stablehlo.checksum",
                f"`{path / file}` is not the program that was written: its checksum differs",
                _AGAIN.format(weights=path / WEIGHTS),
            )
        programs[name] = data
    return StablehloFolder(path, raw, programs)


def open_written(path: Path, verify: bool = True) -> Checkpoint:
    """Opens such a folder as the model that it holds, to be checked.

    Raises:
      BadData: as `read_folder`; and what is wrong with the weights.
    """
    folder = read_folder(path)
    weights = open_bitnet(path / WEIGHTS, verify)
    stated = folder.manifest.get("weights")
    found = weights.source.detail["digests"]
    if not isinstance(stated, dict) or stated.get("digests") != found:
        raise _manifest(path, f"`{WEIGHTS}` is not the file that it was written with")
    files = (MANIFEST, WEIGHTS, *(f"{name}{SUFFIX}" for name in PROGRAMS))
    source = Source(
        path, "stablehlo", weights.source.encoding,
        {**weights.source.detail, "files": list(files)},
    )  # fmt: skip
    return replace(weights, source=source)


def _bytes(path: Path) -> bytes:
    blob = Blob(path)
    if blob.size > _MOST_BYTES:
        raise BadData(
            "stablehlo.manifest", f"`{path}` has {blob.size} bytes, too many for its kind"
        )
    return blob.read(0, blob.size).tobytes()


def _manifest(path: Path, what: str) -> BadData:
    return BadData(
        "stablehlo.manifest",
        f"the manifest of `{path}` is not what was written: {what}",
        _AGAIN.format(weights=path / WEIGHTS),
    )
