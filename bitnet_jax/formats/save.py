"""Writing a `Checkpoint` in any format: all of it or nothing.

One table: a new format is a row and a file. Knows what every format shares: the
output must not exist, be the input, or be left half-written.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from bitnet_jax.core import paths
from bitnet_jax.core.errors import CannotCreate, IOFailure, UsageError, did_you_mean, few
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.gguf_encoding import ENCODINGS as GGUF_ENCODINGS
from bitnet_jax.formats.gguf_write import check_gguf, write_gguf
from bitnet_jax.formats.huggingface_config import check_spelling
from bitnet_jax.formats.huggingface_encoding import ENCODINGS, UNQUANTIZED, choose_encoding
from bitnet_jax.formats.huggingface_write import write_huggingface
from bitnet_jax.formats.native import ENCODINGS as PACKINGS
from bitnet_jax.formats.native import choose_encoding as choose_packing
from bitnet_jax.formats.native import write_bitnet
from bitnet_jax.formats.safetensors import (
    check_beside,
    check_safetensors,
    place_beside,
    write_safetensors,
)
from bitnet_jax.formats.stablehlo import MANIFEST, SUFFIX, WEIGHTS, check_encoding
from bitnet_jax.quant.digest import Digest


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


# Looks at what was written before it gets its name, and may add to a folder; what it raises
# leaves nothing behind.
Prove = Callable[[Path, Saved], None]


@dataclass(frozen=True)
class Order:
    """What a writer is asked for: where, how, and the proof that the output must pass.

    Attributes:
      jobs: threads that may read and turn tensors; the bytes are the same for any number.
      digest: gives the checkpoint's digests once all of it was read, where somebody takes them
        on the way; None: a writer that wants them computes them.
    """

    path: Path
    encoding: str | None
    force: bool
    prove: Prove
    jobs: int = 1
    digest: Callable[[], Digest] | None = None


def _save_bitnet(checkpoint: Checkpoint, order: Order) -> Saved:
    encoding = choose_packing(checkpoint, order.encoding)
    saved = Saved(order.path, (order.path,), "bitnet", encoding)
    with paths.atomic_file(order.path, force=order.force) as stream:
        write_bitnet(checkpoint, stream, encoding, jobs=order.jobs, digest=order.digest)
        stream.flush()
        order.prove(Path(stream.name), saved)
    return saved


def _check_bitnet(checkpoint: Checkpoint, encoding: str | None) -> None:
    choose_packing(checkpoint, encoding)


def _save_huggingface(checkpoint: Checkpoint, order: Order) -> Saved:
    path = order.path
    with paths.atomic_directory(path, force=order.force) as folder:
        written = write_huggingface(checkpoint, folder, order.encoding, jobs=order.jobs)
        outputs = tuple(path / name for name in written.files)
        saved = Saved(path, outputs, "huggingface", written.encoding, tuple(written.warnings))
        order.prove(folder, saved)
    return saved


def _check_huggingface(checkpoint: Checkpoint, encoding: str | None) -> None:
    chosen, _ = choose_encoding(checkpoint, encoding)
    check_spelling(checkpoint.spec, chosen not in UNQUANTIZED)


def _save_gguf(checkpoint: Checkpoint, order: Order) -> Saved:
    with paths.atomic_file(order.path, force=order.force) as stream:
        written = write_gguf(checkpoint, stream, order.encoding)
        saved = Saved(order.path, (order.path,), "gguf", written.encoding, tuple(written.warnings))
        stream.flush()
        order.prove(Path(stream.name), saved)
    return saved


def _save_safetensors(checkpoint: Checkpoint, order: Order) -> Saved:
    path = order.path
    with paths.atomic_file(path, force=order.force) as stream:
        # What is proven lies together, under its own names; then each file gets its place, the
        # weights last: those that stood there keep their config until it is replaced with them.
        with paths.scratch_directory(Path(stream.name).parent) as folder:
            written = write_safetensors(checkpoint, folder, path.name, order.encoding, order.jobs)
            beside = [name for name in written.files if name != path.name]
            outputs = (path, *(path.parent / name for name in beside))
            saved = Saved(path, outputs, "safetensors", written.encoding, tuple(written.warnings))
            order.prove(folder / path.name, saved)
            place_beside(folder, beside, path, order.force)
            paths.sync_file(folder / path.name)
            os.replace(folder / path.name, stream.name)
    return saved


# As `export.profiles` has them, which stands above this: the encodings of an ONNX file.
ONNX_PROFILES = ("portable", "size", "inference", "accuracy")


def _save_lowered(checkpoint: Checkpoint, order: Order) -> Saved:
    raise UsageError(
        "format.lowered",
        f"`{order.path}` would be written from a model's program, not from its tensors alone",
        "bitnet model convert, or bj.convert(source, output)",
    )


def _check_onnx(checkpoint: Checkpoint, encoding: str | None) -> None:
    if encoding is not None and encoding not in ONNX_PROFILES:
        raise UsageError(
            "format.encoding",
            f"encoding `{encoding}` is not one of the ONNX format",
            f"known: {', '.join(ONNX_PROFILES)}",
        )


def _check_stablehlo(checkpoint: Checkpoint, encoding: str | None) -> None:
    check_encoding(encoding)


@dataclass(frozen=True)
class Format:
    """One row: the writer, what it refuses, its encodings, the suffixes that imply it.

    Attributes:
      check: raises for a model or an encoding that it cannot write, before anything is.
      directory: the output is a folder.
      lowered: it is written from a model's program, which stands above this: `save` refuses.
      read_as: the format that a reader says of it, where its files are another's too.
      check_beside: raises where files beside the output may not be written.
    """

    save: Callable[[Checkpoint, Order], Saved]
    check: Callable[[Checkpoint, str | None], None]
    directory: bool
    encodings: tuple[str, ...]
    suffixes: tuple[str, ...]
    lowered: bool = False
    read_as: str = ""
    check_beside: Callable[[Checkpoint, Path, bool], None] = lambda checkpoint, path, force: None


FORMATS: dict[str, Format] = {
    "bitnet": Format(_save_bitnet, _check_bitnet, False, tuple(PACKINGS), (".bitnet",)),
    "huggingface": Format(_save_huggingface, _check_huggingface, True, ENCODINGS, (".hf", "")),
    "gguf": Format(_save_gguf, check_gguf, False, GGUF_ENCODINGS, (".gguf",)),
    "safetensors": Format(
        _save_safetensors,
        check_safetensors,
        False,
        ENCODINGS,
        (".safetensors",),
        read_as="huggingface",
        check_beside=check_beside,
    ),
    "onnx": Format(_save_lowered, _check_onnx, False, ONNX_PROFILES, (".onnx",), lowered=True),
    "stablehlo": Format(
        _save_lowered, _check_stablehlo, True, tuple(PACKINGS), (".stablehlo",), lowered=True
    ),
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


def check_save(
    checkpoint: Checkpoint,
    path: os.PathLike | str,
    *,
    format: str | None = None,
    encoding: str | None = None,
    force: bool = False,
) -> None:
    """Raises what `save_checkpoint` would raise before it writes; reads no tensor."""
    path = Path(path)
    row = FORMATS[format_of(path, format)]
    source = checkpoint.source.path
    paths.check_output(path, force=force, inputs=(source,))
    check_not_input(path, source)
    check_kind(path, directory=row.directory)
    row.check(checkpoint, encoding)
    row.check_beside(checkpoint, path, force)
    _check_space(checkpoint, path)


def save_checkpoint(
    checkpoint: Checkpoint,
    path: os.PathLike | str,
    *,
    format: str | None = None,
    encoding: str | None = None,
    force: bool = False,
    prove: Prove = lambda written, saved: None,
    jobs: int = 1,
    digest: Callable[[], Digest] | None = None,
) -> Saved:
    """Writes `checkpoint` to `path`, atomically.

    Args:
      jobs, digest: as `Order` has them.
      prove: called with what was written under its temporary name; `path` is replaced
        only when it returns.

    Raises:
      CannotCreate: it exists and `force` is false, is the input, holds what is no
        model's, or cannot hold the model.
      UsageError: unknown format or encoding.
      IOFailure: the disk is full; nothing is left behind.
      Resumable: another process is writing it.
    """
    path = Path(path)
    check_save(checkpoint, path, format=format, encoding=encoding, force=force)
    with telling_space(checkpoint, path):
        order = Order(path, encoding, force, prove, jobs, digest)
        return FORMATS[format_of(path, format)].save(checkpoint, order)


def check_not_input(path: Path, source: Path) -> None:
    """Raises when writing `path` would replace the folder or a file that is being read."""
    if not path.exists():
        return
    target, read = path.resolve(), source.resolve()
    if target in read.parents or (read.is_dir() and target.parent == read and target.is_file()):
        raise CannotCreate(
            "io.output_is_input",
            f"output `{path}` " + ("holds" if target in read.parents else "is a file of")
            + f" the input `{source}`",
            "choose another output",
        )  # fmt: skip


# What stands in a folder that --force may replace: a model's files, and nothing else.
MODEL_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.*", "receipt.json", "README.md", "LICENSE*", ".gitattributes",
    "configuration_*.py", "modeling_*.py", MANIFEST, WEIGHTS, f"*{SUFFIX}",
)  # fmt: skip


def check_kind(path: Path, *, directory: bool) -> None:
    """Raises unless what stands at `path` is such as the output replaces.

    A folder is replaced as a whole, so one that holds anything but a model is left alone,
    with --force too.
    """
    if not path.exists():
        return
    if not directory:
        if not path.is_file():
            raise CannotCreate(
                "io.not_file",
                f"`{path}` is " + ("a folder" if path.is_dir() else "no regular file")
                + "; this format is one file",
                "choose another output",
            )  # fmt: skip
        return
    if not path.is_dir():
        raise CannotCreate(
            "io.not_directory",
            f"`{path}` is a file; this format is a directory",
            "choose another output",
        )
    other = sorted(
        item.name
        for item in path.iterdir()
        if item.is_dir() or not any(fnmatch(item.name, pattern) for pattern in MODEL_FILES)
    )
    if other:
        raise CannotCreate(
            "io.not_a_model",
            f"`{path}` holds what is no model's: {few(other)}; --force would remove it",
            "choose another output, or empty the folder yourself",
        )


def _check_space(checkpoint: Checkpoint, path: Path) -> None:
    """Refuses early when even two bits a trit would not fit; the write itself has the last word."""
    needed, free = _needed(checkpoint), shutil.disk_usage(path.absolute().parent).free
    if needed > free:
        raise IOFailure(
            "io.disk_full",
            f"`{path}` needs at least {needed} bytes, {free} are free",
            "free some space, or write elsewhere",
        )


def _needed(checkpoint: Checkpoint) -> int:
    """Bytes that no encoding can do without: two bits a trit, two bytes a float."""
    sizes = ((math.prod(entry.shape), entry.ternary) for entry in checkpoint.entries.values())
    return sum(count // 4 if ternary else count * 2 for count, ternary in sizes)


@contextlib.contextmanager
def telling_space(checkpoint: Checkpoint, path: Path) -> Iterator[None]:
    """Says how much was needed where the block filled the disk."""
    try:
        yield
    except IOFailure as error:
        if error.code != "io.disk_full":
            raise
        raise IOFailure(
            "io.disk_full",
            f"{error.message}; it needs at least {_needed(checkpoint)} bytes",
            error.hint,
        ) from error
