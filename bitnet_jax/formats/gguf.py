"""GGUF files to `Checkpoint` and back (docs/formats/gguf.md says what is written and refused).

The container knows keys and blocks; here they get a family's names and checks. Tensors pass
through one at a time, the ternary ones twice when writing: a header that comes first must say
where each scale is.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.gguf import GgufFile, open_gguf_file
from bitnet_jax.containers.gguf_blocks import FLOATS
from bitnet_jax.containers.gguf_types import TYPES
from bitnet_jax.containers.gguf_write import GgufWriter, Planned, Value
from bitnet_jax.core.errors import BadData, InternalError, few, nearest
from bitnet_jax.formats.checkpoint import Checkpoint, Source, TensorEntry
from bitnet_jax.formats.gguf_encoding import TERNARY, Encoding, choose_encoding
from bitnet_jax.formats.gguf_fused import groups, places, split
from bitnet_jax.formats.gguf_i2s import LayoutCheck
from bitnet_jax.formats.gguf_metadata import (
    ARCHITECTURE,
    SPEC,
    general_keys,
    read_metadata,
    read_spec,
    row_of,
    spec_keys,
)
from bitnet_jax.formats.gguf_name import NAME, name_notes
from bitnet_jax.formats.gguf_norms import kept_exactly, raised
from bitnet_jax.formats.gguf_rotary import interleave
from bitnet_jax.formats.gguf_table import Kept, read_table, scale_name, write_table
from bitnet_jax.formats.gguf_tokenizer import tokenizer_keys
from bitnet_jax.formats.gguf_tokenizer_read import read_tokenizer
from bitnet_jax.formats.gguf_weights_read import looks_ternary, read_float, read_ternary
from bitnet_jax.formats.gguf_weights_write import Form, encode_float, encode_ternary, plan_ternary
from bitnet_jax.formats.huggingface_weights import turned
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.gguf import Found
from bitnet_jax.models.names import Expected, gguf_names, unfused
from bitnet_jax.models.rope_gguf import FREQUENCIES
from bitnet_jax.quant.digest import Digest, DigestBuilder, PlainCodes
from bitnet_jax.quant.tensor import QuantTensor

DIGEST = "bitnet_jax.digest."
# The ``general.file_type`` of each type of the matrices (llama.cpp's enum; 40 is bitnet.cpp's).
_FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "I2_S": 40,
}  # fmt: skip
# Elements that pass through at a time: an embedding is the largest tensor there is.
_PIECE = 1 << 22
# Of a tensor that is none of the model's parameters.
_LARGEST_FURTHER = 1 << 20


# ------------------------------------------------------------------------------ reading
def open_gguf(path: Path, verify: bool = True) -> Checkpoint:
    """Opens a GGUF file: header, keys and names; reads no tensor.

    Args:
      verify: compare what files of this package state with what they hold, and look at the
        layout of I2_S tensors of others, when they are read.

    Raises:
      BadData: it is damaged, is of an architecture or type not known, or its parts do not fit
        together; the code says which.
    """
    file = open_gguf_file(path)
    where = f"`{path}`"
    embedding = file.tensors.get("token_embd.weight")
    rows = embedding.shape[0] if embedding is not None else 0
    tied = "output.weight" not in file.tensors
    spec = read_spec(_found(file, where), rows, tied)
    wanted = unfused(spec)
    tensors = gguf_names(spec)
    whole, file, names = file, split(file, tensors, wanted), places(tensors)
    _check_names(file, wanted, names, spec)
    ours = SPEC in file.metadata
    table = read_table(file.metadata, wanted, where)
    check = LayoutCheck(file, names, spec.num_layers)
    stated = {
        key: file.metadata[DIGEST + key]
        for key in ("trits", "trits_scales")
        if isinstance(file.metadata.get(DIGEST + key), str)
    }
    look = check if verify and not stated else lambda: None
    entries = {
        name: _entry(file, item, names[name], table.get(name), ours, spec, look)
        for name, item in wanted.items()
    }
    tokenizer, warnings = read_tokenizer(file.metadata, spec, ours, where)
    kinds = Counter(file.info(names[name]).type.name for name in entries if entries[name].ternary)
    if "I2_S" in kinds and not stated:
        warnings.append(
            f"{where}: I2_S names several layouts, and nothing in the file says which; it "
            "is read as bitnet.cpp's converter writes, unless the weights themselves show another"
        )
    if ours is False and file.metadata.get(ARCHITECTURE) == "bitnet" and _silent(file.metadata):
        warnings.append(
            f"{where}: no key bitnet.hidden_activation: taken as SiLU, as llama.cpp does; a 2B4T "
            "model in such a file is another one (microsoft/BitNet#588)"
        )
    detail = {
        "digests": stated,
        "architecture": file.metadata.get(ARCHITECTURE),
        "version": file.version,
        "types": dict(Counter(info.type.name for info in whole.tensors.values())),
    }
    source = Source(path, "gguf", _encoding(file, names, entries), detail)
    found = Checkpoint(spec, entries, tokenizer, source, tuple(warnings))
    return replace(found, metadata=read_metadata(found, file.metadata))


def _found(file: GgufFile, where: str) -> Found:
    """The file, as a family's row may look at it."""

    def read(name: str) -> np.ndarray:
        info = file.info(name)
        if info.type.name not in FLOATS or info.nbytes > _LARGEST_FURTHER:
            raise TensorError(
                "model.tensor_dtype",
                f"{where}: tensor `{name}` is {info.type.name} {list(info.shape)}; a short vector "
                "of floats was expected",
                "convert again from the original",
                tensor=name,
            )
        return file.read_bytes(name).view(FLOATS[info.type.name]).astype(np.float32)

    architecture = file.metadata.get(ARCHITECTURE)
    if not isinstance(architecture, str):
        raise BadData(
            "model.unknown_architecture",
            f"{where}: no key {ARCHITECTURE} says what it is",
            "is it a model's file, and whole?",
        )
    return Found(architecture, file.metadata, frozenset(file.tensors), read, where)


