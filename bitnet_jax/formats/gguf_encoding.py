"""What a GGUF file's tensors are stored in: what was asked, or what can hold the model.

Decides from names and shapes alone; writes nothing. An encoding is the type of the ternary
matrices (of all matrices, in a model of floats), and after a `+` that of embedding and head
where it is not their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitnet_jax.containers.gguf_types import TYPES
from bitnet_jax.core.errors import CannotCreate, UsageError, did_you_mean, few
from bitnet_jax.formats.checkpoint import Checkpoint, TensorEntry
from bitnet_jax.formats.gguf_fused import groups
from bitnet_jax.formats.gguf_metadata import row_of
from bitnet_jax.models.names import gguf_names, unfused

# Types of trits, the one that is written unless another is asked for first.
TERNARY = {"tq2_0": "TQ2_0", "tq1_0": "TQ1_0", "i2_s": "I2_S"}
FLOAT = {"f32": "F32", "bf16": "BF16", "f16": "F16"}
LOSSY = {"q8_0": "Q8_0", "q4_0": "Q4_0"}
_MATRIX = {**TERNARY, **FLOAT, **LOSSY}
# Of the embedding and the head, after a `+`.
EMBEDDING = {**FLOAT, **LOSSY}
ENCODINGS: tuple[str, ...] = (
    *TERNARY,
    *FLOAT,
    *LOSSY,
    *(f"{name}+{other}" for name in (*TERNARY, "f32") for other in EMBEDDING if other != name),
)
_TYPE_OF = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F32"}


@dataclass(frozen=True)
class Encoding:
    """What was chosen.

    Attributes:
      name: as in `ENCODINGS`.
      architecture: what the file says it is.
      types: canonical name -> the key of `gguf_types.TYPES`.
      warnings: what the user should know.
    """

    name: str
    architecture: str
    types: dict[str, str]
    warnings: tuple[str, ...]

    @property
    def matrix(self) -> str:
        """The type of most matrices."""
        return _MATRIX[self.name.split("+")[0]]


def choose_encoding(checkpoint: Checkpoint, asked: str | None) -> Encoding:
    """Resolves None to what can be written, and gives each tensor its type.

    Raises:
      UsageError: `asked` is no encoding of this format (``format.encoding``).
      CannotCreate: it would not hold the model exactly, or the format has no such model:
        ``gguf.block``, ``gguf.encoding``, ``gguf.architecture``, ``gguf.family``.
    """
    if asked is not None and asked not in ENCODINGS:
        raise UsageError(
            "format.encoding",
            f"encoding `{asked}` is not one of the gguf format",
            did_you_mean(asked, ENCODINGS),
        )
    spec, row = checkpoint.spec, row_of(checkpoint.spec)
    reason = row.refuses(spec)
    if reason is not None:
        raise CannotCreate(
            "gguf.architecture",
            f"this model cannot be a GGUF file of architecture `{row.architecture}`: {reason}",
            "keep it as --format bitnet",
        )
    name, warnings = _resolve(checkpoint, asked)
    architecture = row.architecture
    if name.startswith("i2_s"):
        if row.i2s is None:
            raise CannotCreate(
                "gguf.encoding",
                f"bitnet.cpp, whose own I2_S is, has no architecture for family `{spec.family}`",
                "use --encoding tq2_0",
            )
        architecture = row.i2s(spec)
        warnings.append(
            "I2_S is bitnet.cpp's: llama.cpp refuses it, and on ARM bitnet.cpp's kernels may read "
            "another layout than its converter writes (microsoft/BitNet#585, #598)"
        )
    told = row.warns(spec)
    if told is not None:
        warnings.append(told)
    return Encoding(name, architecture, _types(checkpoint, name), tuple(warnings))


def _resolve(checkpoint: Checkpoint, asked: str | None) -> tuple[str, list[str]]:
    """The encoding's name; that it can hold the model has been checked."""
    wanted = unfused(checkpoint.spec)
    widths = {
        name: wanted[name].file_shape[-1]
        for name, entry in checkpoint.entries.items()
        if entry.ternary
    }
    fitting = [
        n for n, t in TERNARY.items() if all(w % TYPES[t].block == 0 for w in widths.values())
    ]
    if asked is None:
        found = checkpoint.source.encoding if checkpoint.source.format == "gguf" else None
        if found in ENCODINGS and found.split("+")[0] in (fitting if widths else ENCODINGS):
            return str(found), []
        if not widths:
            return _own_floats(checkpoint), []
        best = next((name for name in fitting if name != "i2_s"), None)
        if best is not None:
            return best, []
        return "f32", [
            f"{_narrow(widths, 256)}: no block of ternary weights that llama.cpp has fits, so they "
            "are written as f32, sixteen times as large; the trits and scales are the same"
        ]
    base = asked.split("+")[0]
    if not widths:
        if base in TERNARY:
            raise CannotCreate(
                "gguf.encoding",
                f"`{checkpoint.source.path}` is a model of floats; {base} holds trits only, and a "
                "converter that rounds floats to them by their maximum destroys the model",
                "make it ternary first (`bitnet train qat`), or use --encoding f16",
            )
        return asked, []
    if base in LOSSY:
        raise CannotCreate(
            "gguf.encoding",
            f"{base} does not hold ternary weights exactly",
            "use --encoding " + " or ".join(fitting or ["f32"]),
        )
    if base in TERNARY and base not in fitting:
        block = TYPES[TERNARY[base]].block
        raise CannotCreate(
            "gguf.block",
            f"{_narrow(widths, block)}, and {base} has blocks of {block}",
            "encodings that fit: " + ", ".join([*fitting, *FLOAT]),
        )
    return asked, []


