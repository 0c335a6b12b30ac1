"""Runs that were led: the rules are asked of each piece."""

from __future__ import annotations

import numpy as np

from bitnet_jax.workflows.by_piece import judged, words


def test_what_spoils_all_that_comes_after_is_asked_of_each_piece_alone():
    """Tokens of which most were spoiled by a code that rounds otherwise: but not in one piece."""
    rng = np.random.default_rng(0)
    ours = rng.normal(size=(20, 50)).astype(np.float32)
    spoiled = ours.copy()
    spoiled[:8] += 0.1
    borders = {"a": (ours, spoiled), "b": (ours, ours)}
    found = judged(ours, ours, borders)
    assert found["holds"] and found["borders"] == 2 and found["worst_median"] == 0
    spoiled[8:12] += 0.1
    found = judged(ours, ours, borders)
    assert not found["holds"] and found["worst"] == "before a" and found["worst_median"] > 1e-3
    assert "before a, and 100.00% agree" in words(found)


def test_logits_that_are_no_numbers_hold_in_no_piece():
    ours = np.ones((4, 8), np.float32)
    assert not judged(ours, np.full_like(ours, np.nan), {})["holds"]
