"""Architectures that people bring and no family here is: what each has that we have not.

So that a refusal says what is missing, and not only that something is.
"""

from __future__ import annotations

_EXPERTS = "layers that choose among experts"
_PICTURES = "a part that reads pictures"

# As `architectures` of a config has it -> what is missing.
MISSING: dict[str, str] = {
    "CohereForCausalLM": "LayerNorm without a bias, and logits that are scaled",
    "FalconForCausalLM": "fused attention of the first Falcons (Falcon 3 is a Llama)",
    "FalconH1ForCausalLM": "layers with a state (Mamba)",
    "GPT2LMHeadModel": "learned positions",
    "GPTNeoXForCausalLM": "fused attention with interleaved heads",
    "Gemma2ForCausalLM": "softcapped attention and logits",
    "Gemma3ForConditionalGeneration": _PICTURES,
    "Llama4ForCausalLM": _EXPERTS,
    "MambaForCausalLM": "layers with a state (Mamba)",
    "MixtralForCausalLM": _EXPERTS,
    "OlmoForCausalLM": "LayerNorm without parameters",
    "Phi4MMForCausalLM": _PICTURES,
    "PhimoeForCausalLM": _EXPERTS,
    "Qwen2MoeForCausalLM": _EXPERTS,
    "Qwen3MoeForCausalLM": _EXPERTS,
}
