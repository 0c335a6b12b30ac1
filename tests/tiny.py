"""The smallest decoder that has every part: for tests that need one."""

from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.families import family_of

_SIZES: dict[str, Any] = dict(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=64,
)


def tiny_spec(**changes) -> ModelSpec:
    """Two layers of 32, grouped queries, odd-sized vocabulary; `changes` are its fields."""
    return ModelSpec(**{"family": "bitnet"} | _SIZES | changes).validate()


def tiny_of(family: str, **changes: Any) -> ModelSpec:
    """The same sizes in another family, whose defaults stand in all that is not said."""
    return family_of(family).spec(**_SIZES | changes)
