"""Tokenizers of every structure that a GGUF file has a word for, small ones, trained here."""

from __future__ import annotations

import functools
import json
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from bitnet_jax.formats.checkpoint import TokenizerFiles
from bitnet_jax.formats.tokenizer_parts import PATTERN
from tests.runtime.vocabularies import TEXT

SIZE = 640
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
CORPUS = [
    *TEXT,
    "don't I'LL we've 12345 3.14 a1b2",
    "été naïve façade русский текст 你好，世界 🙂",
    "def f(x):\n    return x**2  # ok\n\n\tself.items[0] += 1",
    "the them then there",
]


def _steps(kind: str) -> Any:
    def split(pattern: str) -> Any:
        return pre_tokenizers.Split(Regex(pattern), "isolated")

    def bytes_(use_regex: bool) -> Any:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)

    return {
        "llama-bpe": [split(PATTERN), bytes_(False)],
        "dbrx": [split(PATTERN), bytes_(False)],
        "qwen2": [split(PATTERN.replace("{1,3}", "")), bytes_(False)],
        "gpt-2": [bytes_(True)],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), bytes_(True)],
    }[kind]


BYTE_LEVEL = ("llama-bpe", "dbrx", "qwen2", "gpt-2", "smollm")
SENTENCEPIECE = ("llama", "llama without a space first", "gemma", "phi3", "llama, metaspace")
# What Phi-3's tokenizer does with white space after its special tokens.
PHI3 = {"</s>": True, "<unk>": False, "<s>": False, "<|endoftext|>": False, "<|user|>": True}


@functools.cache
def tokenizer_json(kind: str) -> str:
    """The tokenizer.json of one kind; ids 0 to 2 are the special tokens."""
    return _byte_level(kind) if kind in BYTE_LEVEL else _sentencepiece(kind)


def _byte_level(kind: str) -> str:
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_steps(kind))
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    tokenizer.add_tokens(["<tool>"])
    if kind != "qwen2":
        tokenizer.post_processor = TemplateProcessing(
            single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], 0)]
        )
    return tokenizer.to_str()


def _sentencepiece(kind: str) -> str:
    """BPE with byte fallback, its merges in the order of a SentencePiece vocabulary's scores."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    trained.train_from_iterator([f"▁{line}" for line in CORPUS] * 4, trainer)
    found = json.loads(trained.to_str())["model"]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [word for word in found["vocab"] if word not in words]
    special = words[:3]
    if kind == "phi3":
        special += ["<|endoftext|>", "<|user|>"]
        words += special[3:]
    document = json.loads(Tokenizer(models.BPE({"<unk>": 0}, [], unk_token="<unk>")).to_str())
    document["model"] |= {
        "byte_fallback": True, "fuse_unk": True, "merges": found["merges"],
        "vocab": {word: id_ for id_, word in enumerate(words)},
    }  # fmt: skip
    document["added_tokens"] = [
        {"id": words.index(word), "content": word, "single_word": False, "lstrip": False,
         "rstrip": kind == "phi3" and PHI3[word], "normalized": False, "special": True}
        for word in special
    ]  # fmt: skip
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = [{"type": "Prepend", "prepend": "▁"}] if kind in ("llama", "phi3") else []
    document["normalizer"] = {"type": "Sequence", "normalizers": [*prepend, replace]}
    if kind == "gemma":
        document["normalizer"] = replace
        document["pre_tokenizer"] = {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
            "invert": False,
        }  # fmt: skip
    if kind == "llama, metaspace":
        document["normalizer"] = None
        document["pre_tokenizer"] = {
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False,
        }  # fmt: skip
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    document["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            *([] if "without" in kind or kind == "gemma" else strip),
        ],
    }  # fmt: skip
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }  # fmt: skip
    return json.dumps(document, ensure_ascii=False)


def files(kind: str) -> TokenizerFiles:
    """As a checkpoint holds it."""
    first, last = (SPECIAL[:2]) if kind in BYTE_LEVEL else ("<s>", "</s>")
    return TokenizerFiles(
        tokenizer_json(kind).encode(),
        {"bos_token": first, "eos_token": last},
        "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        {"eos_token_id": [1 if kind in BYTE_LEVEL else 2]},
    )


def ids(kind: str) -> dict[str, Any]:
    """The fields of a spec that go with it."""
    first = 0 if kind in BYTE_LEVEL else 1
    return {"vocab_size": SIZE + 8, "bos_token_id": first, "eos_token_ids": (first + 1,)}
