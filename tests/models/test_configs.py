"""What a config of each family means, and which it refuses: no model may be read as another one."""

from __future__ import annotations

import dataclasses

import pytest

from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.huggingface_config import Quantization, check_spelling, parse, spell
from bitnet_jax.models.families import FAMILIES
from bitnet_jax.models.missing import MISSING
from bitnet_jax.models.spelling import shortest
from tests.suites.families import ROWS

SIZES = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
OURS = [row for row in ROWS if row.plugin is None]


def read(architecture, **keys):
    """The spec of a config that says little."""
    return parse(SIZES | {"architectures": [architecture]} | keys, {}, "config.json").spec


def refused(architecture, **keys):
    with pytest.raises(BadData) as caught:
        read(architecture, **keys)
    return f"{caught.value.code}: {caught.value.message}; {caught.value.hint}"


@pytest.mark.parametrize("old", [False, True], ids=["transformers 5", "transformers 4"])
@pytest.mark.parametrize("row", OURS, ids=lambda row: row.name)
def test_a_spec_goes_into_a_config_and_back(row, old):
    quantization = Quantization(True, "autobitlinear", "online", ())
    config = spell(row.spec, quantization, "float32", old_spelling=old)
    assert parse(config, {}, "config.json").spec == row.spec
    check_spelling(row.spec)


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("LlamaForCausalLM", {"head_dim": 16, "rope_theta": 1e4, "rms_norm_eps": 1e-6,
                              "tie_embeddings": False, "activation": "silu"}),
        ("MistralForCausalLM", {"head_dim": 16, "sliding_window": 4096}),
        ("Qwen2ForCausalLM", {"head_dim": 16, "sliding_window": 0, "layer_types": "f"}),
        ("Qwen3ForCausalLM", {"head_dim": 128, "tie_embeddings": False}),
        ("GemmaForCausalLM", {"head_dim": 256, "tie_embeddings": True, "activation": "gelu_tanh"}),
        ("Gemma3ForCausalLM", {"head_dim": 256, "tie_embeddings": True, "sliding_window": 4096,
                               "layer_types": "sssssf", "rope_theta": 1e6,
                               "local_rope_theta": 1e4}),
        ("PhiForCausalLM", {"rotary_share": 0.5, "activation": "gelu_tanh"}),
        ("Phi3ForCausalLM", {"rotary_share": 1.0, "rms_norm_eps": 1e-5, "sliding_window": 0}),
        ("SmolLM3ForCausalLM", {"rope_layers": "rrrn", "tie_embeddings": True,
                                "rope_theta": 2e6}),
        ("BitnetForCausalLM", {"sub_norms": True, "activation": "silu", "rope_theta": 1e4}),
    ],
)  # fmt: skip
def test_what_an_absent_key_means_is_the_familys(architecture, fields):
    """Each as the class of transformers has it: a head of 128 in Qwen3 is not 64 / 4."""
    spec = read(architecture)
    found = dataclasses.asdict(spec) | dict(spec.extra)
    assert {name: found[name] for name in fields} == fields


