"""`edit`: a model with other metadata, templates or end ids, and the same weights to the byte."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitnet_jax.core.errors import BadData, NoInput, UsageError
from bitnet_jax.formats import tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.edit import TEMPLATE, edited
from bitnet_jax.formats.edit_write import save_edited
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.runtime.chat import ChatTemplate
from bitnet_jax.runtime.tokenizer import Tokenizer
from bitnet_jax.stores.address import require_local


def edit(
    model: str | os.PathLike,
    output: str | os.PathLike,
    *,
    entries: Mapping[str, str] | None = None,
    remove: Sequence[str] = (),
    chat_template: str | os.PathLike | None = None,
    force: bool = False,
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """The record of `bitnet model edit`.

    Args:
      entries: key -> text: ``general.name`` and what else `formats.edit.KNOWN` lists.
      remove: keys.
      chat_template: a file with a Jinja template, in the place of the model's. It must render a
        talk of one question.

    Raises:
      UsageError: a key that says what the model computes, or is not known; codes ``edit.*``.
      BadData: the template does not work (``chat.template``).
      CannotCreate, IOFailure: as `save_checkpoint`.
    """
    require_local(output, "what `edit` writes", "upload it afterwards")
    before = open_checkpoint(model, offline=offline, progress=progress)
    wanted = dict(entries or {})
    if chat_template is not None:
        if TEMPLATE in wanted:
            raise UsageError("edit.key", f"`{TEMPLATE}` is set twice", "give the file alone")
        wanted[TEMPLATE] = _template(Path(chat_template))
    after, changes = edited(before, wanted, remove)
    if any(change.key == TEMPLATE and change.after is not None for change in changes):
        _try_template(after)
    outputs = save_edited(before, after, Path(output), force=force)
    digest = before.digest().to_json()
    return {
        "model": str(model),
        "format": before.source.format,
        "encoding": before.source.encoding,
        "changes": [change.to_json() for change in changes],
        "digest_before": digest,
        # Proven on what was written, before it got its name.
        "digest_after": open_checkpoint(output).digest().to_json(),
        "outputs": [str(path) for path in outputs],
    }


def _template(path: Path) -> str:
    data = tokenizer_files.read_small(path)
    if data is None:
        raise NoInput("edit.no_template", f"there is no template `{path}`", "check the path")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadData("chat.template", f"`{path}` is not UTF-8", "save it as UTF-8") from error


def _try_template(checkpoint: Checkpoint) -> None:
    """Raises unless the new template renders the simplest talk there is."""
    assert checkpoint.tokenizer is not None
    tokenizer = Tokenizer.from_files(checkpoint.tokenizer)
    template = ChatTemplate.from_files(checkpoint.tokenizer, tokenizer)
    template.render([{"role": "user", "content": "Hello"}])
