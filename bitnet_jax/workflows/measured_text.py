"""Text that a model is measured on, as windows of token ids: a user's, or the machine's own.

The built-in text is what `train.corpus` holds out of Python's library; what is calibrated is
calibrated on the other part. A model without a tokenizer is measured on ids: a `.jsonl` file
whose lines are ``{"tokens": [1, 2, 3]}``. Knows nothing of what is measured.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.core.paths import os_failure
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.runtime.tokenizer import Tokenizer
from bitnet_jax.train.corpus import Document, python_corpus, read_files

TOKENS, LENGTH = 4096, 128
# An interval over windows takes some of them, and a window shorter than this predicts little.
FEWEST, SHORTEST = 4, 16
# Characters read of a document, for each token that is wanted of it: no tokenizer makes fewer.
_CHARACTERS = 64


@dataclass(frozen=True)
class Windows:
    """What is read: the same for every model with the same tokenizer.

    Attributes:
      tokens: int32 [windows, length].
      source: where the text is from, in words.
      file: the name, without its folder, of a file or folder of the user's.
      asked: how many tokens were wanted.
      sha256: of the ids, int32 little-endian.
    """

    tokens: np.ndarray
    source: str
    file: str | None = None
    asked: int = 0

    @property
    def sha256(self) -> str:
        """Tells one text from another in records."""
        return hashlib.sha256(np.ascontiguousarray(self.tokens, "<i4").tobytes()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """As records hold it."""
        count, length = self.tokens.shape
        return {
            "source": self.source,
            "windows": count,
            "length": length,
            "tokens": count * length,
            "sha256": self.sha256,
        }

    def stated(self) -> dict[str, Any]:
        """As a receipt states it: with what it takes to read it again, and no path."""
        where = {"source": self.file or self.source, "file": self.file, "asked": self.asked}
        return self.to_json() | where


def read_windows(
    checkpoint: Checkpoint,
    text: str | os.PathLike | None = None,
    *,
    tokens: int = TOKENS,
    length: int | None = None,
    calibration: bool = False,
) -> Windows:
    """Returns windows of `text`, or of the built-in text, by the model's own tokenizer.

    Args:
      text: a file or folder as `train.corpus.read_files` takes it, or `.jsonl` of token ids.
      tokens: how many are wanted; fewer where the text has no more.
      length: of a window; 128, or less for a short text or context, if None.
      calibration: of the built-in text, the part that `read_windows` does not give otherwise.

    Raises:
      NoInput, BadData: the text cannot be read; it is too short (``text.too_short``); an id is
        outside the vocabulary (``tokens.vocabulary``).
      UsageError: the model has no tokenizer (``model.no_tokenizer``); `tokens` or `length` is
        impossible (``text.window``).
    """
    spec = checkpoint.spec
    longest = min(length or LENGTH, spec.max_positions)
    if tokens < 2 * SHORTEST or longest < SHORTEST or (length or 0) > spec.max_positions:
        raise UsageError(
            "text.window",
            f"{tokens} tokens in windows of {length or longest}; the model's context is "
            f"{spec.max_positions}",
            f"at least {2 * SHORTEST} tokens, and windows of {SHORTEST} up to the context",
        )
    ids = _token_file(text)
    if ids is not None:
        sequences: Iterable[Sequence[int]] = ids
    else:
        documents, source = _documents(text, calibration)
        sequences = _encoded(checkpoint, documents, tokens)
    found = _windows(sequences, tokens, longest, spec.bos_token_id)
    if found is None:
        raise BadData(
            "text.too_short",
            f"`{text or 'the built-in text'}` gives too few tokens for {FEWEST} windows of "
            f"{SHORTEST}",
            "give more text: an interval needs several windows",
        )
    if found.min() < 0 or found.max() >= spec.vocab_size:
        raise BadData(
            "tokens.vocabulary",
            f"token {int(found.min() if found.min() < 0 else found.max())} is outside the "
            f"vocabulary of {spec.vocab_size}",
            "is this the tokenizer of this model?",
        )
    file = None if text is None else Path(text).resolve().name
    return Windows(found, str(text) if ids is not None else source, file, tokens)


def read_characters(text: str | os.PathLike | None, count: int) -> str:
    """The first `count` characters of what `read_windows` reads, in its order.

    For models that cut the same text into other tokens.
    """
    documents, _ = _documents(text, False)
    return "\n\n".join(document.text for document in documents)[:count]


# ---------------------------------------------------------------------------- the text
def _documents(text: Any, calibration: bool) -> tuple[Sequence[Document], str]:
    if text is not None:
        corpus = read_files([text])
        # One document was cut in two to hold some out: here all is read, in its order.
        return [*corpus.train, *corpus.heldout], str(text)
    corpus = python_corpus()
    if calibration:
        return corpus.train, f"{corpus.source}, training part"
    return corpus.heldout, f"{corpus.source}, held-out part"


def _token_file(text: Any) -> list[list[int]] | None:
    """The rows of a file of token ids; None where it is no such file."""
    if text is None or not str(text).endswith(".jsonl"):
        return None
    try:
        lines = Path(text).read_bytes().splitlines()
    except OSError as error:
        raise os_failure(error, "read", Path(text)) from error
    rows: list[list[int]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return None  # the reader of texts says what is wrong
        if not isinstance(row, dict) or "tokens" not in row:
            if not rows:
                return None
            row = {"tokens": None}
        ids = row["tokens"]
        if not isinstance(ids, list) or not all(type(i) is int and abs(i) < 1 << 31 for i in ids):
            raise BadData(
                "text.tokens",
                f"`{Path(text).name}:{number}` holds no list of token ids",
                'each line must be an object like {"tokens": [1, 2, 3]}',
            )
        rows.append(ids)
    return rows or None


def _encoded(
    checkpoint: Checkpoint, documents: Sequence[Document], tokens: int
) -> Iterator[list[int]]:
    if checkpoint.tokenizer is None:
        raise UsageError(
            "model.no_tokenizer",
            f"`{checkpoint.source.path}` holds no tokenizer; no text can be read with it",
            "put tokenizer.json beside the model, or give token ids for its text: a .jsonl file of "
            '{"tokens": [1, 2, 3]} lines, as --text or --calibration',
        )
    tokenizer = Tokenizer.from_files(checkpoint.tokenizer)
    tokenizer.check_fits(checkpoint.spec.vocab_size)
    # Of every document as much as is needed where there are few, and no more.
    share = max(tokens // max(len(documents), 1), LENGTH) * 4
    for document in documents:
        part = document.text[: share * _CHARACTERS]
        yield tokenizer.encode(part, add_special_tokens=False)


def _windows(
    sequences: Iterable[Sequence[int]], tokens: int, length: int, bos: int | None
) -> np.ndarray | None:
    """The first windows of all documents, then their second ones, and so on; None: too few.

    What is left at a document's end is joined with the next one's.
    """
    rows = [np.asarray(sequence, np.int64) for sequence in sequences]
    total = sum(map(len, rows))
    head = [] if bos is None else [bos]
    # Few tokens, there or wanted, make short windows: there are to be several in any case.
    inside = min(length, total // FEWEST + len(head), max(tokens // FEWEST, SHORTEST)) - len(head)
    if inside + len(head) < SHORTEST or inside < 1:
        return None
    wanted = max(tokens // (inside + len(head)), FEWEST)
    places = [(at, row) for row, ids in enumerate(rows) for at in range(len(ids) // inside)]
    found = [rows[row][at * inside :][:inside] for at, row in sorted(places)]
    rest = np.concatenate([ids[len(ids) // inside * inside :] for ids in rows])
    found += [rest[at : at + inside] for at in range(0, len(rest) - inside + 1, inside)]
    if len(found) < FEWEST:
        return None
    chosen = np.stack(found[:wanted])
    start = np.tile(np.asarray(head, np.int64), (len(chosen), 1))
    return np.concatenate([start, chosen], 1).astype(np.int32)
