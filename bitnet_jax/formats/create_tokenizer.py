"""A made-up byte-level BPE of Llama 3's structure, of any size, in well under a second.

Nothing is trained: the merges are letter pairs, triples and quadruples by how
often English uses the letters, so text comes out at three to four letters a
token, as with the real one. Structure, pre-tokenizer, special tokens, ids and
template are the released checkpoint's.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from bitnet_jax.formats.checkpoint import TokenizerFiles
from bitnet_jax.formats.shapes import special_tokens
from bitnet_jax.formats.tokenizer_parts import PATTERN
from bitnet_jax.ir.spec import ModelSpec

TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = message['role'] | capitalize + ': ' + message['content'] | trim "
    "+ '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
_NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    9: "<|eot_id|>",
}
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
_SPACE, _NEWLINE = "Ġ", "Ċ"  # how byte-level BPE spells 0x20 and 0x0a


def byte_alphabet() -> list[str]:
    """The letter that stands for each byte, in the order GPT-2 numbers them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + n) for n in range(len(rest))]


def _merges() -> Iterator[tuple[str, str]]:
    """Endless enough: half a million pairs, the most useful first."""
    pairs = [a + b for a, b in itertools.product(_LETTERS, repeat=2)]
    yield from ((_SPACE, letter) for letter in _LETTERS)
    yield from itertools.product(_LETTERS, repeat=2)
    yield (_SPACE, _SPACE)
    yield (_SPACE * 2, _SPACE * 2)
    yield (_NEWLINE, _NEWLINE)
    yield from itertools.product("0123456789", repeat=2)
    yield from ((_SPACE + pair[0], pair[1]) for pair in pairs)
    yield from itertools.product(pairs, _LETTERS)
    yield from ((f"{n:02}", digit) for n in range(100) for digit in "0123456789")
    yield from ((_SPACE + pair, letter) for pair in pairs for letter in _LETTERS)
    yield from itertools.product(pairs, repeat=2)


def special_names(count: int) -> list[str]:
    """The special tokens, in id order: named ones at Llama 3's places, the rest reserved."""
    reserved = (f"<|reserved_special_token_{n}|>" for n in itertools.count())
    return [_NAMED.get(place) or next(reserved) for place in range(count)]


def make_tokenizer(spec: ModelSpec) -> TokenizerFiles:
    """Returns a tokenizer with exactly ``spec.vocab_size`` ids."""
    specials = special_names(special_tokens(spec.vocab_size))
    base = spec.vocab_size - len(specials)
    vocab = {letter: index for index, letter in enumerate(byte_alphabet())}
    merges: list[str] = []
    for left, right in _merges():
        if len(vocab) == base:
            break
        if left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append(f"{left} {right}")
    added = [
        {
            "id": base + place,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for place, name in enumerate(specials)
    ]
    return TokenizerFiles(
        tokenizer_json=json.dumps(_tokenizer(vocab, merges, added), ensure_ascii=False).encode(),
        config=_config(added),
        chat_template=TEMPLATE,
        generation=_generation(spec),
    )


def _tokenizer(
    vocab: dict[str, int], merges: list[str], added: list[dict[str, Any]]
) -> dict[str, Any]:
    byte_level = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False,
    }  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    bos = added[0]
    template = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": bos["content"], "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [
            {"SpecialToken": {"id": bos["content"], "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": bos["content"], "type_id": 1}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {
            bos["content"]: {
                "id": bos["content"],
                "ids": [bos["id"]],
                "tokens": [bos["content"]],
            }  # fmt: skip
        },
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {
            "type": "Sequence",
            "processors": [{**byte_level, "add_prefix_space": True}, template],
        },
        "decoder": {**byte_level, "add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": vocab,
            "merges": merges,
        },
    }


def _config(added: list[dict[str, Any]]) -> dict[str, Any]:
    rows = {
        str(row["id"]): {key: value for key, value in row.items() if key != "id"} for row in added
    }
    return {
        "added_tokens_decoder": rows,
        "bos_token": _NAMED[0],
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": True,
        "eos_token": _NAMED[1],
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 1000000000000000019884624838656,  # the library's "no limit"
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _generation(spec: ModelSpec) -> dict[str, Any]:
    return {
        "_from_model_config": True,
        "bos_token_id": spec.bos_token_id,
        "do_sample": True,
        "eos_token_id": list(spec.eos_token_ids),
        "max_length": spec.max_positions,
        "temperature": 0.6,
        "top_p": 0.9,
    }
