"""Writing new keys or values into a KV cache, as a primitive."""

from bitnet_jax.ops.cache_write.api import cache_write, cache_write_p

__all__ = ["cache_write", "cache_write_p"]
