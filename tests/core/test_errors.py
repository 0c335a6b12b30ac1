"""What a stranger chose is shown short, and compared in bounded time."""

from __future__ import annotations

import time

from bitnet_jax.core.errors import nearest, shown


def test_a_strangers_value_is_short_and_can_be_printed():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("a" * 10_000, "\ud800\0\n", ["x"] * 1000, 10**5000, deep, None):
        text = shown(value)
        assert len(text) <= 90 and text.encode() and "\n" not in text
    while deep:  # its own destruction would recurse as deeply
        deep = deep[0]


def test_the_nearest_of_a_hundred_thousand_long_names_takes_no_time():
    known = [f"layers.{number}." + "x" * 190 for number in range(100_000)]
    begun = time.process_time()
    assert nearest("layers.7." + "y" * 1000, known) == []
    assert nearest("q_prj", ["q_proj", *known]) == ["q_proj"]
    assert time.process_time() - begun < 20
