"""A tokenizer.json as the keys of a GGUF file.

Byte-level BPE becomes llama.cpp's model ``gpt2`` (tokens and merges), BPE with byte fallback
its model ``llama`` (tokens and scores, which order the merges). The files themselves stand
beside them, so that they come back byte for byte. How keys become a tokenizer again is
`gguf_tokenizer_read.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from bitnet_jax.containers.gguf_write import Value
from bitnet_jax.core.errors import CannotCreate, shown
from bitnet_jax.formats.checkpoint import TokenizerFiles
from bitnet_jax.formats.gguf_pre import name_of
from bitnet_jax.ir.spec import ModelSpec

PREFIX = "tokenizer.ggml."
TOKENIZER_JSON = "tokenizer.huggingface.json"
TEMPLATE = "tokenizer.chat_template"
CONFIG, GENERATION = "bitnet_jax.tokenizer_config", "bitnet_jax.generation_config"
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
# What SentencePiece writes for a space.
SPACE = "\u2581"
_SPACES = (
    "a text that begins with a space gets one space more in llama.cpp than from this tokenizer"
)


def tokenizer_keys(
    spec: ModelSpec, files: TokenizerFiles | None
) -> tuple[dict[str, Value], list[str]]:
    """The keys, and what the user should know.

    Raises:
      CannotCreate: llama.cpp has no such tokenizer (``gguf.tokenizer``, ``gguf.pre_tokenizer``,
        ``gguf.normalizer``).
    """
    if files is None:
        return {PREFIX + "model": ("string", "none"), **_ids(spec)}, [
            "the model has no tokenizer, so the file has none: token ids only"
        ]
    raw = parse(files)
    words, notes = vocabulary(raw, spec.vocab_size)
    found: dict[str, Value] = dict(words)
    found |= _special(spec, raw)
    if files.chat_template is not None:
        found[TEMPLATE] = ("string", files.chat_template)
    found[TOKENIZER_JSON] = ("string", files.tokenizer_json.decode("utf-8-sig"))
    for key, value in ((CONFIG, files.config), (GENERATION, files.generation)):
        if value:
            found[key] = ("string", json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return found, notes


def parse(files: TokenizerFiles) -> dict[str, Any]:
    """The tokenizer.json of `files`.

    Raises:
      CannotCreate: it is none (``gguf.tokenizer``).
    """
    try:
        raw = json.loads(files.tokenizer_json)
        if isinstance(raw["model"]["vocab"], dict):
            return raw
        kind = raw["model"].get("type")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _no_tokenizer(f"tokenizer.json is none ({type(error).__name__})") from error
    raise _no_tokenizer(f"its kind is {shown(kind)}; byte-level BPE and BPE with byte fallback are")


def _no_tokenizer(what: str) -> CannotCreate:
    return CannotCreate(
        "gguf.tokenizer",
        f"this tokenizer cannot be written in a GGUF file: {what}",
        "keep it as --format bitnet, or remove the tokenizer's files: token ids only",
    )


def vocabulary(raw: Mapping[str, Any], size: int) -> tuple[dict[str, Value], list[str]]:
    """Model, pre-tokenizer, tokens, their types, and merges or scores."""
    model = raw["model"]
    if model.get("type", "BPE") != "BPE":
        raise _no_tokenizer(f"its kind is {shown(model.get('type'))}; BPE is known")
    tokens, kinds = _tokens(raw, size)
    found: dict[str, Value]
    if model.get("byte_fallback"):
        found, notes = _sentencepiece(raw, tokens, kinds)
    else:
        row, note = name_of(raw)
        notes = [note] if note else []
        found = {
            PREFIX + "model": ("string", "gpt2"),
            PREFIX + "pre": ("string", row.name),
            PREFIX + "merges": ("[string]", [" ".join(pair) for pair in merges_of(raw)]),
        }
    found[PREFIX + "tokens"] = ("[string]", tokens)
    found[PREFIX + "token_type"] = ("[i32]", np.array(kinds, "<i4"))
    return dict(sorted(found.items())), notes


def merges_of(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The merges in order; older files join each pair by a space."""
    found = []
    for merge in raw["model"].get("merges") or []:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if len(pair) != 2 or any(" " in part or not part for part in pair):
            raise _no_tokenizer(f"the merge {shown(merge)} holds a space")
        found.append((pair[0], pair[1]))
    return found


