"""White space after special tokens, which llama.cpp takes away by the model's name.

No key of a GGUF file says it. Where ``general.name`` has Phi-3 in it, `llama_vocab::impl::load`
strips what follows every special token but three, and asks the vocabulary for tokens of Phi-3's:
one without them is not loaded at all. In models of other names it strips nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bitnet_jax.core.errors import CannotCreate, few, shown
from bitnet_jax.formats.checkpoint import TokenizerFiles
from bitnet_jax.formats.gguf_tokenizer import parse

NAME = "general.name"
_WORDS = ("phi-3", "phi3")
_NEVER = ("<unk>", "<s>", "<|endoftext|>")
_ASKED = ("</s>", *_NEVER)


def strips(name: Any) -> bool:
    """Whether llama.cpp takes a model of that name for a Phi-3."""
    return isinstance(name, str) and any(word in name.lower() for word in _WORDS)


def strips_after(token: str, name: Any) -> bool:
    """Whether llama.cpp takes away white space after this special token."""
    return strips(name) and token not in _NEVER


def _lacks(tokens: Collection[str]) -> list[str]:
    return [token for token in _ASKED if token not in tokens]


def _tokens(raw: Mapping[str, Any]) -> set[str]:
    return {*raw["model"]["vocab"], *(row["content"] for row in raw.get("added_tokens") or [])}


def _others(raw: Mapping[str, Any], name: Any) -> list[str]:
    """The added tokens around which llama.cpp does otherwise than the tokenizer."""
    return [
        row["content"]
        for row in raw.get("added_tokens") or []
        if bool(row.get("rstrip")) != strips_after(row["content"], name) or row.get("lstrip")
    ]


def fitting(name: str, files: TokenizerFiles | None) -> str:
    """A name made up for a model, spelled so that llama.cpp does as its tokenizer does."""
    if files is None or not strips(name):
        return name
    raw = parse(files)
    if not _lacks(_tokens(raw)) and not _others(raw, name):
        return name
    for word in _WORDS:
        name = name.replace(word, "phi 3")
    return name


def name_notes(name: Any, files: TokenizerFiles | None) -> list[str]:
    """What the user should know of a model of that name.

    Raises:
      CannotCreate: llama.cpp would not load it (``gguf.model_name``).
    """
    if files is None:
        return []
    raw = parse(files)
    lacks = _lacks(_tokens(raw))
    if strips(name) and lacks:
        raise CannotCreate(
            "gguf.model_name",
            f"{NAME} is {shown(name)}: llama.cpp takes a model of that name for a Phi-3, and does "
            f"not load it without the tokens {few(lacks)}",
            f"give it another name: `bitnet model edit IN -o OUT --set {NAME}=…`",
        )
    others = _others(raw, name)
    if not others:
        return []
    return [
        f"white space beside {few(others)}: llama.cpp takes it away after the special tokens of "
        f"models called phi-3, and in no others ({NAME} is {shown(name)}); this tokenizer does "
        "otherwise, so text with white space there gets other tokens in llama.cpp"
    ]
