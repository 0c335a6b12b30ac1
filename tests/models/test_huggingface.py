"""A family's `config.json`: as a table of keys, as functions, or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bitnet_jax.core.errors import BadData, CannotCreate
from bitnet_jax.formats.huggingface_config import Quantization, check_spelling, parse, spell
from bitnet_jax.models import families
from bitnet_jax.models.huggingface import ConfigKey, HuggingFace
from tests.tiny import tiny_spec

KEYS = tuple(
    ConfigKey(name, name)
    for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads",
        "num_kv_heads", "head_dim", "max_positions",
    )
)  # fmt: skip
SPEC = tiny_spec(family="mine", extra={"wide": False})


@pytest.fixture
def mine(monkeypatch):
    """Registers a family with this config; gives it."""

    def put(huggingface):
        family = replace(
            families.FAMILIES["bitnet"],
            name="mine",
            extra={"wide": True},
            huggingface=huggingface,
            shapes={},
        )
        monkeypatch.setattr(families, "_files", {"here": (family,)})
        return family

    return put


def table(*more, fixed=None):
    return HuggingFace.of_keys("MineForCausalLM", "mine", KEYS + more, fixed)


WIDE = ConfigKey("is_wide", "extra.wide", True)


def written(spec=SPEC):
    return spell(spec, Quantization(present=False), "float32")


def test_a_table_is_used_both_ways(mine):
    mine(table(WIDE, fixed={"act": "relu2"}))
    config = written()
    assert config["architectures"] == ["MineForCausalLM"] and config["model_type"] == "mine"
    assert config["is_wide"] is False and config["act"] == "relu2"
    assert parse(config, {}, "c").spec == SPEC
    check_spelling(SPEC)
    del config["is_wide"]
    assert parse(config, {}, "c").spec.extra == {"wide": True}
    assert parse(config | {"architectures": None}, {}, "c").spec.family == "mine"


MISTAKES = {
    "a key is missing": ({"hidden_size": None}, "config.value", "hidden_size"),
    "another fixed value": ({"act": "gelu"}, "config.unsupported", "act is 'gelu'"),
    "an extra of another type": ({"is_wide": 1}, "config.value", "must be of type bool"),
    "a size that is none": ({"num_heads": "4"}, "config.value", "num_heads"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_config_that_is_wrong(case, mine):
    mine(table(WIDE, fixed={"act": "relu2"}))
    changes, code, words = MISTAKES[case]
    config = {k: v for k, v in (written() | changes).items() if v is not None}
    with pytest.raises(BadData) as caught:
        parse(config, {}, "`c`")
    assert caught.value.code == code and words in caught.value.message
    assert caught.value.message.startswith("`c`: ")


def test_a_field_that_the_config_cannot_say_is_not_lost_in_silence(mine):
    mine(table())
    with pytest.raises(CannotCreate, match="cannot say extra {'wide': False}") as caught:
        check_spelling(SPEC)
    assert caught.value.code == "huggingface.config"
    check_spelling(replace(SPEC, extra={"wide": True}))


def test_the_built_in_config_has_no_key_for_leaving_sub_norms_out():
    with pytest.raises(CannotCreate, match="sub_norms False; it would be read back as True"):
        check_spelling(tiny_spec(sub_norms=False))


def test_a_familys_own_function_that_fails_names_the_family(mine):
    mine(HuggingFace("MineForCausalLM", "mine", lambda raw, where: raw["d_model"], lambda s, o: {}))
    with pytest.raises(BadData, match="family `mine` cannot read it: KeyError: 'd_model'"):
        parse({"architectures": ["MineForCausalLM"]}, {}, "c")


def test_a_family_without_names_there_is_kept_as_bitnet(mine):
    mine(None)
    with pytest.raises(CannotCreate, match="`mine` has no names for a transformers") as caught:
        check_spelling(SPEC)
    assert caught.value.code == "huggingface.family" and "bitnet" in caught.value.hint