def _silent(metadata: Mapping[str, Any]) -> bool:
    return "bitnet.hidden_activation" not in metadata


def _ones(file: GgufFile, name: str) -> bool:
    """A tensor of factors that are all 1 says nothing."""
    return name in file.tensors and bool((_found(file, "").read(name) == 1).all())


def _check_names(
    file: GgufFile, wanted: Mapping[str, Expected], names: Mapping[str, str], spec: ModelSpec
) -> None:
    """The tensors must be those the spec asks for, no more and no less, each of its shape."""
    row = row_of(spec)
    scales = {
        scale_name(names[name])
        for name, item in wanted.items()
        if item.ternary and row.scales(name, spec)
    }
    known = {*names.values(), *scales, *row.tensors(spec)}
    known |= {name for name in (FREQUENCIES,) if _ones(file, name)}
    extra = [name for name in file.tensors if name not in known]
    for name, theirs in names.items():
        if theirs not in file.tensors:
            close = nearest(theirs, extra)
            raise TensorError(
                "model.missing_sub_norm" if "sub_norm" in name else "model.missing_tensor",
                f"`{file.path}` lacks tensor `{theirs}`, which its architecture has"
                + (f"; found instead: {few(close)}" if close else ""),
                "the converter that made it dropped it: convert again from the original",
                tensor=name,
            )
        info = file.info(theirs)
        if info.shape != wanted[name].file_shape:
            raise TensorError(
                "model.tensor_shape",
                f"`{file.path}`: tensor `{theirs}` is {list(info.shape)}; its keys ask for "
                f"{list(wanted[name].file_shape)}",
                "are keys and weights of one model?",
                tensor=name,
            )
        if info.type.name in TERNARY.values() and not wanted[name].ternary:
            raise TensorError(
                "model.tensor_dtype",
                f"`{file.path}`: tensor `{theirs}` is {info.type.name}, and no ternary matrix",
                "a converter quantized the embedding or the head: convert again from the original",
                tensor=name,
            )
    if extra:
        close = nearest(extra[0], known)
        raise TensorError(
            "model.unknown_tensor",
            f"`{file.path}` holds {len(extra)} tensors that its architecture has not: {few(extra)}",
            f"the nearest known: {few(close)}" if close else "is it of another architecture?",
            tensor=extra[0],
        )


def _entry(
    file: GgufFile,
    item: Expected,
    theirs: str,
    kept: Kept | None,
    ours: bool,
    spec: ModelSpec,
    look: Any,
) -> TensorEntry:
    stored = file.info(theirs).type.name
    # bitnet's matrices of llama.cpp have their scale in a tensor beside them.
    scale = file.tensors.get(scale_name(theirs)) if item.ternary else None
    nbytes = file.info(theirs).nbytes + (0 if scale is None else scale.nbytes)
    row = row_of(spec)
    heads, offset = row.heads(item.name, spec), row.offset(item.name)
    if item.ternary and stored in FLOATS:
        # A file of ours says it; of another, it shows.
        ternary = bool(kept and kept.scale_kind) if ours else looks_ternary(file, theirs)
    else:
        ternary = item.ternary and stored in TERNARY.values()
    dtype = kept.dtype if kept is not None else str(FLOATS.get(stored, np.dtype("<f4")))
    if not ternary:
        as_stored = stored in FLOATS and dtype == str(FLOATS[stored])
        plain = as_stored and heads is None and not item.transposed and len(item.shape) > 1
        return TensorEntry(
            item.name,
            item.shape,
            dtype,
            False,
            lambda: read_float(file, item, theirs, kept, heads, offset),
            parts=(lambda rows: file.parts(theirs, rows, FLOATS[stored])) if plain else None,
            stored_as=stored,
            nbytes=nbytes,
        )

    def read() -> QuantTensor:
        if stored == "I2_S":
            look()
        return read_ternary(file, item, theirs, kept, heads)

    return TensorEntry(item.name, item.shape, dtype, True, read, stored_as=stored, nbytes=nbytes)


