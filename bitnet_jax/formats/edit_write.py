"""Writing an edited model: the weights' bytes as they are, everything else as it was edited.

One table: a format that can be edited is a row. A `.bitnet` file is written anew, tensor by tensor;
a folder of transformers is copied file by file, and the keys that changed are put into its JSON
files, which keep all others.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bitnet_jax.containers.native import open_native
from bitnet_jax.core.errors import InternalError, UsageError
from bitnet_jax.core.paths import atomic_directory, check_output, os_failure
from bitnet_jax.formats import model_card, tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.metadata import CONFIG_KEY
from bitnet_jax.formats.model_files import CONFIG
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.receipts import IN_FOLDER
from bitnet_jax.formats.save import Prove, Saved, check_kind, check_not_input, save_checkpoint

_SPECIAL = "special_tokens_map.json"


def save_edited(
    before: Checkpoint, after: Checkpoint, path: Path, *, force: bool = False
) -> tuple[Path, ...]:
    """Writes `after`, which is `before` with what was edited; returns the files written.

    What was written is opened again before it gets its name: its digests must be those of `before`,
    and it must say what `after` says.

    Raises:
      UsageError: the format of `before` cannot be edited (``edit.format``).
      CannotCreate, IOFailure: as `save_checkpoint`.
    """
    row = WRITERS.get(before.source.format)
    if row is None:
        raise UsageError(
            "edit.format",
            f"`{before.source.path}` is {before.source.format}, which is not edited in place",
            f"convert it first, to one of: {', '.join(WRITERS)}",
        )
    digest = before.digest()

    def prove(written: Path, saved: Saved) -> None:
        found = open_checkpoint(written)
        same = (found.spec, found.metadata, found.tokenizer) == (
            after.spec, after.metadata, after.tokenizer,
        )  # fmt: skip
        if not same or found.digest() != digest:
            raise InternalError(
                "edit.lost", f"what was written to `{path}` is not what was to be written"
            )

    return row(before, after, path, force, prove)


def _bitnet(
    before: Checkpoint, after: Checkpoint, path: Path, force: bool, prove: Prove
) -> tuple[Path, ...]:
    source = Path(before.source.path)
    wanted = open_native(source).checksums

    def same_bytes(written: Path, saved: Saved) -> None:
        prove(written, saved)
        made = open_native(written)
        weights = (*made.rows, *made.floats)
        changed = [name for name in weights if made.checksums[name] != wanted.get(name)]
        if changed:
            raise InternalError("edit.weights", f"the bytes of `{changed[0]}` changed")

    saved = save_checkpoint(after, path, format="bitnet", force=force, prove=same_bytes)
    return saved.outputs


def _huggingface(
    before: Checkpoint, after: Checkpoint, path: Path, force: bool, prove: Prove
) -> tuple[Path, ...]:
    source = Path(before.source.path)
    folder = source if source.is_dir() else source.parent
    check_output(path, force=force, inputs=(folder,))
    check_not_input(path, folder)
    check_kind(path, directory=True)
    with atomic_directory(path, force=force) as made:
        for file in sorted(folder.iterdir()):
            # A receipt tells of another output, and of files that are no longer as they were.
            if file.is_file() and file.name != IN_FOLDER:
                _copy(file, made / file.name)
        for name, data in _documents(before, after, folder).items():
            target = made / name
            if data is None:
                target.unlink(missing_ok=True)
            else:
                target.write_bytes(data)
        outputs = tuple(path / file.name for file in sorted(made.iterdir()))
        encoding = before.source.encoding
        prove(made, Saved(path, outputs, "huggingface", encoding))
    return outputs


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise os_failure(error, "copy", source) from error


def _documents(before: Checkpoint, after: Checkpoint, folder: Path) -> dict[str, bytes | None]:
    """The files that say something else now; None: one that goes."""
    out: dict[str, bytes | None] = {}
    spec, old = after.spec, before.spec
    config: dict[str, Any] = {}
    if spec.eos_token_ids != old.eos_token_ids:
        eos = list(spec.eos_token_ids)
        config["eos_token_id"] = eos[0] if len(eos) == 1 else eos or None
    config |= {
        name: getattr(spec, name)
        for name in ("bos_token_id", "pad_token_id")
        if getattr(spec, name) != getattr(old, name)
    }
    if after.metadata != before.metadata:
        config[CONFIG_KEY] = dict(after.metadata) or None
    if config:
        out[CONFIG] = _with_keys(folder / CONFIG, config, drop=(CONFIG_KEY,))
    if before.tokenizer is not None and after.tokenizer is not None:
        out |= _tokenizer(before, after, folder)
    card = folder / model_card.NAME
    if card.exists() and model_card.is_ours(tokenizer_files.read_small(card) or b""):
        out[model_card.NAME] = model_card.model_card(after, before.source.encoding)
    return out


def _tokenizer(before: Checkpoint, after: Checkpoint, folder: Path) -> dict[str, bytes | None]:
    assert before.tokenizer is not None and after.tokenizer is not None
    was, now = before.tokenizer, after.tokenizer
    out: dict[str, bytes | None] = {}
    if now.generation != was.generation:
        changed = _changed(was.generation, now.generation)
        path = folder / tokenizer_files.GENERATION
        out[path.name] = _with_keys(path, changed, drop=tuple(changed))
    if now.config != was.config:
        changed = _changed(was.config, now.config)
        path = folder / tokenizer_files.CONFIG
        out[path.name] = _with_keys(path, changed, drop=tuple(changed))
        special = {name: value for name, value in changed.items() if name.endswith("_token")}
        if special and (folder / _SPECIAL).exists():
            out[_SPECIAL] = _with_keys(folder / _SPECIAL, special, drop=tuple(special))
    if now.chat_template != was.chat_template:
        text = now.chat_template
        out[tokenizer_files.TEMPLATE] = None if text is None else text.encode()
    return out


def _changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    return {name: now.get(name) for name in names}


def _with_keys(path: os.PathLike, changes: Mapping[str, Any], drop: tuple[str, ...]) -> bytes:
    """The JSON file with these keys; one of `drop` goes where its value is None."""
    found = tokenizer_files.read_json(Path(path))
    merged = {**found, **changes}
    for name in drop:
        if merged.get(name) is None:
            merged.pop(name, None)
    return tokenizer_files.to_json(json.loads(json.dumps(merged)))


Writer = Callable[[Checkpoint, Checkpoint, Path, bool, Prove], tuple[Path, ...]]
WRITERS: dict[str, Writer] = {"bitnet": _bitnet, "huggingface": _huggingface}
