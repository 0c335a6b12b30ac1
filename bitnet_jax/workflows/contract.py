"""The contract of a model: what a runtime must know beside the weights, before and after.

A converter that keeps every weight still breaks a model when the activation, an epsilon, the
rotary embedding, an end token or the pre-tokenizer is another one. Each row here is one such
thing: what the source says, what the output says when it is opened again, and what the family
requires. Knows no format.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData, BitnetError
from bitnet_jax.formats.checkpoint import Checkpoint, TokenizerFiles
from bitnet_jax.formats.survey import Seen
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.families import family_of
from bitnet_jax.runtime.tokenizer import Tokenizer

# What tokenizers have got wrong after a conversion: digits, runs of spaces, contractions, case
# and marks, scripts without spaces, joined emoji, code, and what looks like a special token.
TRICKY_TEXT = (
    "",
    " ",
    "Hello, world!",
    "  two  spaces   three\ttab\n\nlines\r\n",
    "12345678901 3.14159 1,000,000 0x1F",
    "I'll we've DON'T it's",
    "naïve café Ångström e\u0301 ﬁ",
    "日本語のテキスト 中文字符 한국어",
    "Привет, мир! שלום مرحبا",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽",
    "def f(x):\n    return x**2  # ok\n",
    "<|eot_id|> <s> [INST] </s>",
    "a\u00a0b\u200bc\ufeffd",
)
# Words of the vocabulary that are tried beside it, spread evenly.
_MOST_WORDS = 4096
# Names of the matrices whose rows a rotary layout permutes.
_QUERY_KEY = re.compile(
    r"\.(q|k|qkv|query|key|query_key_value|wq|wk|c_attn|attn_q|attn_k)(_proj)?$", re.IGNORECASE
)


@dataclass(frozen=True)
class Side:
    """A checkpoint, and what a pass over it saw of its tensors."""

    checkpoint: Checkpoint
    seen: Mapping[str, Seen]

    @property
    def spec(self) -> ModelSpec:
        return self.checkpoint.spec

    @property
    def files(self) -> TokenizerFiles | None:
        return self.checkpoint.tokenizer

    @cached_property
    def tokenizer(self) -> Tokenizer | str | None:
        """The tokenizer; the code of the error where its files are not one."""
        if self.files is None:
            return None
        try:
            return Tokenizer.from_files(self.files)
        except BitnetError as error:
            return error.code

    @cached_property
    def tokenizer_json(self) -> Any:
        """The parsed ``tokenizer.json``; the error's name where it is not JSON."""
        if self.files is None:
            return None
        try:
            return json.loads(self.files.tokenizer_json)
        except (ValueError, RecursionError) as error:
            return type(error).__name__


@dataclass(frozen=True)
class Check:
    """One row: its name, what a side says, what to do where the two differ.

    Attributes:
      field: the field of the spec that it is about, for what the family requires of it.
    """

    name: str
    of: Callable[[Side], Any]
    hint: str
    field: str | None = None


def _norms(side: Side) -> dict[str, list[Any]]:
    """Where the norms stand: pattern -> shape, and in how many layers."""
    found: dict[str, list[Any]] = {}
    for name, entry in side.checkpoint.entries.items():
        if "norm" in name.lower():
            row = found.setdefault(re.sub(r"\b\d+\b", "N", name), [list(entry.shape), 0])
            row[1] += 1
    return dict(sorted(found.items()))


def _rotary(side: Side) -> dict[str, Any]:
    extra = {key: value for key, value in side.spec.extra.items() if "rope" in key}
    return {"theta": side.spec.rope_theta, "head_dim": side.spec.head_dim, **extra}


def _rotary_layout(side: Side) -> str | None:
    """Hash of the trits of queries and keys: a layout for another rotary form permutes rows."""
    rows = [
        (name, seen.values)
        for name, seen in sorted(side.seen.items())
        if _QUERY_KEY.search(name) and seen.scales is not None
    ]
    return _sha(rows) if rows else None


def _tied(side: Side) -> dict[str, bool]:
    return {
        "stated": side.spec.tie_embeddings,
        "has head": any("lm_head" in name for name in side.checkpoint.entries),
    }


def _ends(side: Side) -> dict[str, Any]:
    ends = side.tokenizer.eos_ids if isinstance(side.tokenizer, Tokenizer) else ()
    return {"model": sorted(side.spec.eos_token_ids), "tokenizer": sorted(ends)}


def _chat_template(side: Side) -> str | None:
    template = side.files.chat_template if side.files is not None else None
    return None if template is None else _sha(template)


def _pre_tokenizer(side: Side) -> Any:
    parts = ("pre_tokenizer", "normalizer", "post_processor", "decoder")
    raw = side.tokenizer_json
    return _sha([raw.get(part) for part in parts]) if isinstance(raw, dict) else raw


