"""The engine: prefill and decode with a KV cache, compiled once per bucket.

Prompts are padded to a few fixed lengths and caches to powers of two, so that no
prompt compiles anything anew. Knows token ids only: no text, no files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.compiler.compile import Executable, Receipt, compile_function
from bitnet_jax.compiler.kept import compiled_once
from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.cache import KVCache
from bitnet_jax.models.families import FAMILIES, family_for
from bitnet_jax.passes.cache_uses import require_opaque_cache
from bitnet_jax.passes.packed import Packed
from bitnet_jax.passes.transform import served
from bitnet_jax.quant.cache_rows import check_cache
from bitnet_jax.runtime.sampling import SamplingParams, SamplingRows, greedy_tokens, sample

# Prompts are run in pieces of these lengths: the shortest that holds what is left.
PREFILL_LENGTHS = (16, 64, 256, 512)
SMALLEST_CACHE = 256


@dataclass
class Timing:
    """Wall time of one generation; filled in as it goes."""

    prompt_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Tokens after the first, per second of decode steps; None before there is one."""
        return self.decode_tokens / self.decode_seconds if self.decode_tokens else None


@dataclass
class Engine:
    """One model, ready to run.

    Attributes:
      spec: the decoder.
      packed: its parameters, on the device.
      implementation: of `ternary_matmul`; None for the best that runs.
      keep_compiled: take what is compiled from this user's cache, and keep it there; of
        built-in families only, whose sources are known.
      kv: what the KV cache holds its rows in: ``float32``, or ``int8`` (a quarter of the bytes,
        and not exact).

    Raises:
      UsageError: there is no such `kv` (``model.kv_kind``), or the family reads its cache by
        itself (``model.kv_use``).
    """

    spec: ModelSpec
    packed: Packed
    implementation: str | None = None
    keep_compiled: bool = False
    kv: str = "float32"
    _compiled: dict[tuple[Any, ...], Executable] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._family = family_for(self.spec)
        self._is_ours = self._family.name in FAMILIES
        check_cache(self.kv)
        if self.kv != "float32":
            self._require_opaque_cache()

    def _require_opaque_cache(self) -> None:
        if self._family.cache != KVCache.empty:
            raise UsageError(
                "model.kv_use",
                f"the KV cache of family `{self._family.name}` cannot be held as {self.kv}: it is "
                "one of the family's own",
                "leave it in float32",
            )
        if self._is_ours:
            return  # our own are tested
        cache = jax.eval_shape(lambda: self._empty_cache(1, 4))
        one = jax.ShapeDtypeStruct((1,), jnp.int32)
        inputs = (jax.ShapeDtypeStruct((1, 1), jnp.int32), cache, one, one)
        step = self._family.step(self.spec)
        require_opaque_cache(
            step, self.packed.float_avals(), *inputs, cache=1, name=self._family.name
        )

    # Made when something is compiled: flax alone takes half a second to import.
    @cached_property
    def _step(self) -> Callable[..., Any]:
        return _checked(self._transformed(self._family.step(self.spec)))

    @cached_property
    def _forward(self) -> Callable[..., Any]:
        return self._transformed(self._family.forward(self.spec))

    def _transformed(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        return served(fn, (), implementation=self.implementation)

    # ------------------------------------------------------------------ whole sequences
    def logits(self, tokens: Any) -> np.ndarray:
        """Logits of every position.

        Args:
          tokens: ids [batch, length], any integer dtype.

        Returns:
          float32 [batch, length, vocab].

        Raises:
          UsageError: not two-dimensional integers, empty, or longer than the context.
          BadData: an id outside the vocabulary.
        """
        tokens = self.check_tokens(tokens)
        batch, length = tokens.shape
        # Never over the context: there are no positions to learn beyond it.
        padded = min(_bucket(length, SMALLEST_CACHE // 16), self.spec.max_positions)
        ids = np.zeros((batch, padded), np.int32)
        ids[:, :length] = tokens
        args = (self.packed, ids)
        run = self._executable(("forward", batch, padded), lambda: self._forward, args, out_like=0)
        return np.asarray(run(self.packed, ids))[:, :length]

    def check_tokens(self, tokens: Any) -> np.ndarray:
        """`tokens` as int32 [batch, length], checked."""
        array = np.asarray(tokens)
        if array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, np.integer):
            raise UsageError(
                "tokens.shape",
                f"tokens are {array.dtype} {list(array.shape)}, not integers [batch, length]",
            )
        if array.shape[1] > self.spec.max_positions:
            raise UsageError(
                "tokens.context_length",
                f"{array.shape[1]} tokens; the model's context is {self.spec.max_positions}",
                "shorten the text",
            )
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= self.spec.vocab_size:
            raise BadData(
                "tokens.vocabulary",
                f"token {low if low < 0 else high} is outside the vocabulary of "
                f"{self.spec.vocab_size}",
                "is this the tokenizer of this model?",
            )
        return array.astype(np.int32)

    # ------------------------------------------------------------------ one token at a time
    def generate(
        self, prompt: Sequence[int], params: SamplingParams, timing: Timing | None = None
    ) -> Iterator[int]:
        """Yields the tokens that follow `prompt`, at most `params.max_tokens`.

        Ends early where the context is full. Equal prompts, parameters and seed give
        equal tokens.

        Raises:
          UsageError, BadData: as `logits`.
        """
        timing = timing or Timing()
        ids = self.check_tokens(np.asarray(prompt).reshape(1, -1))[0]
        room = self.spec.max_positions - len(ids)
        budget = min(params.max_tokens, room)
        if budget <= 0:
            raise UsageError(
                "tokens.context_length",
                f"the prompt's {len(ids)} tokens fill the context of {self.spec.max_positions}",
                "shorten the prompt",
            )
        rows = SamplingRows.of([params])
        capacity = self._capacity(len(ids) + budget)
        started = time.perf_counter()
        logits, cache = self.prefill(ids, capacity)
        token = int(self.sample(logits, rows, np.zeros(1, np.int32))[0])
        timing.prompt_tokens = len(ids)
        timing.prefill_seconds = time.perf_counter() - started
        yield token
        step = self.decode_executable(1, capacity)
        zero = np.zeros(1, np.int32)
        for index in range(1, budget):
            started = time.perf_counter()
            start = np.asarray([len(ids) + index - 1], np.int32)
            tokens = np.asarray([[token]], np.int32)
            logits, cache, finite = step(self.packed, tokens, cache, start, zero)
            _require_finite(finite)
            token = int(self.sample(logits, rows, np.asarray([index], np.int32))[0])
            timing.decode_seconds += time.perf_counter() - started
            timing.decode_tokens += 1
            yield token

    def sample(self, logits: Any, rows: SamplingRows, step: np.ndarray) -> Any:
        """The next token of each row, as `sampling.sample`: int32 [batch], on the device."""
        if rows.temperature.any():
            return self._sampler(len(rows.temperature))(logits, rows, step)
        return self._greedy(len(rows.temperature))(logits)

    def _sampler(self, batch: int) -> Executable:
        rows = SamplingRows.of([SamplingParams()] * batch)
        step = jax.ShapeDtypeStruct((batch,), jnp.int32)
        args = (self._logits_shape(batch), rows, step)
        return self._executable(("sample", batch), lambda: sample, args, out_like=0)

    def _greedy(self, batch: int) -> Executable:
        args = (self._logits_shape(batch),)
        return self._executable(("greedy", batch), lambda: greedy_tokens, args, out_like=0)

    def _logits_shape(self, batch: int) -> Any:
        return jax.ShapeDtypeStruct((batch, self.spec.vocab_size), jnp.float32)

    def prefill(self, ids: np.ndarray, capacity: int) -> tuple[Any, Any]:
        """Runs a prompt [length], or rows of equal length [rows, length].

        Returns:
          The last logits [rows, vocab], and the cache.
        """
        rows = np.atleast_2d(ids)
        count = len(rows)
        cache = self.new_cache(count, capacity)
        logits = None
        for start, length in self._pieces(rows.shape[1], capacity):
            piece = rows[:, start : start + length]
            tokens = np.zeros((count, length), np.int32)
            tokens[:, : piece.shape[1]] = piece
            run = self.prefill_executable(count, length, capacity)
            last = np.full(count, piece.shape[1] - 1, np.int32)
            where = np.full(count, start, np.int32)
            logits, cache, finite = run(self.packed, tokens, cache, where, last)
            _require_finite(finite)
        return logits, cache

    def new_cache(self, batch: int, capacity: int) -> Any:
        """An empty cache of `batch` rows, as the executables take it."""
        return self._empty_cache(batch, capacity)

    def _empty_cache(self, batch: int, capacity: int) -> Any:
        if self.kv == "float32":
            return self._family.cache(self.spec, batch, capacity)
        return KVCache.empty(self.spec, batch, capacity, self.kv)

    def prefill_executable(self, batch: int, length: int, capacity: int) -> Executable:
        """The compiled prefill of a piece of `length` tokens of `batch` rows."""
        return self._step_executable("prefill", batch, length, capacity)

    def pieces(self, tokens: int, capacity: int) -> list[tuple[int, int]]:
        """Start and padded length of each piece that a prompt of `tokens` is run in."""
        return list(self._pieces(tokens, capacity))

    def capacity(self, tokens: int) -> int:
        """The length of the cache that holds `tokens`."""
        return self._capacity(tokens)

    def decode_executable(self, batch: int, capacity: int) -> Executable:
        """The compiled decode step of `batch` rows."""
        return self._step_executable("decode", batch, 1, capacity)

    def receipt(self) -> Receipt:
        """The receipt of the decode step (of what was compiled, else compiles the smallest)."""
        for key, executable in self._compiled.items():
            if key[0] == "decode":
                return executable.receipt
        return self.decode_executable(1, self._capacity(1)).receipt

    def warm_up(self, prompt_tokens: int, params: SamplingParams) -> None:
        """Compiles what a generation from a prompt of this length needs."""
        capacity = self._capacity(prompt_tokens + params.max_tokens)
        for _, length in self._pieces(prompt_tokens, capacity):
            self._step_executable("prefill", 1, length, capacity)
        self.decode_executable(1, capacity)
        self._sampler(1) if params.temperature else self._greedy(1)

    # ------------------------------------------------------------------ buckets
    def _pieces(self, tokens: int, capacity: int) -> Iterator[tuple[int, int]]:
        """Start and padded length of each piece that a prompt of `tokens` is run in."""
        start = 0
        while start < tokens:
            fitting = (size for size in PREFILL_LENGTHS if size >= tokens - start)
            length = min(next(fitting, PREFILL_LENGTHS[-1]), capacity)
            # A padded piece must not run past the cache: a clamped write would shift it.
            start = min(start, capacity - length)
            yield start, length
            start += length

    def _capacity(self, tokens: int) -> int:
        # Never over the context; a context that is no power of two is a bucket of its own.
        return min(_bucket(tokens, SMALLEST_CACHE), max(self.spec.max_positions, 1))

    def _step_executable(self, kind: str, batch: int, length: int, capacity: int) -> Executable:
        int32 = jnp.int32
        cache = jax.eval_shape(lambda: self._empty_cache(batch, capacity))
        args = (
            self.packed,
            jax.ShapeDtypeStruct((batch, length), int32),
            cache,
            jax.ShapeDtypeStruct((batch,), int32),
            jax.ShapeDtypeStruct((batch,), int32),
        )
        key = (kind, batch, length, capacity)
        return self._executable(key, lambda: self._step, args, donate=(1,), out_like=(0, cache, 0))

    def _executable(
        self,
        key: tuple[Any, ...],
        fn: Callable[[], Callable[..., Any]],
        args: tuple[Any, ...],
        *,
        out_like: Any,
        donate: Sequence[int] = (),
    ) -> Executable:
        """What is compiled for `key`, once: `fn()` for `args`, whose results are as `out_like`.

        The first part of a key names the function.
        """
        if key in self._compiled:
            return self._compiled[key]

        def make() -> Executable:
            return compile_function(fn(), *args, donate=donate, implementation=self.implementation)

        if self.keep_compiled and self._is_ours:
            asked = f"{key[0]} {donate} {self.implementation} {self.spec.to_json()}"
            self._compiled[key] = compiled_once(asked, make, args, out_like)
        else:
            self._compiled[key] = make()
        return self._compiled[key]


def _checked(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` with one more result: whether every logit is a number."""

    def checked(*args: Any) -> tuple[Any, Any, Any]:
        logits, cache = step(*args)
        return logits, cache, jnp.isfinite(logits).all()

    return checked


def _require_finite(finite: Any) -> None:
    # Sampling from NaN would give text that looks like any other.
    if not bool(finite):
        raise BadData(
            "model.not_finite",
            "the model's logits are NaN or infinite",
            "`bitnet model validate` finds the weights at fault",
        )


def _bucket(size: int, smallest: int) -> int:
    """The smallest power of two times `smallest` that holds `size`."""
    bucket = smallest
    while bucket < size:
        bucket *= 2
    return bucket
