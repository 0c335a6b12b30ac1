"""The pre-tokenizers that llama.cpp knows by name: each name, and what it is in tokenizer.json.

A GGUF file says by one word how text is cut before the merges (``tokenizer.ggml.pre``), and an
engine that lacks the word, or has a wrong one, gives other tokens without an error. So the word
is found by what the tokenizer does, never by a model's name, and a tokenizer whose cut has no
word is refused. Rows are those of `llm_tokenizer_bpe` in llama.cpp's src/llama-vocab.cpp.
Data only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bitnet_jax.core.errors import BadData, CannotCreate, did_you_mean, shown
from bitnet_jax.formats.tokenizer_parts import PATTERN

_QWEN2 = PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def byte_level(use_regex: bool) -> dict[str, Any]:
    """The step that spells bytes as letters, with GPT-2's own cut or without."""
    return {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
        "use_regex": use_regex,
    }  # fmt: skip


@dataclass(frozen=True)
class PreTokenizer:
    """One row.

    Attributes:
      name: what is written.
      steps: the pre-tokenizer's steps, as tokenizer.json has them.
      ignore_merges: a piece that is a token is taken whole, whatever the merges.
      also: other names under which llama.cpp does the same.
      normalizer: what is done to a text first; llama.cpp does not do it.
    """

    name: str
    steps: tuple[Mapping[str, Any], ...]
    ignore_merges: bool = False
    also: tuple[str, ...] = ()
    normalizer: Mapping[str, Any] | None = None


PRE_TOKENIZERS: tuple[PreTokenizer, ...] = (
    PreTokenizer(
        "llama-bpe", (_split(PATTERN), byte_level(False)), ignore_merges=True,
        also=("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    ),
    PreTokenizer(
        "dbrx", (_split(PATTERN), byte_level(False)), also=("smaug-bpe",),
    ),
    PreTokenizer(
        "qwen2", (_split(_QWEN2), byte_level(False)), also=("deepseek-r1-qwen", "megrez"),
        normalizer={"type": "NFC"},
    ),
    PreTokenizer(
        "gpt-2", (byte_level(True),), also=("phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4"),
    ),
    PreTokenizer(
        "smollm", ({"type": "Digits", "individual_digits": True}, byte_level(True)),
        also=("starcoder", "refact", "command-r", "codeshell"),
    ),
)  # fmt: skip

# What a step means where tokenizer.json leaves a field out; other fields change no token.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ByteLevel": {"add_prefix_space": True, "use_regex": True},
    "Split": {"pattern": None, "behavior": None, "invert": False},
    "Digits": {"individual_digits": False},
}


def _flat(step: Any) -> Iterator[tuple[Any, ...]]:
    """The steps of a pre-tokenizer, each as what it does."""
    if not isinstance(step, Mapping):
        return
    if step.get("type") == "Sequence":
        for inner in step.get("pretokenizers") or []:
            yield from _flat(inner)
        return
    fields = _DEFAULTS.get(str(step.get("type")), step)
    values = {name: step.get(name, default) for name, default in fields.items()}
    yield step.get("type"), json.dumps(values, sort_keys=True)


def name_of(tokenizer: Mapping[str, Any]) -> tuple[PreTokenizer, str | None]:
    """The row of a byte-level BPE's tokenizer.json, and what llama.cpp does otherwise, in words.

    Raises:
      CannotCreate: llama.cpp has no word for it (``gguf.pre_tokenizer``).
    """
    found = tuple(_flat(tokenizer.get("pre_tokenizer")))
    ignores = bool(tokenizer["model"].get("ignore_merges", False))
    same = [
        row
        for row in PRE_TOKENIZERS
        if tuple(inner for step in row.steps for inner in _flat(step)) == found
    ]
    # Where only this differs, the other row gives the same tokens for every vocabulary whose
    # merges reach each of its tokens; which it is cannot be told here.
    exact = [row for row in same if row.ignore_merges == ignores]
    if not exact:
        kinds = ", ".join(str(step[0]) for step in found) or "none"
        raise CannotCreate(
            "gguf.pre_tokenizer",
            "llama.cpp has no name known here for this tokenizer's cut of a text before the merges "
            f"(steps: {kinds}; ignore_merges: {ignores}); under a wrong one it gives other tokens "
            "without an error",
            "keep it as --format bitnet; known cuts: "
            + ", ".join(row.name for row in PRE_TOKENIZERS),
        )
    return exact[0], _normalizer_note(tokenizer.get("normalizer"))


def _normalizer_note(normalizer: Any) -> str | None:
    if normalizer is None:
        return None
    kind = normalizer.get("type") if isinstance(normalizer, Mapping) else None
    if kind in ("NFC", "NFKC"):
        return (
            f"the tokenizer normalizes text ({kind}) before it cuts it; llama.cpp does not, so "
            "text that is not in that form gets other tokens there"
        )
    raise CannotCreate(
        "gguf.normalizer",
        f"the tokenizer changes text before it cuts it ({shown(kind)}), which llama.cpp would not",
        "keep it as --format bitnet",
    )


def by_name(name: Any, where: str) -> PreTokenizer:
    """The row that a file's word means.

    Raises:
      BadData: there is no word, or none that is known (``gguf.pre_tokenizer``).
    """
    for row in PRE_TOKENIZERS:
        if name in (row.name, *row.also):
            return row
    known = [n for row in PRE_TOKENIZERS for n in (row.name, *row.also)]
    if name is None or name == "default":
        raise BadData(
            "gguf.pre_tokenizer",
            f"{where}: tokenizer.ggml.pre is {'missing' if name is None else shown(name)}: how "
            "text is cut before the merges is not told, and a guess gives garbage (microsoft/"
            "BitNet#622)",
            "convert again from the original with a converter that writes it; known: "
            + ", ".join(known),
        )
    raise BadData(
        "gguf.pre_tokenizer",
        f"{where}: tokenizer.ggml.pre {shown(name)} is not known here",
        did_you_mean(str(name), known),
    )
