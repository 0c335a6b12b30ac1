"""Another number of threads for the kernels, for a while."""

from contextlib import contextmanager

from bitnet_jax.ops.native import library as native


@contextmanager
def threads(count: int):
    """Runs the block with `count` threads, the caller's included."""
    before = native.threads()
    native.set_threads(count)
    try:
        assert native.threads() == count
        yield
    finally:
        native.set_threads(before)
