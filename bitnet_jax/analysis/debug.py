"""`debug`: a model's activations op by op, in prefill and in decode, and where two runs part.

Three runs of the same tokens: `prefill` (all but the last few, into a cache), `decode` (those, one
at a time) and the whole sequence without a cache, which the other two must agree with: a cache that
is off by one shows without a second model. Runs eagerly; a bench it is not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitnet_jax.analysis.activations import host, statistics
from bitnet_jax.analysis.diverge import TOLERANCE, Comparison, Part, whole
from bitnet_jax.analysis.subject import Subject
from bitnet_jax.containers.blob import load_json
from bitnet_jax.core.errors import BadData, NoInput, UsageError
from bitnet_jax.core.paths import os_failure
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.ir.observe import Observed, Op
from bitnet_jax.ops.select import AUTO, implementations
from bitnet_jax.runtime.tokenizer import Tokenizer
from bitnet_jax.targets.choose import choose

# Of the built-in input: enough for every part, few enough to read.
TOKENS, DECODED = 12, 3
TEXT = "The quick brown fox jumps over the lazy dog, and 12 cats look on."
# Sums over a longer, padded axis have another order: see `tolerance`.
CACHE_TOLERANCE = 1e-5
_CAPACITY = 16
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Given:
    """What is run.

    Attributes:
      tokens: int32 [length].
      decode: how many of them, at the end, are decoded one at a time.
      text: what they were made from, or None.
    """

    tokens: np.ndarray
    decode: int
    text: str | None = None


def debug(
    model: str | os.PathLike | Subject,
    *,
    against: str | os.PathLike | Subject | None = None,
    input: str | os.PathLike | Sequence[int] | None = None,
    decode: int | None = None,
    tolerance: float | None = None,
    device: str = "auto",
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """The record of `bitnet dev debug`.

    Args:
      against: a second model, or the name of an implementation of the products (``reference``,
        ``native``, ``xla``): the same model by another kernel.
      input: token ids, or a JSON file: a list of them, or an object with ``tokens`` or ``text``,
        and ``decode`` if it likes.
      decode: how many tokens at the end are decoded one at a time.
      tolerance: relative to the largest value of an op: 1e-6, against the model's own
        run without a cache 1e-5, where sums have another order.
      device: where both run.

    Returns:
      ops: a row for each op of `prefill` and of each step of `decode`, with its figures.
      divergences: where `against` parts from the model; first_divergence: the first, or None.
      cache_divergences: where prefill or decode parts from the run without a cache.
      not_finite: the first op with NaN or infinity, or None.

    Raises:
      NoInput, BadData, UsageError: the model or the input is not what it must be.
      Unavailable: the device or the kernel is not here.
    """
    target = choose(device)
    reach: dict[str, Any] = {"offline": offline, "progress": progress}
    first, checkpoint = _subject(model, None, reach)
    second = None if against is None else _second(first, checkpoint, against, reach)
    given = read_input(input, decode, first, checkpoint)
    vocabularies = [s.spec.vocab_size for s in (first, second) if s is not None]
    _check(given, min(vocabularies), min(s.spec.max_positions for s in (first, second) if s))
    rows: list[dict[str, Any]] = []
    seen, outputs = _run(first, given, rows)
    cached = _against_whole(first, given, seen, CACHE_TOLERANCE if tolerance is None else tolerance)
    record: dict[str, Any] = {
        "model": first.name,
        "against": None if second is None else _name(second),
        "device": target.platform,
        "tokens": given.tokens.tolist(),
        "token_count": len(given.tokens),
        "text": given.text,
        "decode": given.decode,
        "tolerance": TOLERANCE if tolerance is None else tolerance,
        "next_token": int(np.argmax(outputs[-1][0, -1])),
        "op_count": len({row["op"] for row in rows}),
        "ops": rows,
        "not_finite": next((row for row in rows if row["nan"] or row["infinite"]), None),
        "cache_divergences": cached,
        "divergences": [],
        "settings_differ": [],
        "first_divergence": None,
    }
    if second is not None:
        found, settings = _compare(first, second, given, seen, record["tolerance"])
        record["divergences"], record["settings_differ"] = found, settings
    everything = [*record["divergences"], *cached]
    record["first_divergence"] = everything[0] if everything else None
    return record


# ------------------------------------------------------------------------- what is run


def _subject(
    model: Any, implementation: str | None, reach: Mapping[str, Any]
) -> tuple[Subject, Checkpoint | None]:
    if isinstance(model, Subject):
        return model, None
    checkpoint = open_checkpoint(model, **reach)
    subject = Subject.of(checkpoint, implementation)
    subject.name = str(model)
    return subject, checkpoint


def _second(
    first: Subject, checkpoint: Checkpoint | None, against: Any, reach: Mapping[str, Any]
) -> Subject:
    kernels = {AUTO, *implementations("ternary_matmul"), *implementations("ternary_matmul", "*")}
    is_word = isinstance(against, str) and against in kernels and not Path(against).exists()
    if not is_word:
        return _subject(against, None, reach)[0]
    return Subject(first.name, first.spec, first.function, first.cache, first.packed, str(against))


def _name(subject: Subject) -> str:
    if subject.implementation is None:
        return subject.name
    return f"{subject.name} ({subject.implementation})"


def read_input(
    source: str | os.PathLike | Sequence[int] | None,
    decode: int | None,
    subject: Subject,
    checkpoint: Checkpoint | None,
) -> Given:
    """Tokens from a list, a JSON file, or built in.

    Raises:
      NoInput: there is no such file. BadData: it is not of a known form (``debug.input``).
      UsageError: it holds text, and the model has no tokenizer (``model.no_tokenizer``).
    """
    if isinstance(source, str | os.PathLike):
        value: Any = _read(Path(source))
    elif source is not None:
        value = {"tokens": list(source)}
    else:
        value = _built_in(subject, checkpoint)
    value = {"tokens": value} if isinstance(value, list) else value
    where = f"`{source}`" if isinstance(source, str | os.PathLike) else "the input"
    known = isinstance(value, dict) and set(value) <= {"tokens", "text", "decode"}
    if not known or ("tokens" in value) == ("text" in value):
        raise BadData(
            "debug.input",
            f"{where} is neither a list of token ids nor an object with `tokens` or `text`",
            'for example {"text": "Hello", "decode": 2}',
        )
    text: Any = value.get("text")
    tokens: Any = value.get("tokens") if text is None else _encode(text, checkpoint, where)
    if isinstance(tokens, list) and len(tokens) == 1 and isinstance(tokens[0], list):
        tokens = tokens[0]  # a batch of one
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise BadData("debug.input", f"{where}: `tokens` is no list of whole numbers")
    wanted = value.get("decode", DECODED) if decode is None else decode
    if type(wanted) is not int or wanted < 0:
        raise BadData("debug.input", f"{where}: `decode` is no whole number")
    return Given(np.asarray(tokens, np.int64), min(wanted, max(len(tokens) - 1, 0)), text)


def _read(path: Path) -> Any:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= _MOST_BYTES else b""
    except FileNotFoundError as error:
        raise NoInput("debug.no_input", f"there is no input `{path}`") from error
    except OSError as error:
        raise os_failure(error, "read", path) from error
    if size > _MOST_BYTES:
        raise BadData("debug.input", f"`{path}` has {size} bytes: is it another file?")
    return load_json(data, code="debug.input", where=f"`{path}`")


def _encode(text: Any, checkpoint: Checkpoint | None, where: str) -> list[int]:
    if not isinstance(text, str) or not text:
        raise BadData("debug.input", f"{where}: `text` is no text")
    if checkpoint is None or checkpoint.tokenizer is None:
        raise UsageError(
            "model.no_tokenizer",
            f"{where} holds text, and the model holds no tokenizer",
            'give {"tokens": […]}',
        )
    return [int(token) for token in Tokenizer.from_files(checkpoint.tokenizer).encode(text)]


def _built_in(subject: Subject, checkpoint: Checkpoint | None) -> dict[str, Any]:
    if checkpoint is not None and checkpoint.tokenizer is not None:
        return {"text": TEXT}
    # Steps that share no factor with a power of two: no token twice in a small vocabulary.
    return {"tokens": [(7 * n + 1) % subject.spec.vocab_size for n in range(TOKENS)]}


def _check(given: Given, vocabulary: int, positions: int) -> None:
    tokens = given.tokens
    if not tokens.size or tokens.size > positions:
        raise UsageError(
            "tokens.context_length",
            f"{tokens.size} tokens; the model's context is {positions}",
            "give at least one, and no more than that",
        )
    if tokens.min() < 0 or tokens.max() >= vocabulary:
        raise BadData(
            "tokens.vocabulary",
            f"token {int(tokens.max() if tokens.min() >= 0 else tokens.min())} is outside the "
            f"vocabulary of {vocabulary}",
            "is this the tokenizer of this model?",
        )


# ------------------------------------------------------------------------- running it


@dataclass
class _Stage:
    """One run of `step`: which tokens, from where on, and what the first model had there."""

    phase: str
    start: int
    tokens: np.ndarray
    program: Observed
    values: dict[str, np.ndarray]


def _stages(given: Given) -> Iterator[tuple[str, int, int]]:
    """(phase, first position, length) of each run with a cache."""
    prompt = len(given.tokens) - given.decode
    yield "prefill", 0, prompt
    for position in range(prompt, len(given.tokens)):
        yield "decode", position, 1


def _run(
    subject: Subject, given: Given, rows: list[dict[str, Any]]
) -> tuple[list[_Stage], list[np.ndarray]]:
    """Prefill and decode of the first model: a row for each op, and every value."""
    stages, logits = [], []
    cache = subject.new_cache(_capacity(given))
    for phase, start, length in _stages(given):
        tokens = given.tokens[None, start : start + length].astype(np.int32)
        inputs = (tokens, cache, np.asarray([start], np.int32))
        program = subject.step(*inputs)
        values: dict[str, np.ndarray] = {}
        out = subject.run(program, inputs, partial(_keep, values))
        for op in program.ops:
            place = {"phase": phase, "position": start, "op": op.name, "kind": op.kind}
            rows.append({**place, **statistics(values[op.name])})
        stages.append(_Stage(phase, start, tokens, program, values))
        logits.append(values["output:0"])
        cache = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(cache), out[1:])
    return stages, logits


def _capacity(given: Given) -> int:
    # More than are needed: what stands beyond must not be looked at.
    return len(given.tokens) + _CAPACITY


def _keep(values: dict[str, np.ndarray], op: Op, value: Any) -> Any:
    values[op.name] = host(value)
    return value


def _against_whole(
    subject: Subject, given: Given, stages: Sequence[_Stage], tolerance: float
) -> list[dict[str, Any]]:
    """Where prefill and decode part from the whole sequence without a cache."""
    tokens = given.tokens[None].astype(np.int32)
    program = subject.whole(tokens)
    values: dict[str, np.ndarray] = {}
    subject.run(program, (tokens,), partial(_keep, values))
    found: list[dict[str, Any]] = []
    cache = subject.new_cache(_capacity(given))
    for stage in stages:
        part = _rows(len(given.tokens), stage.start, stage.tokens.shape[1])
        comparison = Comparison(values, program, stage.program, tolerance, part)
        inputs = (stage.tokens, cache, np.asarray([stage.start], np.int32))
        out = subject.run(stage.program, inputs, comparison.see)
        cache = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(cache), out[1:])
        found += _told(comparison, stage)
    return found


def _rows(length: int, start: int, count: int) -> Part:
    """Of a value over the whole sequence, the part of some of its tokens."""

    def part(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        if value.shape == shape:
            return value
        axes = [axis for axis, (a, b) in enumerate(zip(value.shape, shape, strict=False)) if a != b]
        fits = value.ndim == len(shape) and len(axes) == 1
        if not fits or value.shape[axes[0]] != length or shape[axes[0]] != count:
            return None
        return np.take(value, range(start, start + count), axis=axes[0])

    return part


def _compare(
    first: Subject,
    second: Subject,
    given: Given,
    stages: Sequence[_Stage],
    tolerance: float,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Where the second subject parts from the first, and which settings of ops differ."""
    found: list[dict[str, Any]] = []
    settings: list[dict[str, Any]] = []
    cache = second.new_cache(_capacity(given))
    for stage in stages:
        inputs = (stage.tokens, cache, np.asarray([stage.start], np.int32))
        program = second.step(*inputs)
        comparison = Comparison(stage.values, stage.program, program, tolerance, whole)
        out = second.run(program, inputs, comparison.see)
        cache = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(cache), out[1:])
        found += _told(comparison, stage)
        if stage.phase == "prefill" or not settings:
            settings += [{"phase": stage.phase, **row} for row in comparison.settings()]
    return found, settings


def _told(comparison: Comparison, stage: _Stage) -> list[dict[str, Any]]:
    place = {"phase": stage.phase, "position": stage.start}
    return [{**place, **item.to_json()} for item in comparison.found()]
