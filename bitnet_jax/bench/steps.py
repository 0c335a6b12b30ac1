"""One model's prefill and decode as things that can be timed; all that bench asks of the engine.

Prompts are random ids: a model without a tokenizer runs too. Each phase and batch is a `Row` whose
`measure` runs it once and gives tokens a second. Knows nothing of statistics.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from bitnet_jax.bench import room
from bitnet_jax.bench.energy import Energy
from bitnet_jax.compiler.compile import Executable
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.passes.packed import DOT, Packed
from bitnet_jax.quant.tensor import is_quant
from bitnet_jax.runtime.engine import Engine
from bitnet_jax.runtime.sampling import SamplingParams, SamplingRows
from bitnet_jax.stats.medians import median, ratio_interval

# A decode begins after this many tokens, as after a short prompt.
CONTEXT = 16


@dataclass
class Row:
    """One phase at one batch.

    Attributes:
      tokens: of each sequence in one measurement.
      bytes_per_token: that must be read for one: packed weights, floats, keys and values.
      operations_per_token: of the int8 products, two for each weight.
      executable: what runs; of a prefill in pieces, the largest.
      token_seconds: of a decode, the time of every step so far.
      joules: of every measurement, where the processor tells.
    """

    phase: str
    batch: int
    tokens: int
    bytes_per_token: float
    operations_per_token: float
    executable: Executable
    _once: Callable[[], float] = field(repr=False)
    energy: Energy | None = field(default=None, repr=False)
    token_seconds: list[float] = field(default_factory=list, repr=False)
    joules: list[float] = field(default_factory=list, repr=False)

    @property
    def name(self) -> str:
        return f"{self.phase} {self.batch}"

    def measure(self) -> float:
        """Runs once; returns tokens a second of all sequences together."""
        before = self.energy.read() if self.energy else None
        seconds = self._once()
        if self.energy is not None and before is not None:
            self.joules.append(self.energy.since(before) / (self.batch * self.tokens))
        return self.batch * self.tokens / seconds


def random_ids(spec: ModelSpec, batch: int, length: int, seed: int = 0) -> np.ndarray:
    """Token ids [batch, length]: any, since time does not depend on them."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, spec.vocab_size, (batch, length), np.int32)


def read_bytes(packed: Packed, spec: ModelSpec, batch: int, length: int) -> int:
    """Bytes of parameters that one run over `batch` rows of `length` tokens reads.

    A table that is only looked up in gives one row a token.
    """
    total = 0
    for name, leaf in packed.leaves.items():
        size = leaf.nbytes if is_quant(leaf) else int(np.prod(leaf.shape)) * leaf.dtype.itemsize
        if _only_looked_up(name, packed, spec):
            size = size // spec.vocab_size * batch * length
        total += size
    return total


def _only_looked_up(name: str, packed: Packed, spec: ModelSpec) -> bool:
    embedding = any(part.startswith("embed_") for part in name.split("."))
    return (
        embedding and DOT not in name and (not spec.tie_embeddings or name + DOT in packed.leaves)
    )


def cache_bytes(engine: Engine, batch: int, capacity: int) -> int:
    """Bytes of a cache, without making one."""
    shapes = jax.eval_shape(lambda: engine.new_cache(batch, capacity))
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree_util.tree_leaves(shapes))


def operations(packed: Packed) -> int:
    """int8 operations of one token: a product and a sum for each packed weight."""
    return sum(2 * int(np.prod(tensor.shape)) for tensor in packed.ternary().values())


def prefill_row(engine: Engine, batch: int, tokens: int, energy: Energy | None = None) -> Row:
    """A prompt of `tokens` for each of `batch` sequences; compiles what it needs."""
    capacity = engine.capacity(tokens)
    ids = random_ids(engine.spec, batch, tokens)
    pieces = engine.pieces(tokens, capacity)
    compiled = [engine.prefill_executable(batch, length, capacity) for _, length in pieces]
    for executable in compiled:
        room.check_compiled(executable, f"a prefill of batch {batch}")
    each = read_bytes(engine.packed, engine.spec, batch, 1) * len(pieces)
    # What a later piece reads of the earlier ones; what it writes is as much as it has.
    kv = cache_bytes(engine, 1, capacity) / capacity
    read = kv * sum(start for start, _ in pieces)

    def once() -> float:
        begun = time.perf_counter()
        logits, _ = engine.prefill(ids, capacity)
        jax.block_until_ready(logits)
        return time.perf_counter() - begun

    once()  # warm-up: pages, threads
    return Row(
        "prefill",
        batch,
        tokens,
        each / (batch * tokens) + read / tokens,
        operations(engine.packed),
        compiled[0],
        once,
        energy,
    )


