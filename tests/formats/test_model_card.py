"""The model card: the same bytes for the same model; a stranger's name breaks nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bitnet_jax.core.yaml_text import parse
from bitnet_jax.formats.create import create
from bitnet_jax.formats.model_card import is_ours, model_card
from bitnet_jax.formats.save import save_checkpoint

MODEL = create("tiny", layers=1)


def front(card):
    text = card.decode()
    assert text.startswith("---\n")
    return parse(text[4 : text.index("\n---\n", 4)], "card", code="x")


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("a.hf", "b.hf"):
        save_checkpoint(MODEL, tmp_path / name)
    one, two = ((tmp_path / name / "README.md").read_bytes() for name in ("a.hf", "b.hf"))
    assert one == two and is_ours(one)
    assert str(tmp_path) not in one.decode()


@pytest.mark.parametrize("name", ["a: b\n---\nlicense: x", "| pipe", "<!-- -->", "ü 東京"])
def test_names_of_strangers_stay_one_value(name):
    metadata = {"general.name": name, "general.license": name, "general.tags": "one, two"}
    card = model_card(replace(MODEL, metadata=metadata))
    found = front(card)
    assert found["license"] == name and found["library_name"] == "transformers"
    assert list(found["tags"]) == ["bitnet", "ternary", "1.58-bit", "one", "two"]
    assert card.decode().count("\n# ") == 1


def test_digests_where_they_are_known():
    digest = {"trits": "a" * 64, "trits_scales": "b" * 64}
    text = model_card(MODEL, "packed", digest).decode()
    assert "a" * 64 in text and "| weights stored as | packed |" in text
    assert not is_ours(b"# my own")