@pytest.mark.parametrize(
    ("architecture", "keys", "words"),
    [
        # A wrong activation talks nonsense and raises nothing: none is guessed.
        ("LlamaForCausalLM", {"hidden_act": "relu2"}, "known: silu"),
        ("LlamaForCausalLM", {"hidden_act": "gelu"}, "known: silu"),
        ("LlamaForCausalLM", {"hidden_act": 3}, "known: silu"),
        ("PhiForCausalLM", {"hidden_act": "gelu"}, "known: gelu_new"),
        ("Gemma3ForCausalLM", {"hidden_activation": "gelu"}, "known: gelu_pytorch_tanh"),
        # Positions.
        ("LlamaForCausalLM", {"rope_scaling": {"type": "yarn", "factor": 4.0}},
         "rope_type 'yarn' is not supported; known: default, linear, llama3"),
        ("LlamaForCausalLM", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "'dynamic'"),
        ("Phi3ForCausalLM", {"rope_scaling": {"type": "longrope"}}, "'longrope'"),
        ("LlamaForCausalLM", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
         "low_freq_factor is missing"),
        ("LlamaForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": -1}},
         "rope_factor is -1.0"),
        ("LlamaForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": True}}, "True"),
        ("LlamaForCausalLM", {"partial_rotary_factor": 0.5}, "whole heads"),
        ("PhiForCausalLM", {"partial_rotary_factor": 0.1}, "turned in 1 of its elements"),
        ("PhiForCausalLM", {"partial_rotary_factor": 7}, "rotary_share is 7.0"),
        ("LlamaForCausalLM", {"rope_parameters": [1]}, "no JSON object"),
        # Parts that are not there.
        ("PhiForCausalLM", {"qk_layernorm": True}, "LayerNorm of queries and keys"),
        ("Gemma3ForCausalLM", {"final_logit_softcapping": 30.0}, "softcapped logits"),
        ("GemmaForCausalLM", {"use_bidirectional_attention": True}, "looks ahead"),
        ("SmolLM3ForCausalLM", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("MistralForCausalLM", {"sliding_window": -5}, "sliding_window is -5"),
        ("Qwen2ForCausalLM", {"layer_types": ["full_attention"]}, "no list of 6"),
        ("Qwen2ForCausalLM", {"layer_types": ["chunked_attention"] * 6}, "no list of 6"),
        ("Gemma3ForCausalLM", {"sliding_window": None, "layer_types": ["sliding_attention"] * 6},
         "no sliding_window"),
        ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 1]}, "no list of 6"),
        ("SmolLM3ForCausalLM", {"no_rope_layer_interval": 0}, "cannot read it"),
        ("LlamaForCausalLM", {"attention_bias": "yes"}, "neither true nor false"),
        ("LlamaForCausalLM", {"num_key_value_heads": 3}, "no multiple"),
    ],
    ids=str,
)  # fmt: skip
def test_a_config_that_means_another_model_is_refused(architecture, keys, words):
    assert words in refused(architecture, **keys)


def test_gemmas_gelu_is_the_tanh_form():
    """The released configs say `gelu`; transformers computes the tanh form, and says so."""
    assert read("GemmaForCausalLM", hidden_act="gelu").activation == "gelu_tanh"


def test_gemma3_in_the_spelling_of_its_release():
    spec = read(
        "Gemma3ForCausalLM", rope_theta=1000000, rope_local_base_freq=10000, sliding_window=512,
        sliding_window_pattern=3, rope_scaling={"rope_type": "linear", "factor": 8.0},
    )  # fmt: skip
    assert spec.extra["layer_types"] == "ssf" and spec.extra["sliding_window"] == 512
    assert spec.extra["rope_type"] == "linear" and spec.extra["local_rope_theta"] == 10000.0


@pytest.mark.parametrize("architecture", MISSING)
def test_an_architecture_that_is_missing_says_what_it_has(architecture):
    assert MISSING[architecture] in refused(architecture)
    assert architecture not in {f.huggingface.architecture for f in FAMILIES.values()}


def test_a_config_without_an_architecture_is_its_model_types():
    raw = SIZES | {"model_type": "llama"}
    assert parse(raw, {}, "config.json").spec.family == "llama"
    assert parse(SIZES | {"model_type": "qwen3"}, {}, "config.json").spec.family == "qwen3"


# ------------------------------------------------------------------ quantization_config
ONLINE = {"quant_method": "bitnet", "quantization_mode": "online", "linear_class": "autobitlinear"}


def test_a_list_that_leaves_the_head_out_quantizes_it_too():
    """Without a list transformers keeps the head float; with one, only what is in it."""
    for listed in ([], ["up_proj"]):
        config = ONLINE | {"modules_to_not_convert": listed}
        assert "leaves out lm_head" in refused("LlamaForCausalLM", quantization_config=config)
    for listed in (["lm_head"], None):
        config = ONLINE | {"modules_to_not_convert": listed}
        assert read("LlamaForCausalLM", quantization_config=config).family == "llama"


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "BitNetForCausalLM"])
def test_norms_inside_linears_are_llamas(architecture):
    keys = {"quantization_config": ONLINE | {"use_rms_norm": True, "rms_norm_eps": 1e-4}}
    if architecture == "LlamaForCausalLM":
        extra = read(architecture, **keys).extra
        assert extra["linear_norms"] is True and extra["linear_norm_eps"] == 1e-4
    else:
        assert "use_rms_norm" in refused(architecture, **keys)


def test_is_bitnet_config_alone_says_nothing_of_the_weights():
    config = parse(
        SIZES | {"architectures": ["LlamaForCausalLM"], "is_bitnet_config": True}, {}, "c"
    )
    assert any("is_bitnet_config without" in warning for warning in config.warnings)


def test_letters_for_layers_are_as_few_as_will_do():
    assert [shortest(text) for text in ("ffff", "fsfsf", "sssssfss", "fs", "ffs")] == [
        "f", "fs", "sssssf", "fs", "ffs",
    ]  # fmt: skip