def decode_row(engine: Engine, batch: int, tokens: int, energy: Energy | None = None) -> Row:
    """`tokens` new tokens, the likeliest each time, for each of `batch` sequences."""
    capacity = engine.capacity(CONTEXT + tokens)
    step = engine.decode_executable(batch, capacity)
    room.check_compiled(step, f"a decode of batch {batch}")
    rows = SamplingRows.of([SamplingParams()] * batch)
    zero = np.zeros(batch, np.int32)
    held = [engine.new_cache(batch, capacity)]
    first = random_ids(engine.spec, batch, 1)
    token_seconds: list[float] = []

    def once(count: int = tokens) -> float:
        cache, ids = held.pop(), first
        taken = []
        for index in range(count):
            begun = time.perf_counter()
            where = np.full(batch, CONTEXT + index, np.int32)
            logits, cache, finite = step(engine.packed, ids, cache, where, zero)
            ids = np.asarray(engine.sample(logits, rows, np.full(batch, index, np.int32)))[:, None]
            bool(finite)
            taken.append(time.perf_counter() - begun)
        held.append(cache)
        token_seconds.extend(taken)
        return sum(taken)

    once(min(tokens, 4))  # warm-up
    token_seconds.clear()
    kv = cache_bytes(engine, 1, capacity) / capacity * (CONTEXT + (tokens + 1) / 2)
    weights = read_bytes(engine.packed, engine.spec, batch, 1)
    return Row(
        "decode",
        batch,
        tokens,
        weights / batch + kv,
        operations(engine.packed),
        step,
        once,
        energy,
        token_seconds,
    )


def program(
    engine: Engine, batch: int, length: int
) -> tuple[Executable, Callable[[], object], int]:
    """One program of the engine: a prefill's first piece, or of length 1 a decode step.

    Returns:
      What was compiled, what runs it once and waits, and how many tokens it takes a row.
    """
    start = CONTEXT if length == 1 else 0
    capacity = engine.capacity(start + length)
    if length == 1:
        executable = engine.decode_executable(batch, capacity)
    else:
        _, length = engine.pieces(length, capacity)[0]
        executable = engine.prefill_executable(batch, length, capacity)
    ids = random_ids(engine.spec, batch, length)
    where, last = np.full(batch, start, np.int32), np.full(batch, length - 1, np.int32)
    held = [engine.new_cache(batch, capacity)]

    def run() -> object:
        logits, cache, finite = executable(engine.packed, ids, held.pop(), where, last)
        held.append(cache)
        return jax.block_until_ready((logits, finite))

    return executable, run, length


def consistency(engine: Engine, row: Row, longest: int, repeats: int) -> dict[str, Any]:
    """Whether the token times hold: the wall time of a long generation less that of a short one.

    Both are whole generations, timed from outside, so that prompt and start cancel; the steps of
    `row` (a decode of batch 1) are timed in between. They agree unless the interval of the ratio
    lies outside of 10 %.

    Args:
      longest: tokens of the long one; the short one has a third of them.
    """
    short = longest // 3
    ids = random_ids(engine.spec, 1, CONTEXT)[0]

    def wall(count: int) -> float:
        begun = time.perf_counter()
        for _ in engine.generate(ids, SamplingParams(max_tokens=count)):
            pass
        return time.perf_counter() - begun

    wall(2)
    walls, steps = [], []
    for _ in range(repeats):
        walls.append((wall(longest) - wall(short)) / (longest - short))
        steps.append(1 / row.measure())
    low, high = ratio_interval(walls, steps)
    return {
        "tokens": [longest, short],
        "repeats": repeats,
        "wall_seconds_per_token": median(walls),
        "token_seconds": median(steps),
        "ratio": median(walls) / median(steps),
        "ratio_interval": [low, high],
        "agrees": low <= 1.1 and high >= 0.9,
    }
