"""`Model`: a checkpoint made ready to run; text in, text out.

Stands on the engine (token ids), the tokenizer and the formats; knows no command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.core.errors import UsageError
from bitnet_jax.core.memory import check_room_to_compile
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import Saved, save_checkpoint
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.ops.threads import set_threads
from bitnet_jax.quant.digest import Digest, digest
from bitnet_jax.runtime.chat import ChatTemplate, encode_chat, end_of_turn_ids
from bitnet_jax.runtime.engine import Engine, Timing
from bitnet_jax.runtime.resident import to_device
from bitnet_jax.runtime.sampling import SamplingParams
from bitnet_jax.runtime.stops import StopRules
from bitnet_jax.runtime.stream import Piece, stream_text
from bitnet_jax.runtime.tokenizer import Tokenizer
from bitnet_jax.stores.address import require_local

Stream = Callable[[str], object]


@dataclass(frozen=True)
class Generation:
    """What one generation gave.

    Attributes:
      text: the new text, less what followed a stop.
      tokens: the new ids, the end id included.
      finish: ``stop``, ``eos`` or ``length``.
      decode_tokens_per_second: of the decode steps alone; None before there was one.
      kernel: implementation of the ternary products, with its instruction set.
    """

    text: str
    tokens: list[int]
    finish: str
    prompt_tokens: int
    prefill_seconds: float
    decode_tokens_per_second: float | None
    kernel: str
    kernel_reason: str
    profile: str = "exact"


class Model:
    """One model on the default device.

    Attributes:
      spec: the decoder's hyperparameters.
      packed: its parameters: packed codes and float32 arrays.
      engine: token-level prefill and decode.
      profile: ``exact``, or ``fast`` where the head or the KV cache is held in fewer bits.
      checkpoint: what it was read from.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        implementation: str | None = None,
        head: str | None = None,
        layout: str | None = None,
        kv: str = "float32",
        keep_compiled: bool = False,
    ):
        """Reads every tensor of `checkpoint` onto the device.

        Args:
          head: how the embedding and the head are held: ``int8``, ``int6`` or ``int4`` (profile
            ``fast``), or as the checkpoint has them if None (profile ``exact``).
          layout: how trits are to lie in memory; as the checkpoint has them if None.
          kv: how the KV cache is held: ``float32``, or ``int8`` (profile ``fast``).
          keep_compiled: as `load` takes it.

        Raises:
          UsageError: there is no such layout of trits (``tensor.layout_unknown``).
          Unavailable: memory does not suffice (``memory.exhausted``).
        """
        check_room_to_compile()
        self.checkpoint = checkpoint
        self.packed = to_device(checkpoint, head, layout)
        self.profile = "exact" if head is None and kv == "float32" else "fast"
        self.engine = Engine(checkpoint.spec, self.packed, implementation, keep_compiled, kv)

    def __repr__(self) -> str:
        spec, source = self.spec, self.checkpoint.source
        return (
            f"Model({str(source.path)!r}, {source.format}, {spec.family}: {spec.num_layers} layers "
            f"of {spec.hidden_size}, vocabulary {spec.vocab_size})"
        )

    @property
    def spec(self) -> ModelSpec:
        """The decoder's hyperparameters."""
        return self.checkpoint.spec

    @property
    def digest(self) -> Digest:
        """Digests decoded from the very buffers that the executable reads."""
        return digest(self.packed.ternary())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
          UsageError: the checkpoint has none (``model.no_tokenizer``).
        """
        files = self.checkpoint.tokenizer
        if files is None:
            raise UsageError(
                "model.no_tokenizer",
                f"`{self.checkpoint.source.path}` holds no tokenizer",
                "put tokenizer.json beside the model and convert it again; token ids work without",
            )
        tokenizer = Tokenizer.from_files(files)
        tokenizer.check_fits(self.spec.vocab_size)
        return tokenizer

    def logits(self, tokens: Any) -> np.ndarray:
        """Logits of every position, profile ``exact``.

        Args:
          tokens: ids [batch, length], any integer dtype.

        Returns:
          float32 [batch, length, vocab].
        """
        return self.engine.logits(tokens)

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        stream: Stream | None = None,
    ) -> Generation:
        """Continues `prompt` (text, or token ids).

        Args:
          stop: strings that end the text; they are not part of it.
          stream: called with each new piece of text.

        Raises:
          UsageError: a parameter out of range, an empty prompt, a full context.
        """
        ids = list(prompt) if not isinstance(prompt, str) else self.tokenizer.encode(prompt)
        params = SamplingParams(temperature, top_k, top_p, min_p, seed, max_tokens)
        return self._run(ids, params, StopRules.of(stop, self._end_ids()), stream)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        stream: Stream | None = None,
    ) -> Generation:
        """Answers a conversation (``[{"role": …, "content": …}]``) by the chat template."""
        files = self.checkpoint.tokenizer
        tokenizer = self.tokenizer
        assert files is not None
        template = ChatTemplate.from_files(files, tokenizer)
        ids = encode_chat(tokenizer, template, messages)
        ends = (*self._end_ids(), *end_of_turn_ids(tokenizer, template))
        params = SamplingParams(temperature, top_k, top_p, min_p, seed, max_tokens)
        return self._run(ids, params, StopRules.of(stop, ends), stream)

    def save(
        self,
        path: os.PathLike | str,
        *,
        format: str | None = None,
        encoding: str | None = None,
        force: bool = False,
    ) -> Saved:
        """Writes the checkpoint that this model was read from, in any format."""
        require_local(path, "what `save` writes", "`bj.convert` writes to a store")
        return save_checkpoint(
            self.checkpoint, Path(path), format=format, encoding=encoding, force=force
        )

    def _end_ids(self) -> tuple[int, ...]:
        known = self.tokenizer.eos_ids if self.checkpoint.tokenizer else ()
        return (*self.spec.eos_token_ids, *known)

    def _pieces(self, source: Iterator[int], stops: StopRules) -> Iterator[Piece]:
        """Pieces of text; without a tokenizer, of tokens alone."""
        if self.checkpoint.tokenizer is not None or stops.strings:
            yield from stream_text(source, self.tokenizer, stops)
            return
        for token in source:
            end = token in stops.ids
            yield Piece("", (token,), "eos" if end else None)
            if end:
                return

    def _run(
        self, ids: Sequence[int], params: SamplingParams, stops: StopRules, stream: Stream | None
    ) -> Generation:
        if not len(ids):
            raise UsageError("prompt.empty", "the prompt has no tokens", "give some text")
        self.engine.check_tokens([list(ids)])
        self.engine.warm_up(len(ids), params)
        timing = Timing()
        text, finish = "", "length"
        tokens: list[int] = []
        source = self.engine.generate(ids, params, timing)
        for piece in self._pieces(source, stops):
            text += piece.text
            tokens += piece.tokens
            finish = piece.finish or finish
            if stream is not None and piece.text:
                stream(piece.text)
        receipt = self.engine.receipt()
        return Generation(
            text=text,
            tokens=tokens,
            finish=finish,
            prompt_tokens=timing.prompt_tokens,
            prefill_seconds=timing.prefill_seconds,
            decode_tokens_per_second=timing.decode_tokens_per_second,
            kernel=receipt.kernel,
            kernel_reason=receipt.kernel_reason,
            profile=self.profile,
        )


def load(
    path: os.PathLike | str,
    *,
    implementation: str | None = None,
    head: str | None = None,
    layout: str | None = None,
    threads: int | None = None,
    kv: str = "float32",
    keep_compiled: bool = False,
    offline: bool | None = None,
    progress: Any = None,
) -> Model:
    """Opens a model of any format (told by its content) on the default device.

    Args:
      path: a path, an id of the local Hugging Face cache, or an address, which is fetched:
        ``hf://org/name@revision``, ``gs://…``, ``s3://…``.
      head: as `Model` takes it.
      layout: how trits lie in memory, ``t2.16x16`` (2 bits) or ``t1.16x20`` (1.6 bits: less to
        read for each token, on processors with AVX-512 VBMI); as the file has them if None.
        Results are the same to the bit.
      threads: of each CPU kernel of this process from now on; None leaves them as they are
        (at first one for each processor it may use).
      kv: as `Model` takes it.
      keep_compiled: take compiled programs from this user's cache, and keep them there: the next
        start neither traces nor compiles. The command line does.
      offline, progress: as `open_checkpoint` takes them.

    Raises:
      NoInput, BadData: there is none, or it is damaged; the code says which.
      Unavailable, PermissionDenied, IOFailure: it could not be fetched.
    """
    if threads is not None:
        set_threads(threads)
    checkpoint = open_checkpoint(path, offline=offline, progress=progress)
    return Model(
        checkpoint,
        implementation=implementation,
        head=head,
        layout=layout,
        kv=kv,
        keep_compiled=keep_compiled,
    )
