"""The parameters of each family: canonical name, shape, and what other files call them.

One table per family, used both ways, by every reader and writer. A row is a
template: ``N`` stands for the layer. Knows no file format beyond its spelling
of names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from bitnet_jax.core.errors import BadData, did_you_mean
from bitnet_jax.ir.spec import ModelSpec


@dataclass(frozen=True)
class Parameter:
    """One row: a parameter of every layer (``N`` in its name) or of the model.

    Attributes:
      name: canonical template.
      huggingface: the same in a `transformers` checkpoint.
      shape: letters of `_SIZES`.
      ternary: it is one of the matrices that the family quantizes.
      needs: a boolean field of the spec without which the row is absent; with a
        leading ``!`` the field must be false.
    """

    name: str
    huggingface: str
    shape: str
    ternary: bool = False
    needs: str = ""


# V vocabulary, H hidden, I intermediate, Q query heads x head_dim, K key/value heads x head_dim
def _sizes(spec: ModelSpec) -> Mapping[str, int]:
    return {
        "V": spec.vocab_size,
        "H": spec.hidden_size,
        "I": spec.intermediate_size,
        "Q": spec.num_heads * spec.head_dim,
        "K": spec.num_kv_heads * spec.head_dim,
    }


_LAYER = "model.layers.N."

BITNET: tuple[Parameter, ...] = (
    Parameter("embed_tokens", "model.embed_tokens.weight", "VH"),
    Parameter("layers.N.input_layernorm", _LAYER + "input_layernorm.weight", "H"),
    Parameter("layers.N.self_attn.q_proj", _LAYER + "self_attn.q_proj.weight", "QH", True),
    Parameter("layers.N.self_attn.k_proj", _LAYER + "self_attn.k_proj.weight", "KH", True),
    Parameter("layers.N.self_attn.v_proj", _LAYER + "self_attn.v_proj.weight", "KH", True),
    Parameter(
        "layers.N.self_attn.attn_sub_norm",
        _LAYER + "self_attn.attn_sub_norm.weight",
        "Q",
        needs="sub_norms",
    ),
    Parameter("layers.N.self_attn.o_proj", _LAYER + "self_attn.o_proj.weight", "HQ", True),
    Parameter("layers.N.post_attention_layernorm", _LAYER + "post_attention_layernorm.weight", "H"),
    Parameter("layers.N.mlp.gate_proj", _LAYER + "mlp.gate_proj.weight", "IH", True),
    Parameter("layers.N.mlp.up_proj", _LAYER + "mlp.up_proj.weight", "IH", True),
    Parameter(
        "layers.N.mlp.ffn_sub_norm", _LAYER + "mlp.ffn_sub_norm.weight", "I", needs="sub_norms"
    ),
    Parameter("layers.N.mlp.down_proj", _LAYER + "mlp.down_proj.weight", "HI", True),
    Parameter("norm", "model.norm.weight", "H"),
    Parameter("lm_head", "lm_head.weight", "VH", needs="!tie_embeddings"),
)

FAMILIES: dict[str, tuple[Parameter, ...]] = {"bitnet": BITNET}


def table(family: str) -> tuple[Parameter, ...]:
    """Returns the rows of `family`.

    Raises:
      BadData: it is not known (code ``model.unknown_family``).
    """
    if family not in tuple(FAMILIES):  # it may come from a file, and not be hashable
        raise BadData(
            "model.unknown_family",
            f"the model family `{family}` is not known",
            did_you_mean(str(family), FAMILIES),
        )
    return FAMILIES[family]


def _present(row: Parameter, spec: ModelSpec) -> bool:
    wanted = not row.needs.startswith("!")
    return not row.needs or bool(getattr(spec, row.needs.removeprefix("!"))) is wanted


@dataclass(frozen=True)
class Expected:
    """A parameter that a spec asks for."""

    name: str
    huggingface: str
    shape: tuple[int, ...]
    ternary: bool


def expected(spec: ModelSpec) -> dict[str, Expected]:
    """Every parameter that `spec` asks for, by canonical name, in the order data meets them."""
    return {item.name: item for item in _expand(spec)}


def _expand(spec: ModelSpec) -> Iterator[Expected]:
    sizes = _sizes(spec)
    rows = [row for row in table(spec.family) if _present(row, spec)]
    layered = [row for row in rows if ".N." in row.name]
    first = rows.index(layered[0])

    def fill(row: Parameter, layer: str) -> Expected:
        return Expected(
            row.name.replace(".N.", f".{layer}."),
            row.huggingface.replace(".N.", f".{layer}."),
            tuple(sizes[letter] for letter in row.shape),
            row.ternary,
        )

    yield from (fill(row, "") for row in rows[:first])
    yield from (fill(row, str(n)) for n in range(spec.num_layers) for row in layered)
    yield from (fill(row, "") for row in rows[first + len(layered) :])


@lru_cache
def _patterns(family: str, source: str, target: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple(
        (
            re.compile(re.escape(getattr(row, source)).replace(r"\.N\.", r"\.(\d+)\.")),
            getattr(row, target).replace(".N.", r".\1."),
        )
        for row in table(family)
    )


def _translate(family: str, name: str, source: str, target: str) -> str | None:
    for pattern, template in _patterns(family, source, target):
        found = pattern.fullmatch(name)
        if found:
            return found.expand(template)
    return None


def to_huggingface(family: str, name: str) -> str | None:
    """What a `transformers` checkpoint calls the canonical `name`; None if it has no such."""
    return _translate(family, name, "name", "huggingface")


def from_huggingface(family: str, name: str) -> str | None:
    """The canonical name of a `transformers` tensor; None if the family has no such."""
    return _translate(family, name, "huggingface", "name")
