"""BitNet in GGUF files: llama.cpp's architecture `bitnet`, and bitnet.cpp's names for it.

llama.cpp's `bitnet` (src/models/bitnet.cpp) has both sub-norms, a head that is the embedding,
rotary embedding of halves (nothing is permuted), optional ``.scale`` tensors, and SiLU; a key
``bitnet.hidden_activation`` was proposed, and is read by no release of November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.gguf import (
    LLAMA_KEYS,
    LLAMA_NAMES,
    SUB_NORM_NAMES,
    Found,
    Gguf,
    MetadataKey,
)
from bitnet_jax.models.rope_gguf import no_scaling

# bitnet.cpp calls the 2B4T by these; there it has squared ReLU, as trained.
MICROSOFT = ("bitnet-b1.58", "bitnet-25")


def _fixed(found: Found, fields: Mapping[str, Any]) -> dict[str, Any]:
    no_scaling(found)
    said = fields.get("activation")
    implied = "relu2" if found.architecture in MICROSOFT else "silu"
    return {"sub_norms": True, "activation": said or implied}


def _more(spec: ModelSpec) -> dict[str, tuple[str, Any]]:
    # As llama.cpp's own converter writes this architecture.
    return {
        "rope.dimension_count": ("u32", spec.head_dim),
        "rope.scaling.type": ("string", "linear"),
        "rope.scaling.factor": ("f32", 1.0),
    }


def refuses(spec: ModelSpec) -> str | None:
    """Why llama.cpp's `bitnet` cannot hold `spec`."""
    if not spec.sub_norms:
        return "it has no sub-norms, which the architecture `bitnet` requires"
    if not spec.tie_embeddings:
        return "its head is not tied to the embedding, and the architecture `bitnet` has no other"
    if spec.num_heads * spec.head_dim != spec.hidden_size:
        return (
            f"its heads are {spec.num_heads} x {spec.head_dim} wide, and the architecture `bitnet` "
            f"takes the hidden size, {spec.hidden_size}, for it"
        )
    return None


def warns(spec: ModelSpec) -> str | None:
    """What llama.cpp makes of `spec`."""
    if spec.activation != "relu2":
        return None
    return (
        "this model has squared ReLU; llama.cpp runs its architecture `bitnet` with SiLU and "
        "ignores bitnet.hidden_activation (seen in November 2026): its output there is wrong "
        "(perplexity 99.8 for 17.1, microsoft/BitNet#588). The file is right: this package reads "
        "the key"
    )


def _i2s(spec: ModelSpec) -> str:
    """bitnet.cpp runs its own name for the 2B4T with squared ReLU, the other with SiLU."""
    return MICROSOFT[0] if spec.activation == "relu2" else "bitnet"


GGUF = Gguf(
    architecture="bitnet",
    also=MICROSOFT,
    names=(*LLAMA_NAMES, *SUB_NORM_NAMES),
    keys=(
        *LLAMA_KEYS,
        MetadataKey("hidden_activation", "activation", "string", default=lambda fields: None),
    ),
    fixed=_fixed,
    more=_more,
    refuses=refuses,
    warns=warns,
    i2s=_i2s,
)
