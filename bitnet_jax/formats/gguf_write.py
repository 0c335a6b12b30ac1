"""`Checkpoint` to GGUF files (docs/formats/gguf.md says what is written and refused).

Tensors pass through one at a time, the ternary ones twice: a header that comes first must say
where each scale is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from bitnet_jax.containers.gguf_blocks import FLOATS
from bitnet_jax.containers.gguf_types import TYPES
from bitnet_jax.containers.gguf_write import GgufWriter, Planned, Value
from bitnet_jax.core.errors import BadData, InternalError, few
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.gguf_encoding import Encoding, choose_encoding
from bitnet_jax.formats.gguf_fused import groups
from bitnet_jax.formats.gguf_metadata import (
    DIGEST,
    general_keys,
    row_of,
    spec_keys,
)
from bitnet_jax.formats.gguf_name import NAME, name_notes
from bitnet_jax.formats.gguf_norms import kept_exactly, raised
from bitnet_jax.formats.gguf_rotary import interleave
from bitnet_jax.formats.gguf_table import Kept, scale_name, write_table
from bitnet_jax.formats.gguf_tokenizer import tokenizer_keys
from bitnet_jax.formats.gguf_weights_write import Form, encode_float, encode_ternary, plan_ternary
from bitnet_jax.formats.huggingface_weights import turned
from bitnet_jax.models.names import Expected, gguf_names, unfused
from bitnet_jax.quant.digest import Digest, DigestBuilder, PlainCodes
from bitnet_jax.quant.tensor import QuantTensor

# The ``general.file_type`` of each type of the matrices (llama.cpp's enum; 40 is bitnet.cpp's).
_FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "I2_S": 40,
}  # fmt: skip
# Elements that pass through at a time: an embedding is the largest tensor there is.
_PIECE = 1 << 22


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
