"""What training a family from elsewhere refuses before the first step."""

from __future__ import annotations

import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import BadData
from bitnet_jax.models import families
from tests.suites.families import page_plugin

RECIPE = """
steps: 1
batch: 1
length: 8
eval_windows: 1
data: {paths: [a.txt, b.txt]}
model: {family: distance, vocab_size: 272, hidden_size: 16, intermediate_size: 16, num_layers: 1,
        num_heads: 2, num_kv_heads: 2, head_dim: 8, max_positions: 64}
"""


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains one step of the page's family, its text changed."""

    def run(*changes, recipe=RECIPE):
        path = page_plugin(tmp_path)
        text = path.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
        bj.load_plugin(path)
        (tmp_path / "r.yaml").write_text(recipe)
        return bj.train_start("r.yaml", "run")

    monkeypatch.setattr(families, "_files", {})
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(" ".join(f"{name} word {n}" for n in range(900)))
    return run


def test_a_matrix_that_is_looked_up_too_is_refused_before_the_training(train, tmp_path):
    ternary = ('"model.embed.weight", "VH")', '"model.embed.weight", "VH", ternary=True)')
    with pytest.raises(BadData, match="differ in `embed_tokens@dot`") as caught:
        train(ternary, ('"layers.*.*"', '"**"'))
    assert caught.value.code == "checkpoint.names"
    assert not (tmp_path / "run").exists()


def test_a_family_that_refuses_the_recipe_reads_no_text(train, tmp_path):
    wrong = RECIPE.replace("num_kv_heads: 2", "num_kv_heads: 1").replace("a.txt, b.txt", "no.txt")
    with pytest.raises(BadData, match="heads must be alike"):
        train(recipe=wrong)


def test_an_init_that_does_not_fit_is_refused_before_the_training(train, tmp_path):
    with pytest.raises(BadData, match="gives no `layers.0.qkv`"):
        train(('"qkv": (3 * inner, width), ', ""))
    assert not (tmp_path / "run").exists()