def _encoding(file: GgufFile, names: Mapping[str, str], entries: Mapping[str, TensorEntry]) -> str:
    """The encoding of most matrices, with that of the embedding where it is not its own float."""
    some = [name for name, entry in entries.items() if entry.ternary] or [
        name for name, entry in entries.items() if len(entry.shape) > 1
    ]
    kinds = Counter(file.info(names[name]).type.name for name in some)
    base = kinds.most_common(1)[0][0].lower() if kinds else "f32"
    embedding = file.info(names["embed_tokens"]).type.name if "embed_tokens" in names else "F32"
    lossy = embedding not in FLOATS and embedding.lower() != base
    return f"{base}+{embedding.lower()}" if lossy else base


# ------------------------------------------------------------------------------ writing
@dataclass
class Written:
    """What was written.

    Attributes:
      digest: of what went in.
      warnings: what the user should know.
    """

    encoding: str
    digest: Digest
    warnings: list[str]


def write_gguf(checkpoint: Checkpoint, stream: BinaryIO, encoding: str | None = None) -> Written:
    """Writes `checkpoint` as a GGUF file; the same checkpoint gives the same bytes.

    Raises:
      UsageError, CannotCreate: as `choose_encoding`, `plan_ternary`, `encode_float` and
        `tokenizer_keys` and `name_notes`.
      BadData: the source gave other trits the second time (``gguf.source_changed``).
    """
    chosen = choose_encoding(checkpoint, encoding)
    words, notes = tokenizer_keys(checkpoint.spec, checkpoint.tokenizer)
    general = general_keys(checkpoint, chosen.architecture, _FILE_TYPES[chosen.matrix])
    notes += name_notes(general[NAME][1], checkpoint.tokenizer)
    forms, digest = _forms(checkpoint, chosen)
    plan = _plan(checkpoint, chosen, forms)
    metadata: dict[str, Value] = {
        **general,
        **spec_keys(checkpoint.spec, chosen.architecture),
        **words,
        **write_table(_kept(checkpoint, chosen, forms)),
        **{DIGEST + key: ("string", value) for key, value in digest.to_json().items()},
    }
    writer = GgufWriter(stream, metadata, plan)
    again, rounded = _write_tensors(checkpoint, chosen, forms, writer)
    if again != digest:
        raise BadData(
            "gguf.source_changed",
            f"`{checkpoint.source.path}` gave other weights when it was read a second time",
            "something is writing it: wait for that, then convert again",
        )
    warnings = [*chosen.warnings, *notes]
    if rounded:
        types = ", ".join(sorted({chosen.types[name] for name in rounded}))
        warnings.append(f"{len(rounded)} tensors of floats were rounded to {types}: {few(rounded)}")
    return Written(chosen.name, digest, warnings)


def check_gguf(checkpoint: Checkpoint, encoding: str | None) -> None:
    """Raises what `write_gguf` would for the model's kind, names and tokenizer; reads no tensor."""
    chosen = choose_encoding(checkpoint, encoding)
    tokenizer_keys(checkpoint.spec, checkpoint.tokenizer)
    general = general_keys(checkpoint, chosen.architecture, _FILE_TYPES[chosen.matrix])
    name_notes(general[NAME][1], checkpoint.tokenizer)


def _order(checkpoint: Checkpoint) -> list[str]:
    """The order of the file, which is that of the digest."""
    return sorted(checkpoint.entries, key=str.encode)


def _ternary(checkpoint: Checkpoint, name: str) -> QuantTensor:
    value = checkpoint.entries[name].read()
    if not isinstance(value, QuantTensor):
        raise InternalError("gguf.entry", f"`{name}` said it was ternary, and is not")
    return value