def _tokens(raw: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Token and type of every row of the embedding; rows without a token are named as unused."""
    model = raw["model"]
    by_id = {id_: (token, NORMAL) for token, id_ in model["vocab"].items()}
    unknown = model.get("unk_token")
    if model.get("byte_fallback"):
        for id_, (token, _) in by_id.items():
            if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                by_id[id_] = (token, BYTE)
    for added in raw.get("added_tokens") or []:
        kind = CONTROL if added.get("special") else USER
        by_id[added["id"]] = (added["content"], kind)
    for id_, (token, _) in list(by_id.items()):
        if unknown is not None and token == unknown:
            by_id[id_] = (token, UNKNOWN)
    most = max(by_id, default=-1)
    if most >= size:
        raise _no_tokenizer(f"it has ids up to {most}, the embedding {size} rows")
    rows = [by_id.get(id_, (f"[PAD{id_}]", UNUSED)) for id_ in range(size)]
    return [token for token, _ in rows], [kind for _, kind in rows]


# ------------------------------------------------------------------------ SentencePiece
def _sentencepiece(
    raw: Mapping[str, Any], tokens: list[str], kinds: list[int]
) -> tuple[dict[str, Value], list[str]]:
    """llama.cpp merges the pair whose union has the highest score: minus the merge's rank."""
    prefix = _space_prefix(raw)
    # A Metaspace puts no space before one that is there; llama.cpp puts it before any text.
    metaspace = (raw.get("pre_tokenizer") or {}).get("type") == "Metaspace"
    notes = [_SPACES] if prefix and metaspace else []
    rank: dict[str, int] = {}
    for index, (left, right) in enumerate(merges_of(raw)):
        rank.setdefault(left + right, index)
    least = len(rank)
    scores = [
        float(-rank[token]) if token in rank else float(-least) if kind == NORMAL else 0.0
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    return {
        PREFIX + "model": ("string", "llama"),
        PREFIX + "pre": ("string", "default"),
        PREFIX + "scores": ("[f32]", np.array(scores, "<f4")),
        PREFIX + "add_space_prefix": ("bool", prefix),
    }, notes


def _space_prefix(raw: Mapping[str, Any]) -> bool:
    """Whether a space goes before the text; one of two places says how they are spelled."""
    normalizer = raw.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    pre = raw.get("pre_tokenizer") or {}
    kinds = [step.get("type") for step in steps]
    replaces = [s for s in steps if s.get("type") == "Replace" and s.get("content") == SPACE]
    # Gemma's cuts a text at spaces, of which the normalizer leaves none.
    idle = pre.get("type") == "Split" and pre.get("pattern") == {"String": " "}
    if replaces and set(kinds) <= {"Prepend", "Replace"} and (not pre or idle):
        return "Prepend" in kinds
    if pre.get("type") == "Metaspace" and not steps and pre.get("replacement", SPACE) == SPACE:
        scheme = pre.get(
            "prepend_scheme", "always" if pre.get("add_prefix_space", True) else "never"
        )
        if pre.get("split", True) is False or scheme in ("first", "always", "never"):
            return scheme != "never"
    raise _no_tokenizer(
        f"it treats spaces in a way of its own (normalizer {shown(kinds)}, pre-tokenizer "
        f"{shown(pre.get('type'))})"
    )


# ------------------------------------------------------------------------------ special
def _special(spec: ModelSpec, raw: Mapping[str, Any]) -> dict[str, Value]:
    """Ids of the special tokens, and which are put around a text."""
    found = _ids(spec)
    unknown = raw["model"].get("unk_token")
    if unknown is not None and unknown in raw["model"]["vocab"]:
        found[PREFIX + "unknown_token_id"] = ("u32", raw["model"]["vocab"][unknown])
    first, last = around(raw)
    ends = spec.eos_token_ids
    for name, put, wanted in (
        ("bos", first, spec.bos_token_id),
        ("eos", last, ends[0] if ends else None),
    ):
        if put is not None and put != wanted:
            raise _no_tokenizer(
                f"it puts token {put} where llama.cpp would put the {name} token, {wanted}"
            )
        found[f"{PREFIX}add_{name}_token"] = ("bool", put is not None)
    return found


def _ids(spec: ModelSpec) -> dict[str, Value]:
    """The ids that the spec has; of those that end a text there are keys for three."""
    ids: dict[str, int | None] = {"bos": spec.bos_token_id, "padding": spec.pad_token_id}
    ids |= dict(zip(("eos", "eot", "eom"), spec.eos_token_ids, strict=False))
    return {
        f"{PREFIX}{name}_token_id": ("u32", id_) for name, id_ in ids.items() if id_ is not None
    }


def around(raw: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The ids that the post-processor puts before and after a text."""
    processor = raw.get("post_processor") or {}
    steps = processor.get("processors", [processor])
    for step in steps:
        if step.get("type") != "TemplateProcessing":
            continue
        parts = step.get("single") or []
        table = step.get("special_tokens") or {}
        names = [(part.get("SpecialToken") or {}).get("id") for part in parts]
        text = names.index(None) if None in names else 0
        sides = names[:text], names[text + 1 :]
        if any(len(side) > 1 for side in sides):
            raise _no_tokenizer("it puts more around a text than one token on each side")
        return _only(sides[0], table), _only(sides[1], table)
    return None, None


def _only(names: list[Any], table: Mapping[str, Any]) -> int | None:
    """The one id that the special token of a template stands for."""
    if not names:
        return None
    ids = (table.get(names[0]) or {}).get("ids") or []
    if len(ids) != 1 or names[0] is None:
        raise _no_tokenizer("it puts more around a text than one token on each side")
    return ids[0]
