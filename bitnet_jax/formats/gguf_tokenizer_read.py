"""The keys of a GGUF file as a tokenizer's files again.

A file of this package carries them, and they are compared with the tokens that llama.cpp
reads; for any other a tokenizer.json is built from tokens, merges or scores, and the name of
the pre-tokenizer. Nothing is guessed: without a known name there is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from bitnet_jax.containers.blob import load_json
from bitnet_jax.core.errors import BadData, CannotCreate, shown
from bitnet_jax.formats import gguf_tokenizer as keys
from bitnet_jax.formats.checkpoint import TokenizerFiles
from bitnet_jax.formats.gguf_name import NAME, strips_after
from bitnet_jax.formats.gguf_pre import PreTokenizer, by_name, byte_level
from bitnet_jax.formats.tokenizer_files import default_template
from bitnet_jax.ir.spec import ModelSpec

_EDITED = "the file was edited after it was written: convert again from the source"
_WRONG = "convert again from the original"
# A merge of tokens longer than this is no merge of a language's.
_LONGEST = 256


def read_tokenizer(
    metadata: Mapping[str, Any], spec: ModelSpec, ours: bool, where: str
) -> tuple[TokenizerFiles | None, list[str]]:
    """The tokenizer's files, or None where the file has none; and what the user should know.

    Raises:
      BadData: its parts do not fit together (``gguf.tokenizer``), or how it cuts a text is not
        told (``gguf.pre_tokenizer``).
    """
    model = metadata.get(keys.PREFIX + "model")
    if model in (None, "none", "no_vocab"):
        return None, [f"{where} has no tokenizer: token ids only"]
    template = metadata.get(keys.TEMPLATE)
    if template is not None and not isinstance(template, str):
        raise _bad(where, f"{keys.TEMPLATE} is no text")
    tokens = _list(metadata, "tokens", where)
    if len(tokens) != spec.vocab_size:
        raise _bad(
            where, f"it has {len(tokens)} tokens for {spec.vocab_size} rows of the embedding"
        )
    if ours and keys.TOKENIZER_JSON in metadata:
        return _carried(metadata, spec, tokens, template, where), []
    builders = {"gpt2": _gpt2, "llama": _llama}
    if model not in builders:
        raise BadData(
            "gguf.tokenizer",
            f"{where}: its tokenizer is of the model {shown(model)}; known: {', '.join(builders)}",
            "put the original's tokenizer.json beside it, converted to another format",
        )
    if len(set(tokens)) != len(tokens):
        raise _bad(where, "a token stands twice")
    raw = builders[str(model)](metadata, tokens, where)
    config = {
        f"{name}_token": tokens[id_]
        for name, id_ in _named(metadata, spec).items()
        if id_ is not None and 0 <= id_ < len(tokens)
    }
    generation: dict[str, Any] = {"eos_token_id": list(spec.eos_token_ids)}
    if spec.bos_token_id is not None:
        generation["bos_token_id"] = spec.bos_token_id
    data = json.dumps(raw, ensure_ascii=False).encode()
    return TokenizerFiles(data, config, template, generation), []


def _bad(where: str, what: str, hint: str = _WRONG) -> BadData:
    return BadData("gguf.tokenizer", f"{where}: {what}", hint)


def _list(metadata: Mapping[str, Any], name: str, where: str) -> list[str]:
    found = metadata.get(keys.PREFIX + name)
    if not isinstance(found, list):
        raise _bad(where, f"{keys.PREFIX}{name} is no list of texts")
    return found


def _named(metadata: Mapping[str, Any], spec: ModelSpec) -> dict[str, int | None]:
    unknown = metadata.get(keys.PREFIX + "unknown_token_id")
    return {
        "bos": spec.bos_token_id,
        "eos": spec.eos_token_ids[0] if spec.eos_token_ids else None,
        "pad": spec.pad_token_id,
        "unk": unknown if isinstance(unknown, int) else None,
    }


# ------------------------------------------------------------------------------ carried
def _carried(
    metadata: Mapping[str, Any],
    spec: ModelSpec,
    tokens: list[str],
    template: str | None,
    where: str,
) -> TokenizerFiles:
    """The files as they were, where what llama.cpp reads is still what they say."""
    text = metadata[keys.TOKENIZER_JSON]
    if not isinstance(text, str):
        raise _bad(where, f"{keys.TOKENIZER_JSON} is no text", _EDITED)
    config, generation = (_object(metadata, key, where) for key in (keys.CONFIG, keys.GENERATION))
    if isinstance(default_template(config), str) and default_template(config) != template:
        config = {**config, "chat_template": template}  # people edit the key that engines read
    files = TokenizerFiles(text.encode(), config, template, generation)
    load_json(files.tokenizer_json, code="gguf.tokenizer", where=f"{where}: {keys.TOKENIZER_JSON}")
    try:
        said, _ = keys.vocabulary(keys.parse(files), spec.vocab_size)
    except (CannotCreate, KeyError, TypeError, AttributeError, ValueError) as error:
        what = error.message if isinstance(error, CannotCreate) else type(error).__name__
        raise _bad(
            where, f"{keys.TOKENIZER_JSON} is no tokenizer of this model: {what}", _EDITED
        ) from error
    for key, (_, value) in said.items():
        if not _same(metadata.get(key), value):
            raise _bad(where, f"{key} is not what {keys.TOKENIZER_JSON} says", _EDITED)
    return files


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, np.ndarray):
        return isinstance(found, np.ndarray) and np.array_equal(found, wanted)
    return type(found) is type(wanted) and bool(found == wanted)


def _object(metadata: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    text = metadata.get(key, "{}")
    if not isinstance(text, str):
        raise _bad(where, f"{key} is no text", _EDITED)
    found = load_json(text.encode(), code="gguf.tokenizer", where=f"{where}: {key}")
    if not isinstance(found, dict):
        raise _bad(where, f"{key} is no JSON object", _EDITED)
    return found


# -------------------------------------------------------------------------------- built
def _kinds(metadata: Mapping[str, Any], tokens: list[str], where: str) -> np.ndarray:
    found = metadata.get(keys.PREFIX + "token_type", np.full(len(tokens), keys.NORMAL))
    if not isinstance(found, np.ndarray) or found.shape != (len(tokens),):
        raise _bad(where, f"{keys.PREFIX}token_type does not have one number for each token")
    return found


def _vocabulary(tokens: list[str], kinds: np.ndarray) -> dict[str, int]:
    """Special tokens too: the library numbers again those that it finds among the added alone."""
    return {token: id_ for id_, token in enumerate(tokens) if kinds[id_] != keys.UNUSED}


def _added(tokens: list[str], kinds: np.ndarray, name: Any) -> list[dict[str, Any]]:
    return [
        {
            "id": int(id_), "content": tokens[id_], "single_word": False, "lstrip": False,
            "rstrip": strips_after(tokens[id_], name), "normalized": False,
            "special": bool(kinds[id_] != keys.USER),
        }
        for id_ in np.flatnonzero(np.isin(kinds, (keys.CONTROL, keys.USER, keys.UNKNOWN)))
        if tokens[id_]
    ]  # fmt: skip


def _template(metadata: Mapping[str, Any], tokens: list[str], default: bool) -> list[dict]:
    """The post-processor that puts special tokens around a text."""
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    special = {}
    for name, place, implied in (("bos", 0, default), ("eos", len(single) + 1, False)):
        id_ = metadata.get(f"{keys.PREFIX}{name}_token_id")
        if not metadata.get(f"{keys.PREFIX}add_{name}_token", implied) or not isinstance(id_, int):
            continue
        if 0 <= id_ < len(tokens):
            token = tokens[id_]
            single.insert(place, {"SpecialToken": {"id": token, "type_id": 0}})
            special[token] = {"id": token, "ids": [id_], "tokens": [token]}
    if not special:
        return []
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return [
        {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    ]


def _bpe(**changes: Any) -> dict[str, Any]:
    return {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "ignore_merges": False, **changes,
    }  # fmt: skip


def _whole(**parts: Any) -> dict[str, Any]:
    return {"version": "1.0", "truncation": None, "padding": None, **parts}


def _gpt2(metadata: Mapping[str, Any], tokens: list[str], where: str) -> dict[str, Any]:
    row: PreTokenizer = by_name(metadata.get(keys.PREFIX + "pre"), where)
    kinds = _kinds(metadata, tokens, where)
    vocab = _vocabulary(tokens, kinds)
    merges = _list(metadata, "merges", where)
    for merge in merges:
        left, _, right = merge.partition(" ")
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise _bad(where, f"the merge {shown(merge)} is of tokens that are not there")
    processors = [byte_level(False), *_template(metadata, tokens, row.name == "llama-bpe")]
    return _whole(
        added_tokens=_added(tokens, kinds, metadata.get(NAME)),
        normalizer=row.normalizer,
        pre_tokenizer={"type": "Sequence", "pretokenizers": list(row.steps)},
        post_processor={"type": "Sequence", "processors": processors},
        decoder={**byte_level(True), "add_prefix_space": True},
        model=_bpe(ignore_merges=row.ignore_merges, vocab=vocab, merges=merges),
    )


def _llama(metadata: Mapping[str, Any], tokens: list[str], where: str) -> dict[str, Any]:
    """Merges from scores: every pair whose union is a token, the highest score first."""
    scores = metadata.get(keys.PREFIX + "scores")
    if not isinstance(scores, np.ndarray) or scores.shape != (len(tokens),):
        raise _bad(where, f"{keys.PREFIX}scores does not have one number for each token")
    if scores.dtype != np.float32 or not np.isfinite(scores).all():
        raise _bad(where, f"{keys.PREFIX}scores are no finite float32 numbers")
    kinds = _kinds(metadata, tokens, where)
    vocab = _vocabulary(tokens, kinds)
    merges = []
    for id_ in np.flatnonzero(kinds == keys.NORMAL):
        token = tokens[id_]
        if not 1 < len(token) <= _LONGEST:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                merges.append((float(scores[id_]), len(left), len(right), left, right))
    merges.sort(key=lambda row: row[:3], reverse=True)
    unknown = [tokens[id_] for id_ in np.flatnonzero(kinds == keys.UNKNOWN)]
    prefix = metadata.get(keys.PREFIX + "add_space_prefix", True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": keys.SPACE}
    prepend = [{"type": "Prepend", "prepend": keys.SPACE}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": keys.SPACE}, "content": " "}
    processors = _template(metadata, tokens, True)
    return _whole(
        added_tokens=_added(tokens, kinds, metadata.get(NAME)),
        normalizer={"type": "Sequence", "normalizers": [*prepend, replace]},
        pre_tokenizer=None,
        post_processor=processors[0] if processors else None,
        decoder={
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        model=_bpe(
            byte_fallback=True,
            fuse_unk=True,
            unk_token=unknown[0] if unknown else None,
            vocab=vocab,
            merges=[f"{left} {right}" for *_, left, right in merges],
        ),
    )