def _forms(checkpoint: Checkpoint, chosen: Encoding) -> tuple[dict[str, Form], Digest]:
    """How each ternary tensor will be stored, and the digest of all."""
    # bitnet.cpp's own type has the exact scale, and its engine no tensor for another.
    bitnet_cpp = chosen.name.startswith("i2_s")
    row = row_of(checkpoint.spec)
    forms: dict[str, Form] = {}
    builder = DigestBuilder()
    for name in _order(checkpoint):
        if checkpoint.entries[name].ternary:
            tensor = _ternary(checkpoint, name)
            builder.add(name, tensor)
            outer = not bitnet_cpp and row.scales(name, checkpoint.spec)
            forms[name] = plan_ternary(name, tensor, chosen.types[name], outer)
    return forms, builder.result()


def _kept(checkpoint: Checkpoint, chosen: Encoding, forms: Mapping[str, Form]) -> dict[str, Kept]:
    """What the table must say: of every ternary tensor, and of floats that are not kept so."""
    found = {name: form.kept for name, form in forms.items()}
    row = row_of(checkpoint.spec)
    for name, entry in checkpoint.entries.items():
        if name in forms:
            continue
        offset, exact = row.offset(name), None
        if offset:
            exact = kept_exactly(np.asarray(entry.read()), offset)
        if exact is not None or entry.dtype != str(FLOATS.get(chosen.types[name])):
            found[name] = Kept(entry.dtype, scale=exact)
    return found


def _plan(checkpoint: Checkpoint, chosen: Encoding, forms: Mapping[str, Form]) -> list[Planned]:
    wanted, names = unfused(checkpoint.spec), gguf_names(checkpoint.spec)
    plan = []
    for tensor, parts in groups(names, _order(checkpoint)).items():
        shapes = [wanted[name].file_shape for name in parts]
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        plan.append(Planned(tensor, TYPES[chosen.types[parts[0]]], shape))
        if parts[0] in forms and forms[parts[0]].outer is not None:
            plan.append(Planned(scale_name(tensor), TYPES["F32"], (1,)))
    for name, value in row_of(checkpoint.spec).tensors(checkpoint.spec).items():
        plan.append(Planned(name, TYPES["F32"], value.shape))
    return plan


def _float_parts(checkpoint: Checkpoint, item: Expected, heads: int | None) -> Iterator[np.ndarray]:
    """A float parameter as the file has it; what needs no turning comes some rows at a time."""
    if len(item.shape) == 2 and not item.transposed and heads is None:
        rows = max(1, _PIECE // item.shape[1])
        yield from checkpoint.parts(item.name, rows)
        return
    value = turned(item, np.asarray(checkpoint.entries[item.name].read()))
    yield interleave(value, heads) if heads is not None else value


class _Again:
    """The digest of what is written, whose order is not that of the parts of one tensor."""

    def __init__(self, names: Iterable[str]) -> None:
        self._left = deque(names)
        self._early: dict[str, PlainCodes] = {}
        self._builder = DigestBuilder()

    def add(self, name: str, tensor: QuantTensor) -> None:
        """Adds a tensor, at once or when those before it have come."""
        self._early[name] = PlainCodes.of(tensor)
        while self._left and self._left[0] in self._early:
            due = self._left.popleft()
            self._builder.add_plain(due, self._early.pop(due))

    def result(self) -> Digest:
        """The digest, when all have come."""
        return self._builder.result()


def _write_tensors(
    checkpoint: Checkpoint, chosen: Encoding, forms: Mapping[str, Form], writer: GgufWriter
) -> tuple[Digest, list[str]]:
    """Writes every tensor; returns the digest of what went in, and the floats that were rounded."""
    spec = checkpoint.spec
    wanted, row = unfused(spec), row_of(spec)
    again = _Again(forms)
    rounded: list[str] = []

    def pieces(name: str) -> Iterator[np.ndarray]:
        heads = row.heads(name, spec)
        if name in forms:
            tensor = _ternary(checkpoint, name)
            again.add(name, tensor)
            yield encode_ternary(tensor, forms[name], heads)
            return
        offset, kind = row.offset(name), chosen.types[name]
        for value in _float_parts(checkpoint, wanted[name], heads):
            data, exact = encode_float(name, value, kind)
            if offset:  # what this sum rounds is in the table
                data, _ = encode_float(name, raised(value, offset), kind)
            if not exact and name not in rounded:
                rounded.append(name)
            yield data

    for tensor, parts in groups(gguf_names(spec), _order(checkpoint)).items():
        writer.write_pieces(tensor, (piece for name in parts for piece in pieces(name)))
        form = forms.get(parts[0])
        if form is not None and form.outer is not None:
            writer.write(scale_name(tensor), np.array([form.outer], "<f4"))
    for name, value in row.tensors(spec).items():
        writer.write(name, value.astype("<f4"))
    return again.result(), rounded
