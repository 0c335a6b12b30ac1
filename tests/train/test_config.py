"""Recipes: read strictly, each mistake with its file and line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bitnet_jax.core.errors import BadData, ConfigError, NoInput
from bitnet_jax.models import families
from bitnet_jax.train.config import TrainConfig, dump_config, load_config, parse_config

CONFIGS = Path(__file__).parents[2] / "configs"


def test_defaults_fill_in():
    config = parse_config("steps: 10\noptimizer:\n  learning_rate: 1e-3\n")
    assert config.steps == 10 and config.optimizer.learning_rate == 1e-3
    assert config.optimizer.name == "muon" and config.model.hidden_size == 256


def test_dump_and_parse_are_inverse():
    config = parse_config(
        "minutes: 2\ndata:\n  paths: [a.txt]\nstages:\n- {until: 0.5, end: 0.5}\n- {until: 1.0}\n"
    )
    assert parse_config(dump_config(config)) == config
    assert TrainConfig.from_dict(config.to_dict()) == config


# The quickstart's own is packaged: it must be there without a checkout.
SHIPPED = [
    CONFIGS / "training.yaml",
    CONFIGS / "qat.yaml",
    CONFIGS.parent / "bitnet_jax/workflows/quickstart.yaml",
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_recipes_we_ship(path):
    config = load_config(path)
    assert config.model.hidden_size % 256 == config.model.intermediate_size % 256 == 0
    config.model.spec(1, (2,))


MISTAKES = {
    "unknown key": ("steps: 1\nbatchs: 2\n", r"r\.yaml:2.*batchs"),
    "unknown key inside": ("steps: 1\nmodel:\n  hidden: 2\n", r"r\.yaml:3.*model\.hidden"),
    "unknown key in a stage": ("steps: 1\nstages:\n- util: 1.0\n", r"r\.yaml:3.*util"),
    "text for a number": ("steps: ten\n", r"r\.yaml:1.*whole number"),
    "truth for a number": ("steps: true\n", r"r\.yaml:1.*whole number"),
    "a fraction of a step": ("steps: 1.5\n", r"r\.yaml:1.*whole number"),
    "a number for a section": ("steps: 1\nmodel: 3\n", "must be a mapping"),
    "a list": ("- 1\n", "must be a mapping"),
    "a repeated key": ("steps: 1\nsteps: 2\n", r"r\.yaml:2"),
    "no yaml": ("steps: [1\n", r"r\.yaml:"),
    "no budget": ("batch: 2\n", "steps.*minutes"),
    "two budgets": ("steps: 2\nminutes: 1\n", "steps.*minutes"),
    "a negative rate of windows": ("steps: 2\nbatch: 0\n", "batch"),
    "an unknown optimizer": ("steps: 2\noptimizer: {name: moun}\n", "moun"),
    "an unknown forward": ("steps: 2\nforward: int4\n", "forward.*int4"),
    "more steps than are counted": (f"steps: {10**40}\n", "steps.*at most 2147483647"),
    "a seed of more bits than one has": (f"steps: 2\nseed: {10**40}\n", "seed.*to 2147483647"),
    "minutes without end": ("minutes: 1e307\n", "minutes.*at most 527040"),
    "stages that do not end": ("steps: 2\nstages: [{until: 0.5}]\n", "stages"),
    "stages that go back": ("steps: 2\nstages: [{until: 1.0}, {until: 0.5}]\n", "stages"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_names_its_place(case):
    text, message = MISTAKES[case]
    with pytest.raises(ConfigError, match=message):
        parse_config(text, "r.yaml")


def test_the_nearest_name_is_the_hint():
    with pytest.raises(ConfigError) as caught:
        parse_config("steps: 1\noptimizer:\n  learning_rat: 1\n", "r.yaml")
    assert "learning_rate" in caught.value.hint


def test_a_recipe_names_the_family_and_what_it_adds(monkeypatch):
    family = replace(
        families.FAMILIES["bitnet"],
        name="mine",
        huggingface=None,
        extra={"wide": True, "slope": 8.0, "kind": "a"},
        values={"activation": ("silu",), "rope_theta": (5.0,)},
        shapes={},
    )
    monkeypatch.setattr(families, "_files", {"here": (family,)})
    text = "steps: 1\nmodel:\n  family: mine\n  extra: {slope: 2, kind: b}\n"
    config = parse_config(text)
    assert parse_config(dump_config(config)) == config
    spec = config.model.spec(1, (2,))
    assert (spec.family, spec.activation, spec.rope_theta) == ("mine", "silu", 5.0)
    assert dict(spec.extra) == {"wide": True, "slope": 2.0, "kind": "b"}
    # What the recipe does not leave to the family is not changed behind its back.
    for line, words in (
        ("rope_theta: 7.0", "rope_theta is 7.0; known: 5.0"),
        ("extra: {wdie: true}", "has the unknown wdie"),
        ("family: nobodys", "`nobodys` is not known"),
    ):
        wrong = parse_config(
            f"steps: 1\nmodel: {{family: mine, {line}}}\n".replace("family: mine, family", "family")
        )
        with pytest.raises(BadData, match=words):
            wrong.model.spec(1, (2,))


@pytest.mark.parametrize("value", ["3", "[1]", "{a: [1]}", "{a: {b: 1}}", "{a: null}"])
def test_extra_is_a_mapping_of_single_values(value):
    with pytest.raises(ConfigError, match=r"r.yaml:3.*`model.extra` must be a mapping of names"):
        parse_config(f"steps: 1\nmodel:\n  extra: {value}\n", "r.yaml")


def test_a_missing_file(tmp_path):
    with pytest.raises(NoInput):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "1e400"])
def test_a_number_that_is_none(text):
    with pytest.raises(ConfigError, match=r"`r\.yaml:2:3`: .*learning_rate.*finite"):
        parse_config(f"optimizer:\n  learning_rate: {text}\nsteps: 1\n", "r.yaml")


def test_the_column_is_named_and_an_empty_recipe_is_refused():
    with pytest.raises(ConfigError, match=r"`r\.yaml:2:9`: unknown setting `model.hidden`"):
        parse_config("steps: 1\nmodel: {hidden: 2}\n", "r.yaml")
    with pytest.raises(ConfigError, match="`r.yaml`: just one of"):
        parse_config("", "r.yaml")
