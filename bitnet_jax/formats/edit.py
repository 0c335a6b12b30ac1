"""Changing what a model says of itself, its templates and its end ids: never what it computes.

A table of keys says what may be changed and where it stands. A checkpoint in, a checkpoint out; how
a file of it is written with the weights' bytes as they are, `edit_write.py` knows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bitnet_jax.core.errors import BadData, UsageError, did_you_mean, shown
from bitnet_jax.formats import tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint, TokenizerFiles
from bitnet_jax.formats.metadata import PREFIX, USUAL, metadata_fault
from bitnet_jax.ir.spec import ModelSpec

TEMPLATE = "tokenizer.chat_template"
_IDS = ("eos_token_ids", "bos_token_id", "pad_token_id")
_NAMED_TOKENS = tuple(f"tokenizer.{name}_token" for name in ("bos", "eos", "pad", "unk"))
GENERATION = "generation."
KNOWN = (*USUAL, TEMPLATE, *_NAMED_TOKENS, *_IDS, f"{GENERATION}temperature")
_SPEC = {field.name for field in dataclasses.fields(ModelSpec)} - {*_IDS}


@dataclass(frozen=True)
class Change:
    """One entry: what it was and what it is; None where there is none."""

    key: str
    before: Any
    after: Any

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {"key": self.key, "before": self.before, "after": self.after}


def edited(
    checkpoint: Checkpoint,
    entries: Mapping[str, str],
    removed: Iterable[str] = (),
) -> tuple[Checkpoint, list[Change]]:
    """Returns the checkpoint with entries set and removed, and what that changed.

    Raises:
      UsageError: a key that may not be changed (``edit.meaning``: it says what the model computes),
        that is not known (``edit.key``), has no such value (``edit.value``), is not there to be
        removed (``edit.absent``); or nothing would change (``edit.nothing``).
    """
    removed = tuple(removed)
    twice = sorted(set(entries) & set(removed))
    if twice:
        raise UsageError("edit.key", f"`{twice[0]}` is to be set and to be removed", "choose one")
    changes: list[Change] = []
    for key, text in [*entries.items(), *((name, None) for name in removed)]:
        row = _row_of(key)
        before = row.read(checkpoint, key)
        if text is None and before is None:
            raise UsageError("edit.absent", f"the model has no `{key}` that could be removed")
        after = None if text is None else row.parse(checkpoint, key, text)
        if before != after:
            checkpoint = row.write(checkpoint, key, after)
            changes.append(Change(key, before, after))
    if not changes:
        raise UsageError(
            "edit.nothing",
            "nothing would change",
            "give --set KEY=VALUE, --unset KEY or --chat-template FILE: KEY is one of "
            + ", ".join(KNOWN),
        )
    return checkpoint, changes


@dataclass(frozen=True)
class _Row:
    """How one kind of key is read, what its text means, and how it is written (None: removed)."""

    read: Callable[[Checkpoint, str], Any]
    parse: Callable[[Checkpoint, str, str], Any]
    write: Callable[[Checkpoint, str, Any], Checkpoint]


def _row_of(key: str) -> _Row:
    if key in ROWS:
        return ROWS[key]
    for prefix, row in BEGINNINGS.items():
        if key.startswith(prefix) and key != prefix:
            return row
    name = key.removeprefix("spec.").removeprefix("architecture.")
    if name in _SPEC or name.startswith("extra."):
        raise UsageError(
            "edit.meaning",
            f"`{key}` says what the model computes: with another value the same weights would be "
            "another model",
            "only what a model says of itself can be edited: " + ", ".join(KNOWN),
        )
    raise UsageError(
        "edit.key", f"`{key}` is no entry that can be edited", did_you_mean(key, KNOWN)
    )


def _value(key: str, text: str, wanted: str) -> UsageError:
    return UsageError("edit.value", f"`{key}` cannot be {shown(text)}: it must be {wanted}")


# ------------------------------------------------------------------------- general.*


def _parse_metadata(checkpoint: Checkpoint, key: str, text: str) -> Any:
    fault = metadata_fault(key, text)
    if fault:
        raise UsageError("edit.value", f"metadata {fault}")
    return text


def _write_metadata(checkpoint: Checkpoint, key: str, value: Any) -> Checkpoint:
    kept = {name: old for name, old in checkpoint.metadata.items() if name != key}
    if value is not None:
        kept[key] = value
    return replace(checkpoint, metadata=dict(sorted(kept.items())))


# ------------------------------------------------------------------------- token ids


def _read_id(checkpoint: Checkpoint, key: str) -> Any:
    value = getattr(checkpoint.spec, key)
    return (list(value) or None) if isinstance(value, tuple) else value


def _parse_id(checkpoint: Checkpoint, key: str, text: str) -> Any:
    several = key == "eos_token_ids"
    try:
        ids = [int(part) for part in text.split(",")] if several else [int(text)]
    except ValueError:
        raise _value(key, text, "token ids, 1,2" if several else "a token id") from None
    if any(not 0 <= token < checkpoint.spec.vocab_size for token in ids):
        raise _value(key, text, f"within the vocabulary of {checkpoint.spec.vocab_size}")
    return list(dict.fromkeys(ids)) if several else ids[0]


def _write_id(checkpoint: Checkpoint, key: str, value: Any) -> Checkpoint:
    field: dict[str, Any] = {key: tuple(value or ()) if key == "eos_token_ids" else value}
    spec = replace(checkpoint.spec, **field).validate()
    checkpoint = replace(checkpoint, spec=spec)
    # Where generation_config.json names them, it is what readers follow: both say the same.
    theirs = key.removesuffix("s")
    files = checkpoint.tokenizer
    if files is not None and theirs in files.generation:
        checkpoint = _with_generation(checkpoint, theirs, value)
    return checkpoint


# ------------------------------------------------------------------------- generation.*


def _files(checkpoint: Checkpoint, key: str) -> TokenizerFiles:
    if checkpoint.tokenizer is None:
        raise UsageError(
            "model.no_tokenizer",
            f"`{checkpoint.source.path}` holds no tokenizer, and so nothing for `{key}`",
            "put tokenizer.json beside the model and convert it again",
        )
    return checkpoint.tokenizer


def _read_generation(checkpoint: Checkpoint, key: str) -> Any:
    return _files(checkpoint, key).generation.get(key.removeprefix(GENERATION))


def _parse_generation(checkpoint: Checkpoint, key: str, text: str) -> Any:
    if key.removeprefix(GENERATION) in ("eos_token_id", "bos_token_id", "pad_token_id"):
        name = key.removeprefix(GENERATION)
        raise UsageError(
            "edit.key",
            f"`{key}` stands in the model itself too",
            f"set `{name + 's' if name.startswith('eos') else name}`: both change",
        )
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, dict) or value is None:
        raise _value(key, text, "a number, true, false, a text or a list")
    return value


def _write_generation(checkpoint: Checkpoint, key: str, value: Any) -> Checkpoint:
    return _with_generation(checkpoint, key.removeprefix(GENERATION), value)


def _with_generation(checkpoint: Checkpoint, name: str, value: Any) -> Checkpoint:
    files = _files(checkpoint, GENERATION + name)
    generation = {**files.generation, name: value}
    if value is None:
        del generation[name]
    return replace(checkpoint, tokenizer=replace(files, generation=generation))


# ------------------------------------------------------------------------- the tokenizer's


def _read_template(checkpoint: Checkpoint, key: str) -> Any:
    return checkpoint.tokenizer.chat_template if checkpoint.tokenizer else None


def _write_template(checkpoint: Checkpoint, key: str, value: Any) -> Checkpoint:
    files = _files(checkpoint, key)
    # One template in one place: the file, which transformers 5 reads.
    config = {name: old for name, old in files.config.items() if name != "chat_template"}
    return replace(checkpoint, tokenizer=replace(files, config=config, chat_template=value))


def _read_token(checkpoint: Checkpoint, key: str) -> Any:
    found = _files(checkpoint, key).config.get(key.removeprefix("tokenizer."))
    return found.get("content") if isinstance(found, dict) else found


def _parse_token(checkpoint: Checkpoint, key: str, text: str) -> str:
    if text not in tokens_of(_files(checkpoint, key)):
        raise _value(key, text, "a token of the model's tokenizer")
    return text


def tokens_of(files: TokenizerFiles) -> set[str]:
    """The tokens that `tokenizer.json` names; nothing of it is run."""
    parsed = tokenizer_files.parsed_tokenizer(files)
    if parsed is None:
        raise BadData(
            "tokenizer.invalid",
            "the model's tokenizer.json is no JSON object",
            "is its download complete? Put the right one in its place first",
        )
    vocabulary = parsed.get("model", {}).get("vocab", {})
    names = {row[0] for row in vocabulary} if isinstance(vocabulary, list) else set(vocabulary)
    return names | {row["content"] for row in parsed.get("added_tokens") or ()}


def _write_token(checkpoint: Checkpoint, key: str, value: Any) -> Checkpoint:
    files, name = _files(checkpoint, key), key.removeprefix("tokenizer.")
    config = {**files.config, name: value}
    if value is None:
        del config[name]
    return replace(checkpoint, tokenizer=replace(files, config=config))


# What a key may begin with, and whole keys.
BEGINNINGS: dict[str, _Row] = {
    PREFIX: _Row(lambda model, key: model.metadata.get(key), _parse_metadata, _write_metadata),
    GENERATION: _Row(_read_generation, _parse_generation, _write_generation),
}
ROWS: dict[str, _Row] = {
    TEMPLATE: _Row(_read_template, lambda model, key, text: text, _write_template),
    **dict.fromkeys(_IDS, _Row(_read_id, _parse_id, _write_id)),
    **dict.fromkeys(_NAMED_TOKENS, _Row(_read_token, _parse_token, _write_token)),
}
