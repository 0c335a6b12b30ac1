"""Writing a `Checkpoint` in any format: all of it or nothing.

One table: a new format is a row and a file. Knows what every format shares: the
output must not exist, be the input, or be left half-written.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitnet_jax.core import paths
from bitnet_jax.core.errors import CannotCreate, IOFailure, UsageError, did_you_mean
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.huggingface_encoding import ENCODINGS, choose_encoding
from bitnet_jax.formats.huggingface_write import write_huggingface
from bitnet_jax.formats.native import write_bitnet


@dataclass(frozen=True)
class Saved:
    """What was written.

    Attributes:
      path: the file or directory.
      outputs: every file, in the order written.
      format, encoding: as chosen.
      warnings: what the user should know.
    """

    path: Path
    outputs: tuple[Path, ...]
    format: str
    encoding: str
    warnings: tuple[str, ...] = ()


def _save_bitnet(checkpoint: Checkpoint, path: Path, encoding: str | None, force: bool) -> Saved:
    if encoding not in (None, "packed"):
        raise UsageError(
            "format.encoding",
            f"encoding `{encoding}` is not one of the bitnet format",
            "known: packed",
        )
    with paths.atomic_file(path) as stream:
        write_bitnet(checkpoint, stream)
    return Saved(path, (path,), "bitnet", "packed")


def _save_huggingface(
    checkpoint: Checkpoint, path: Path, encoding: str | None, force: bool
) -> Saved:
    if path.exists() and not path.is_dir():
        raise CannotCreate(
            "io.not_directory",
            f"`{path}` is a file; this format is a directory",
            "choose another output",
        )
    choose_encoding(checkpoint, encoding)  # refuses before anything is written
    with paths.atomic_directory(path, force=force) as folder:
        written = write_huggingface(checkpoint, folder, encoding)
    outputs = tuple(path / name for name in written.files)
    return Saved(path, outputs, "huggingface", written.encoding, tuple(written.warnings))


@dataclass(frozen=True)
class Format:
    """One row: the writer, its encodings, and the suffixes that imply it."""

    save: Callable[[Checkpoint, Path, str | None, bool], Saved]
    encodings: tuple[str, ...]
    suffixes: tuple[str, ...]


FORMATS: dict[str, Format] = {
    "bitnet": Format(_save_bitnet, ("packed",), (".bitnet",)),
    "huggingface": Format(_save_huggingface, ENCODINGS, (".hf", "")),
}


def format_of(path: Path, asked: str | None = None) -> str:
    """Returns `asked`, or the format that the suffix of `path` implies.

    Raises:
      UsageError: neither is known (code ``format.unknown``).
    """
    if asked is not None:
        if asked not in FORMATS:
            raise UsageError(
                "format.unknown", f"format `{asked}` is not known", did_you_mean(asked, FORMATS)
            )
        return asked
    for name, row in FORMATS.items():
        if path.suffix in row.suffixes:
            return name
    raise UsageError(
        "format.unknown",
        f"the suffix of `{path}` implies no format",
        "pass --format: " + ", ".join(FORMATS),
    )


def save_checkpoint(
    checkpoint: Checkpoint,
    path: os.PathLike | str,
    *,
    format: str | None = None,
    encoding: str | None = None,
    force: bool = False,
) -> Saved:
    """Writes `checkpoint` to `path`, atomically.

    Raises:
      CannotCreate: it exists and `force` is false, is the input, or cannot hold the model.
      UsageError: unknown format or encoding.
      IOFailure: the disk is full; nothing is left behind.
      Resumable: another process is writing it.
    """
    path = Path(path)
    name = format_of(path, format)
    source = checkpoint.source.path
    paths.check_output(path, force=force, inputs=(source,))
    if path.exists() and path.resolve() in source.resolve().parents:
        raise CannotCreate(
            "io.output_is_input",
            f"output `{path}` holds the input `{source}`",
            "choose another output",
        )
    _check_space(checkpoint, path)
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]
    with paths.lock(paths.cache_dir("locks") / key):
        return FORMATS[name].save(checkpoint, path, encoding, force)


def _check_space(checkpoint: Checkpoint, path: Path) -> None:
    """Refuses early when even two bits a trit would not fit; the write itself has the last word."""
    needed = 0
    for entry in checkpoint.entries.values():
        count = 1
        for size in entry.shape:
            count *= size
        needed += count // 4 if entry.ternary else count * 2
    free = shutil.disk_usage(path.absolute().parent).free
    if needed > free:
        raise IOFailure(
            "io.disk_full",
            f"`{path}` needs at least {needed} bytes, {free} are free",
            "free some space, or write elsewhere",
        )