def _round_trip(side: Side) -> Any:
    """Hash of the ids of `TRICKY_TEXT`, and of the texts that they give back.

    Beside these, of the vocabulary's own words: each must be put together from its pieces, so
    that merges that were lost or came in another order show.
    """
    tokenizer = side.tokenizer
    if not isinstance(tokenizer, Tokenizer):
        return tokenizer
    step = max(tokenizer.vocab_size // _MOST_WORDS, 1)
    words = [tokenizer.decode([token]) for token in range(0, tokenizer.vocab_size, step)]
    ids = [tokenizer.encode(text) for text in (*TRICKY_TEXT, *words)]
    texts = [tokenizer.decode(row, skip_special_tokens=False) for row in ids]
    return {"texts": len(ids), "tokens": sum(map(len, ids)), "sha256": _sha([ids, texts])}


def _vocabulary(side: Side) -> dict[str, Any]:
    tokenizer = side.tokenizer
    size = tokenizer.vocab_size if isinstance(tokenizer, Tokenizer) else tokenizer
    return {"model": side.spec.vocab_size, "tokenizer": size}


def _sha(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


_SPEC = "the output states another model: keep the source, and report this"
_FILES = "the output lost a part of the tokenizer: put the source's tokenizer files beside it"

CHECKS: tuple[Check, ...] = (
    Check("family", lambda side: side.spec.family, _SPEC, "family"),
    Check("activation", lambda side: side.spec.activation, _SPEC, "activation"),
    Check("norms", _norms, _SPEC, "sub_norms"),
    Check("rotary", _rotary, _SPEC, "rope_theta"),
    Check("rotary_layout", _rotary_layout, "query and key rows were permuted: report this"),
    Check("tied_embedding", _tied, _SPEC, "tie_embeddings"),
    Check("end_tokens", _ends, "generation would not end: keep the source", "eos_token_ids"),
    Check("chat_template", _chat_template, _FILES),
    Check("pre_tokenizer", _pre_tokenizer, _FILES),
    Check("tokenizer_round_trip", _round_trip, _FILES),
    Check("vocabulary", _vocabulary, _FILES, "vocab_size"),
)


def _rows(side: Side) -> Iterator[Check]:
    """The named rows, then one for each field of the spec that none of them is about."""
    yield from CHECKS
    about = {row.field for row in CHECKS} | {"head_dim", "extra"}
    for field in dataclasses.fields(ModelSpec):
        if field.name not in about:
            yield Check(field.name, _field(field.name), _SPEC)
    for key in side.spec.extra:
        if "rope" not in key:
            yield Check(f"extra.{key}", _extra(key), _SPEC)


def _field(name: str) -> Callable[[Side], Any]:
    return lambda side: getattr(side.spec, name)


def _extra(key: str) -> Callable[[Side], Any]:
    return lambda side: side.spec.extra.get(key)


def check_contract(before: Side, after: Side) -> list[dict[str, Any]]:
    """The contract's rows: ``{"check", "before", "after", "ok"}``, with ``required`` where it is.

    A float is the same where it is the same float32: no program computes with more.
    """
    required = family_of(before.spec.family).values
    out = []
    for row in _rows(before):
        was, now = row.of(before), row.of(after)
        found = {"check": row.name, "before": _plain(was), "after": _plain(now)}
        ok = _same(was, now)
        if row.field is not None and row.field in required:
            found["required"] = [_plain(value) for value in required[row.field]]
            ok = ok and getattr(after.spec, row.field) in required[row.field]
        out.append({**found, "ok": ok})
    return out


def require_contract(rows: list[dict[str, Any]], output: str) -> None:
    """Raises `BadData` with the code of the first row that does not hold, naming all of them."""
    broken = [row for row in rows if not row["ok"]]
    if not broken:
        return
    first, hints = broken[0], {row.name: row.hint for row in CHECKS}
    check = first["check"]
    others = "".join(f"; so is `{row['check']}`" for row in broken[1:])
    raise BadData(
        f"contract.{check}",
        f"`{check}` is {_words(first['before'])} in the source and "
        f"{_words(first['after'])} in the output{others}; `{output}` was not written",
        hints.get(check, _SPEC),
    )


def _words(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:120] + "…"


def _same(was: Any, now: Any) -> bool:
    if isinstance(was, dict) and isinstance(now, dict):
        return was.keys() == now.keys() and all(_same(was[key], now[key]) for key in was)
    if isinstance(was, float) and isinstance(now, int | float) and not isinstance(now, bool):
        return bool(np.float32(was) == np.float32(now))
    return type(was) is type(now) and was == now


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
