"""Where a model will run: each engine, how (exactly, changed, wrongly, refused), and why.

A table of rows for each engine: the first that fits tells. Rows of engines that can be installed
beside us are held against what those really do (`tests/e2e/test_runs_in.py`); the others say what
their projects' sources and users report. Both were looked at in November 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.save import ONNX_PROFILES
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import gemma3_gguf
from bitnet_jax.models.families import FAMILIES, family_of
from bitnet_jax.quant.tensor import TERNARY

SEEN = "2026-11"
EXACTLY, CHANGED, WRONGLY, REFUSED = "exactly", "as W1.58A16", "wrongly", "refused"
UNKNOWN = "unknown"
RUN, REPORTED = "run", "reported"


@dataclass(frozen=True)
class Facts:
    """What the verdicts depend on.

    Attributes:
      weights: how ternary weights are stored, without what is said of the embedding.
      ternary: the model has ternary weights.
      known: transformers has this very architecture.
      taken_for: the `model_type` of another architecture of transformers that its config names.
      linear_class: of a packed checkpoint of transformers: which way its scales work.
      architecture: what a GGUF file says it is.
      narrow: its ternary weights stand for bfloat16 ones.
      no_folder: why no folder for transformers is written of it, in words.
      no_gguf: why no GGUF file is.
      refused_there: why transformers opens no GGUF file of it, though it knows the architecture.
      unread_there: what transformers does not read from a GGUF file of it, and takes otherwise.
    """

    format: str
    weights: str
    ternary: bool
    relu2: bool
    known: bool
    taken_for: str | None
    linear_class: str | None
    architecture: str
    narrow: bool
    no_folder: str | None
    no_gguf: str | None
    refused_there: str | None
    unread_there: str | None

    @classmethod
    def of(cls, checkpoint: Checkpoint, kinds: Collection[str]) -> Facts:
        """Reads no tensor: `kinds` are those of its codes."""
        spec = checkpoint.spec
        ternary = [entry for entry in checkpoint.entries.values() if entry.ternary]
        huggingface = family_of(spec.family).huggingface
        known = huggingface is not None and huggingface.in_transformers
        theirs = {
            row.huggingface.model_type
            for row in FAMILIES.values()
            if row.huggingface is not None and row.huggingface.in_transformers
        }
        architecture = str(checkpoint.source.detail.get("architecture") or "")
        kind = huggingface.model_type if huggingface is not None else None
        return cls(
            checkpoint.source.format,
            checkpoint.source.encoding.partition("+")[0],
            bool(ternary),
            spec.activation == "relu2",
            known,
            kind if not known and kind in theirs else None,
            checkpoint.source.detail.get("linear_class"),
            architecture,
            bool(ternary) and ternary[0].dtype == "bfloat16",
            _integers(kinds),
            _integers(kinds) or _no_gguf(spec),
            _first(_REFUSED_THERE.get(architecture, ()), spec),
            _first((_positions, *_UNREAD_THERE.get(architecture, ())), spec),
        )


def _integers(kinds: Collection[str]) -> str | None:
    """Files of others hold ternary matrices and floats."""
    other = sorted({*kinds} - {TERNARY})
    return f"matrices of it are {', '.join(other)}, which such files do not hold" if other else None


def _no_gguf(spec: ModelSpec) -> str | None:
    row = family_of(spec.family).gguf
    if row is None:
        return f"family `{spec.family}` is not one that is written in them"
    return row.refuses(spec)


_Reason = Callable[[ModelSpec], str | None]


def _first(rows: Iterable[_Reason], spec: ModelSpec) -> str | None:
    return next((said for row in rows if (said := row(spec)) is not None), None)


def _when(wrong: Callable[[ModelSpec], bool], what: str) -> _Reason:
    return lambda spec: what if wrong(spec) else None


# What transformers (5.23, `integrations/ggml.py`) does with GGUF files of the architectures that
# are written here and that it opens. What it has no key for is the default of its config: of
# `llama` it takes the width of a head from `rope.dimension_count`, of `gemma3` from
# `attention.key_length`, of the others from no key.
_HEADS = "how wide a head is"
_REFUSED_THERE: Mapping[str, tuple[_Reason, ...]] = {
    "llama": (),
    "qwen2": (_when(lambda s: s.head_dim * s.num_heads != s.hidden_size, _HEADS),),
    "qwen3": (_when(lambda s: s.head_dim != 128, _HEADS),),
    "phi3": (
        _when(
            lambda s: s.pad_token_id is None and s.vocab_size <= 32000,
            "a padding token (32000 is its default, and this vocabulary is smaller)",
        ),
    ),
    "gemma3": (),
}
_positions = _when(
    lambda s: s.extra.get("rope_type", "default") != "default", "how its positions are scaled"
)
_UNREAD_THERE: Mapping[str, tuple[_Reason, ...]] = {
    "phi3": (_when(lambda s: s.extra["rotary_share"] != 1, "how much of a head is turned"),),
    "gemma3": (
        _when(lambda s: s.extra["query_pre_attn_scalar"] != 256, "the scale of its attention"),
        _when(
            lambda s: gemma3_gguf.period_of(s) != 6 or not s.extra["sliding_window"],
            "which of its layers have a window",
        ),
        _when(
            lambda s: s.extra["local_rope_theta"] != 10000.0,
            "the rotary base of layers with a window",
        ),
    ),
}


@dataclass(frozen=True)
class Row:
    """A verdict, where it holds; `{engine}` and others in `reason` are filled by `runs_in`."""

    when: Callable[[Facts], bool]
    how: str
    reason: str


@dataclass(frozen=True)
class Engine:
    """An engine's rows; the last one takes everything.

    Attributes:
      known_by: `RUN`: held against the real one by our tests; `REPORTED`.
    """

    known_by: str
    rows: tuple[Row, ...]


def _always(facts: Facts) -> bool:
    return True


def _is(*formats: str) -> Callable[[Facts], bool]:
    return lambda facts: facts.format in formats


def _nobody_knows(facts: Facts) -> bool:
    """A family that only its plugin has."""
    return not facts.known and facts.taken_for is None


def _autobitlinear(facts: Facts) -> bool:
    return (facts.format, facts.weights, facts.linear_class) == (
        "huggingface", "packed", "autobitlinear",
    )  # fmt: skip


_NO_FAMILY = Row(_nobody_knows, REFUSED, "{engine} has no architecture for the family `{family}`")
# Of what this package cannot write as one, whatever the file.
_NO_FOLDER = Row(
    lambda facts: facts.no_folder is not None,
    REFUSED,
    "another file format, and this model is not written as it: {no_folder}",
)
_OTHER_HF = Row(
    _always, REFUSED, "another file format: `bitnet model convert … --format huggingface`"
)
_NO_GGUF = Row(
    lambda facts: facts.no_gguf is not None,
    REFUSED,
    "it reads GGUF files only, and this model is not written as one: {no_gguf}",
)
_OTHER_GGUF = Row(
    _always, REFUSED, "it reads GGUF files only: `bitnet model convert … --format gguf`"
)
_FLOAT_ACTIVATIONS = (
    "weights are exact; activations stay float, where the model rounds them to 8 bits"
)

ENGINES: dict[str, Engine] = {
    "bitnet-jax": Engine(RUN, (Row(_always, EXACTLY, "this package"),)),
    "transformers": Engine(
        RUN,
        (
            _NO_FAMILY,
            Row(
                lambda f: f.format == "huggingface" and f.taken_for is not None,
                WRONGLY,
                "its AutoModel goes by `model_type: {taken_for}` and leaves out what that has not "
                "(the sub-norms); the architecture needs code that is not in transformers",
            ),
            Row(
                lambda f: _autobitlinear(f) and f.narrow,
                EXACTLY,
                "in bfloat16 only: loading packed `autobitlinear` as float32 raises",
            ),
            Row(
                _autobitlinear,
                EXACTLY,
                "in float32 only: loading packed `autobitlinear` of float32 as bfloat16 raises",
            ),
            Row(_is("huggingface"), EXACTLY, "in float32; bfloat16 rounds activations differently"),
            Row(
                lambda f: f.format == "gguf" and f.architecture not in _REFUSED_THERE,
                REFUSED,
                "it reads no GGUF file of this architecture",
            ),
            Row(
                lambda f: f.format == "gguf" and f.refused_there is not None,
                REFUSED,
                "from a GGUF file of this architecture it does not read {refused_there}, and takes "
                "another: `bitnet model convert … --format huggingface`",
            ),
            Row(
                lambda f: f.format == "gguf" and f.unread_there is not None,
                WRONGLY,
                "from a GGUF file of this architecture it does not read {unread_there}, and takes "
                "the usual: `bitnet model convert … --format huggingface`",
            ),
            Row(
                lambda f: f.format == "gguf" and f.ternary,
                CHANGED,
                f"by gguf_file=…, which makes floats of it: {_FLOAT_ACTIVATIONS}",
            ),
            Row(_is("gguf"), EXACTLY, "by gguf_file=…, in float32"),
            _NO_FOLDER,
            _OTHER_HF,
        ),
    ),
    "llama.cpp": Engine(
        RUN,
        (
            Row(
                lambda f: f.format == "gguf" and f.weights.startswith("i2_s"),
                REFUSED,
                "I2_S is bitnet.cpp's own type: use --encoding tq2_0",
            ),
            Row(
                lambda f: f.format == "gguf" and f.relu2,
                WRONGLY,
                "its `bitnet` architecture runs SiLU where the model has squared ReLU",
            ),
            Row(
                lambda f: f.format == "gguf" and f.ternary and f.weights.startswith("tq"),
                CHANGED,
                "activations are rounded to 8 bits by 256 of them, where the model rounds whole "
                "tokens; the key-value cache is float16",
            ),
            Row(
                lambda f: f.format == "gguf" and f.ternary,
                CHANGED,
                f"{_FLOAT_ACTIVATIONS}; the key-value cache is float16",
            ),
            Row(_is("gguf"), EXACTLY, "but for its float16 key-value cache"),
            _NO_FAMILY,
            Row(
                lambda f: f.relu2,
                REFUSED,
                "it reads GGUF files only; from one, {engine} would run SiLU where the model has "
                "squared ReLU",
            ),
            _NO_GGUF,
            _OTHER_GGUF,
        ),
    ),
    "bitnet.cpp": Engine(
        REPORTED,
        (
            Row(
                lambda f: f.format == "gguf" and f.relu2,
                WRONGLY,
                "its current fork of llama.cpp runs SiLU where the model has squared ReLU; that "
                "of May 2025 was right",
            ),
            Row(_is("gguf"), UNKNOWN, "not tried: it has no package to install"),
            _NO_FAMILY,
            Row(
                lambda f: f.relu2,
                REFUSED,
                "it reads GGUF files only; from one, its current fork of llama.cpp would run SiLU "
                "where the model has squared ReLU",
            ),
            _NO_GGUF,
            _OTHER_GGUF,
        ),
    ),
    "ONNX Runtime": Engine(
        RUN,
        (
            Row(
                lambda f: f.format == "onnx" and f.weights == "inference" and f.ternary,
                CHANGED,
                "its MatMulNBits rounds activations to 8 bits by blocks, where the model rounds "
                "whole tokens; the export's record states by how much",
            ),
            Row(
                lambda f: f.format == "onnx" and f.weights in ONNX_PROFILES,
                EXACTLY,
                "by the parity rules, in float32",
            ),
            Row(_is("onnx"), UNKNOWN, "another exporter's graph: not tried"),
            Row(_always, REFUSED, "it reads ONNX files only: `bitnet model export`"),
        ),
    ),
    "mlx-lm": Engine(
        REPORTED,
        (
            _NO_FAMILY,
            Row(
                lambda f: f.format == "huggingface" and f.weights == "packed" and f.known,
                CHANGED,
                "activations stay 16-bit; the model was trained with int8 ones",
            ),
            Row(_is("huggingface"), UNKNOWN, "reports speak of packed files only"),
            _NO_FOLDER,
            _OTHER_HF,
        ),
    ),
}


def runs_in(checkpoint: Checkpoint, kinds: Collection[str] = (TERNARY,)) -> list[dict[str, str]]:
    """A row per engine: `engine`, `how`, `reason`, `known_by`, `seen` (year and month).

    Args:
      kinds: of the codes of its matrices (`quant.kinds`), as reading them shows.
    """
    facts = Facts.of(checkpoint, kinds)
    rows = []
    for name, engine in ENGINES.items():
        row = next(row for row in engine.rows if row.when(facts))
        words = {
            "engine": name,
            "family": checkpoint.spec.family,
            "taken_for": facts.taken_for,
            "no_folder": facts.no_folder,
            "no_gguf": facts.no_gguf,
            "refused_there": facts.refused_there,
            "unread_there": facts.unread_there,
        }
        reason = row.reason.format(**words)
        rows.append(
            {
                "engine": name,
                "how": row.how,
                "reason": reason,
                "known_by": engine.known_by,
                "seen": SEEN,
            }
        )
    return rows
