"""docs/training.md names every key of a recipe, and its example is one."""

import dataclasses
import re

from bitnet_jax.train.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Stage,
    TrainConfig,
    load_config,
    parse_config,
)


def test_every_key_is_on_the_page(repo):
    page = (repo / "docs/training.md").read_text()
    for cls in (TrainConfig, ModelConfig, DataConfig, OptimizerConfig, Stage):
        for field in dataclasses.fields(cls):
            assert f"`{field.name}`" in page or f".{field.name}`" in page, field.name


def test_the_example_is_a_recipe(repo):
    page = (repo / "docs/training.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert parse_config(example).model.num_layers == 6


def test_the_recipes_that_ship_are_recipes(repo):
    recipes = sorted((repo / "configs").glob("*.yaml"))
    assert {path.stem for path in recipes} >= {"training", "qat"}
    for path in recipes:
        load_config(path)
