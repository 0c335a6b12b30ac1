"""`Checkpoint`: what any file format is read into, and written from.

Knows no format: readers build one, writers take one. Reading a header reads no
tensor; a tensor is read when its entry is asked, once per call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData
from bitnet_jax.ir.spec import ModelSpec, Scalar
from bitnet_jax.models.names import expected
from bitnet_jax.quant.digest import Digest, DigestBuilder
from bitnet_jax.quant.tensor import QuantTensor


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a checkpoint, under its canonical name, not read yet.

    Attributes:
      shape: the float shape it stands for.
      dtype: the float dtype it stands for, by name ("bfloat16", …).
      ternary: `read` gives a `QuantTensor` (its arrays numpy), else a numpy array.
      read: reads and checks it.
      latent: reads the trainable float weights, where the source has them.
      parts: reads a float matrix some rows at a time, where the format can: pieces of so many
        rows, each of them good until the next; what `read` checks is checked by the end.
      stored_as, nbytes: what it is in its file, in the format's own word (``BF16``, ``TQ2_0``, the
        layout of its codes), and the bytes that it takes there, scales included; of a part of a
        larger matrix, its share. None of one that is in no file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    ternary: bool
    read: Callable[[], np.ndarray | QuantTensor]
    latent: Callable[[], np.ndarray] | None = None
    parts: Callable[[int], Iterator[np.ndarray]] | None = None
    stored_as: str | None = None
    nbytes: int | None = None


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as its files: nothing parsed, nothing run.

    Attributes:
      tokenizer_json: the `tokenizers` library's file, bytes.
      config: ``tokenizer_config.json``.
      chat_template: Jinja source, or None.
      generation: ``generation_config.json``.
    """

    tokenizer_json: bytes
    config: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    generation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where a checkpoint came from, in words that a record can hold.

    Attributes:
      format: key of the formats table: ``bitnet``, ``huggingface``, …
      encoding: how it stores ternary tensors: ``packed``, ``master``, …
      detail: what the format alone knows (linear class, config keys kept); under ``files``, the
        names of all files that it read, where the model is more than the file at `path`.
      origin: where it was fetched from (`locate.Place`); empty for a path.
    """

    path: Path
    format: str
    encoding: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Where it is from, as records say it: the path, or what identifies what was fetched."""
        return dict(self.origin) if self.origin else {"path": str(self.path)}


@dataclass(frozen=True)
class OwnProgram:
    """What a file holds beside its weights: how they are computed with, whatever its config says.

    Attributes:
      batch, length: of the tokens that it takes; None where it takes any.
      rounding: by how much of their value its constants were rounded; 0 for those of float32.
      logits: token ids, int32 [batch, length], to float32 [batch, length, vocab]; raises `BadData`
        that names the operation which cannot be computed here.
    """

    batch: int | None
    length: int | None
    rounding: float
    logits: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """Ordered canonical names to lazily read tensors, with spec and tokenizer.

    Invariants: `entries` holds exactly the names the family's spec asks for, each
    with the shape the spec gives it; `spec.validate()` holds; `metadata` is as
    `formats.metadata` has it, and changes no result; `own` is the file's own program, where it
    holds one that the spec was not read from.
    """

    spec: ModelSpec
    entries: Mapping[str, TensorEntry]
    tokenizer: TokenizerFiles | None
    source: Source
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    own: OwnProgram | None = None

    def read(self, name: str) -> np.ndarray | QuantTensor:
        """Reads one tensor."""
        return self.entries[name].read()

    def parts(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """Reads a float matrix in pieces of `rows` rows; see `TensorEntry.parts`."""
        entry = self.entries[name]
        if entry.parts is not None:
            return entry.parts(rows)
        whole = np.asarray(entry.read())
        return (whole[at : at + rows] for at in range(0, len(whole), rows))

    def tensors(self) -> Iterator[tuple[str, np.ndarray | QuantTensor]]:
        """Reads every tensor, one after another, in ascending name order."""
        for name in sorted(self.entries, key=str.encode):
            yield name, self.entries[name].read()

    def digest(self) -> Digest:
        """Digests of the ternary tensors; reads them one at a time."""
        builder = DigestBuilder()
        for name in sorted(self.entries, key=str.encode):
            if self.entries[name].ternary:
                tensor = self.entries[name].read()
                assert isinstance(tensor, QuantTensor)
                builder.add(name, tensor)
        return builder.result()

    def latent(self) -> dict[str, np.ndarray]:
        """The trainable float weights of every tensor.

        Raises:
          BadData: the source holds trits without the weights they came from.
        """
        out: dict[str, np.ndarray] = {}
        for name, entry in self.entries.items():
            if entry.ternary and entry.latent is None:
                raise BadData(
                    "model.no_latent",
                    f"`{self.source.path}` holds packed trits, not the weights they came from",
                    "train from a checkpoint that holds float weights (encoding `master` or "
                    "`latent`)",
                )
            value = entry.latent() if entry.latent is not None else entry.read()
            assert isinstance(value, np.ndarray)
            out[name] = value
        return out


def checkpoint_of(
    spec: ModelSpec,
    params: Mapping[str, Any],
    tokenizer: TokenizerFiles | None,
    source: Source,
    latent: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Builds a checkpoint from parameters in memory (arrays and `QuantTensor`s).

    Raises:
      BadData: they are not those that the spec asks for (``checkpoint.names``): one that is
        packed for its products and used otherwise too has two forms, and files hold one.
    """
    wanted = expected(spec)
    odd = sorted(params.keys() ^ wanted.keys())
    if odd:
        raise BadData(
            "checkpoint.names",
            f"the model's parameters and the table of its family `{spec.family}` differ in "
            + ", ".join(f"`{name}`" for name in odd[:5]),
            "a file holds one form of each: let a rule keep what is also used unpacked (`@dot`)",
        )
    entries: dict[str, TensorEntry] = {}
    for name, value in params.items():
        ternary = isinstance(value, QuantTensor)
        master = (latent or {}).get(name) if ternary else None
        entries[name] = TensorEntry(
            name=name,
            shape=tuple(value.shape),
            dtype=str(value.dtype),
            ternary=ternary,
            read=_host_reader(value),
            latent=None if master is None else _host_reader(master),
        )
    return Checkpoint(spec.validate(), entries, tokenizer, source)


def _host_reader(value: Any) -> Callable[[], Any]:
    def read() -> Any:
        if isinstance(value, QuantTensor):
            host = {"codes": np.asarray(value.codes), "scale": np.asarray(value.scale)}
            return QuantTensor(**{**vars(value), **host})
        return np.asarray(value)

    return read