def _narrow(widths: dict[str, int], block: int) -> str:
    odd = [name for name, width in widths.items() if width % block]
    return f"{len(odd)} matrices have rows that are no multiple of {block}: " + few(
        [f"{name} ({widths[name]})" for name in odd]
    )


def _own_floats(checkpoint: Checkpoint) -> str:
    """The type that most of the matrices have already."""
    counts: dict[str, int] = {}
    for entry in checkpoint.entries.values():
        if len(entry.shape) > 1:
            kind = _TYPE_OF.get(entry.dtype, "F32")
            counts[kind] = counts.get(kind, 0) + 1
    best = max(counts, key=lambda kind: counts[kind]) if counts else "F32"
    return next(name for name, kind in FLOAT.items() if kind == best)


def _types(checkpoint: Checkpoint, name: str) -> dict[str, str]:
    base, _, embedding = name.partition("+")
    matrix = _MATRIX[base]
    ternary = any(entry.ternary for entry in checkpoint.entries.values())
    found: dict[str, str] = {}
    for entry in checkpoint.entries.values():
        kind = matrix if entry.ternary else _float_type(entry, matrix, embedding, ternary)
        if len(entry.shape) > 1 and entry.shape[-1] % TYPES[kind].block:
            raise CannotCreate(
                "gguf.block",
                f"`{entry.name}` has rows of {entry.shape[-1]}, and {kind} blocks of "
                f"{TYPES[kind].block}",
                "use f16, bf16 or f32 for it",
            )
        found[entry.name] = kind
    return _agreed(checkpoint, found)


def _agreed(checkpoint: Checkpoint, found: dict[str, str]) -> dict[str, str]:
    """The types, those of the parts of one tensor alike: floats of several are widened."""
    for tensor, parts in groups(gguf_names(checkpoint.spec), found).items():
        kinds = sorted({found[name] for name in parts})
        if len(kinds) == 1:
            continue
        if not {*kinds} <= {*FLOAT.values()}:
            raise CannotCreate(
                "gguf.fused",
                f"{', '.join(parts)} are one tensor in a GGUF file, `{tensor}`, and would be "
                f"{' and '.join(kinds)}: some of them are ternary, others not",
                "use --encoding f32, or quantize all of them or none",
            )
        found |= dict.fromkeys(parts, "F32")
    return found


def _float_type(entry: TensorEntry, matrix: str, embedding: str, ternary: bool) -> str:
    """A vector is always F32: llama.cpp has it no other way."""
    if len(entry.shape) < 2:
        return "F32"
    if embedding and entry.name in ("embed_tokens", "lm_head"):
        return EMBEDDING[embedding]
    return _TYPE_OF.get(entry.dtype, "F32") if ternary else matrix
