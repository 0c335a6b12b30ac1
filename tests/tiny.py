"""The smallest decoder that has every part: for tests that need one."""

from bitnet_jax.ir.spec import ModelSpec


def tiny_spec(**changes) -> ModelSpec:
    """Two layers of 32, grouped queries, odd-sized vocabulary; `changes` are its fields."""
    sizes = dict(
        family="bitnet",
        vocab_size=48,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        max_positions=64,
    )
    return ModelSpec(**sizes | changes).validate()
