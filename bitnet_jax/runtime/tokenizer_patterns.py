"""Refuses what a pattern of a tokenizer.json would never end on.

They are regular expressions of a stranger's, run by a library that backtracks and that no signal
interrupts. Whether one is slow is not told by looking at it; each is tried, on short texts of
every kind of letter and on prose, in the time of this thread. One that takes the square of a
run's length (GPT-4o's does, on capitals) is taken, and long runs are refused. Known ones are not
tried. Knows no vocabulary.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import tokenizers

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.formats.tokenizer_parts import PATTERN

KNOWN = frozenset({PATTERN})
# Seconds for a letter. Linear ones take less than a millionth, on anything. The square of 4,096
# letters takes 15 to 60 millionths for each, which prose never may and a run may; nothing more.
MOST_ON_PROSE, MOST_ON_A_RUN, LINEAR = 6e-6, 200e-6, 4e-6
# Rising: what takes the cube of it is met while it is short.
LENGTHS = (256, 1024, 4096)
RUNS = ("a", "A", "7", " ", "\n", "\r\n", ".", "_", "é", "中", " a", "a1")
PROSE = "The quick brown fox, aged 12, jumped over 3 lazy dogs' tails; \tthey didn't care.\n"
# The longest run of letters, or of spaces, for a pattern that takes its square: seconds.
MOST_RUN = 20_000
_HINT = "take tokenizer.json again from where the model came from"
_RUN = re.compile(r"\s+|\S+")


def check_patterns(found: Any, backend: tokenizers.Tokenizer) -> bool:
    """Returns whether a pattern takes the square of a run's length; `check_runs` is for those.

    Args:
      found: tokenizer.json, parsed.
      backend: the same, loaded.

    Raises:
      BadData: ``tokenizer.slow``: a pattern takes the square of prose, or the cube of a run.
    """
    squared = False
    steps: list[tuple[str, Callable[[str], Any]]] = []
    if _has_unknown(found.get("normalizer")):
        steps.append(("normalizer", backend.normalizer.normalize_str))
    if _has_unknown(found.get("pre_tokenizer")):
        steps.append(("pre_tokenizer", backend.pre_tokenizer.pre_tokenize_str))
    for name, step in steps:
        step(PROSE)  # the first call is slower
        for length in LENGTHS:
            for probe in (PROSE, *RUNS):
                text = (probe * (length // len(probe) + 1))[:length]
                each = _seconds(step, text) / length
                if each > LINEAR:  # or it was disturbed
                    each = min(each, _seconds(step, text) / length)
                if each > (MOST_ON_PROSE if probe == PROSE else MOST_ON_A_RUN):
                    raise BadData(
                        "tokenizer.slow",
                        f"the {name} of tokenizer.json takes {1000 * each * length:.0f} ms for "
                        f"{length} letters: one of its patterns would never end on a long text",
                        _HINT,
                    )
                if length == LENGTHS[-1] and each > LINEAR:
                    squared = True
                    break  # what is worse was met while it was shorter
    return squared


def check_runs(text: str) -> None:
    """Raises where `text` has a run that a pattern which takes its square would not end on.

    Raises:
      UsageError: ``tokenizer.run``.
    """
    if len(text) <= MOST_RUN:
        return
    for run in _RUN.finditer(text):
        if run.end() - run.start() > MOST_RUN:
            raise UsageError(
                "tokenizer.run",
                f"the text holds {run.end() - run.start()} letters on end at character "
                f"{run.start()}, and this tokenizer takes the square of their number",
                f"break it up: at most {MOST_RUN} letters, or spaces, on end",
            )


def _seconds(step: Callable[[str], Any], text: str) -> float:
    begun = time.thread_time()
    step(text)
    return time.thread_time() - begun


def _has_unknown(part: Any) -> bool:
    """Whether a step, or one in it, has a pattern that is not known."""
    if isinstance(part, list):
        return any(map(_has_unknown, part))
    if not isinstance(part, dict):
        return False
    if isinstance(part.get("Regex"), str):
        return part["Regex"] not in KNOWN
    return any(map(_has_unknown, part.values()))
