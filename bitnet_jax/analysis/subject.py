"""A decoder ready to be run op by op: its function, its parameters, its cache.

Runs eagerly, one equation after another: slow, and every value is seen. Knows no file beyond a
checkpoint, and compares nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.ir.observe import Observed, See
from bitnet_jax.ir.program import trace
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.cache import KVCache
from bitnet_jax.models.families import family_for
from bitnet_jax.models.family import Function
from bitnet_jax.passes import pipelines
from bitnet_jax.passes.inline_calls import inline_calls
from bitnet_jax.passes.packed import Packed, parameter_of
from bitnet_jax.quant.tensor import is_quant
from bitnet_jax.runtime.resident import to_device

# Of the noise: a key that is looked at by mistake takes all of the softmax, of every second head.
_KEYS, _VALUES = 1e4, 8.0


@dataclass
class Subject:
    """What is run.

    Attributes:
      name: what a record calls it.
      function: as `Family.function` gives it.
      cache: (batch, capacity) -> an empty cache, as `function` takes it.
      packed: its parameters, on the device.
      implementation: of the products with packed weights; None for the best that runs.
    """

    name: str
    spec: ModelSpec
    function: Function
    cache: Callable[[int, int], Any]
    packed: Packed
    implementation: str | None = None
    _observed: dict[tuple[Any, ...], Observed] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, checkpoint: Checkpoint, implementation: str | None = None) -> Subject:
        """Reads a checkpoint's tensors onto the device; raises as `runtime.resident.to_device`."""
        family = family_for(checkpoint.spec)
        spec = checkpoint.spec
        return cls(
            str(checkpoint.source.path),
            spec,
            family.function(spec),
            functools.partial(family.cache, spec),
            to_device(checkpoint),
            implementation,
        )

    def whole(self, tokens: np.ndarray) -> Observed:
        """The program of ``(tokens) -> logits`` [1, length, vocab], without a cache."""
        return self._program(("whole", tokens.shape), self._whole, tokens)

    def step(self, tokens: np.ndarray, cache: Any, start: np.ndarray) -> Observed:
        """The program of ``(tokens, cache, start) -> (logits, cache)``, of every position."""
        return self._program(("step", tokens.shape), self._step, tokens, cache, start)

    def new_cache(self, capacity: int) -> Any:
        """A cache of one row with noise in it: what stands beyond the row must not be looked at.

        A cache of a family's own may hold a state, which begins as the family says.
        """
        cache = self.cache(1, capacity)
        if not isinstance(cache, KVCache):
            return cache
        noise = np.random.default_rng(0)

        def filled(buffers: Sequence[Any], size: float) -> tuple[Any, ...]:
            drawn = (noise.standard_normal(b.shape, np.float32) * np.float32(size) for b in buffers)
            return tuple(
                jnp.asarray(values).astype(b.dtype)
                for values, b in zip(drawn, buffers, strict=True)
            )

        return KVCache(filled(cache.keys, _KEYS), filled(cache.values, _VALUES))

    def run(self, observed: Observed, inputs: Sequence[Any], see: See) -> list[Any]:
        """Runs a program of this subject; returns its flat results."""
        flat = [jnp.asarray(leaf) for leaf in jax.tree_util.tree_leaves(tuple(inputs))]
        return observed.run([*jax.tree_util.tree_leaves(self.packed), *flat], see)

    def _whole(self, params: Any, tokens: Any) -> Any:
        return self.function(params, tokens, _positions(tokens, 0), None, None)[0]

    def _step(self, params: Any, tokens: Any, cache: Any, start: Any) -> Any:
        return self.function(params, tokens, _positions(tokens, start[:, None]), cache, None)

    def _program(
        self, key: tuple[Any, ...], function: Callable[..., Any], *inputs: Any
    ) -> Observed:
        if key not in self._observed:
            program = trace(function, self.packed.float_avals(), *inputs)
            steps = pipelines.packed(self.packed, implementation=self.implementation)
            flat = inline_calls(pipelines.run_pipeline(program, steps))
            self._observed[key] = Observed(flat.jaxpr, self._labels())
        return self._observed[key]

    def _labels(self) -> list[str]:
        """The parameter's name of each leaf, in the order of the program's inputs."""
        return [
            parameter_of(name)
            for name, leaf in sorted(self.packed.leaves.items())
            for _ in (jax.tree_util.tree_leaves(leaf) if is_quant(leaf) else (leaf,))
        ]


def _positions(tokens: Any, start: Any) -> Any:
    return jnp.broadcast_to(start + jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
