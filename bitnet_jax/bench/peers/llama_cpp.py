"""llama.cpp through the C interface that `llama-cpp-python` binds: GGUF files.

A batch is sequences of one context, all in one call, as its server runs them.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bitnet_jax.bench.peers.runner import CONTEXT, Job
from bitnet_jax.core.errors import BadData


class LlamaCpp:
    """A model and one context that holds the largest batch."""

    def __init__(self, job: Job):
        import llama_cpp

        self._api, self._job = llama_cpp, job
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            job.model.encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise BadData("bench.gguf", f"llama.cpp cannot read `{job.model}`", "see the log above")
        most = max(job.batches)
        length = max(job.prompt, CONTEXT + job.decode)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = most * length
        params.n_batch = params.n_ubatch = max(512, most)
        params.n_seq_max = most
        params.n_threads = params.n_threads_batch = job.threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise BadData("bench.gguf", f"llama.cpp makes no context for `{job.model}`")
        self._chunk = int(params.n_batch)
        self._batch = llama_cpp.llama_batch_init(self._chunk, 0, 1)
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocabulary = int(llama_cpp.llama_vocab_n_tokens(vocabulary))

    def facts(self) -> dict[str, Any]:
        api = self._api
        return {
            "version": api.__version__,
            "kernel": api.llama_print_system_info().decode(errors="replace").strip(),
            "weight_bytes": int(api.llama_model_size(self._model)),
            "positions": int(api.llama_model_n_ctx_train(self._model)),
        }

    def _feed(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Runs tokens: (id, position, sequence, whether its logits are asked for)."""
        for begin in range(0, len(rows), self._chunk):
            part = rows[begin : begin + self._chunk]
            self._batch.n_tokens = len(part)
            for place, (token, position, sequence, asked) in enumerate(part):
                self._batch.token[place] = token
                self._batch.pos[place] = position
                self._batch.n_seq_id[place] = 1
                self._batch.seq_id[place][0] = sequence
                self._batch.logits[place] = asked
            failed = self._api.llama_decode(self._context, self._batch)
            if failed:
                raise BadData("bench.gguf", f"llama.cpp's decode answered {failed}")

    def _likeliest(self, batch: int) -> list[int]:
        found = []
        for row in range(batch):
            logits = self._api.llama_get_logits_ith(self._context, row - batch)
            found.append(int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax()))
        return found

    def _prompt(self, batch: int, length: int) -> list[tuple[int, int, int, bool]]:
        ids = np.random.default_rng(0).integers(0, self._vocabulary, (batch, length))
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        return [
            (int(ids[row, at]), at, row, at == length - 1)
            for row in range(batch)
            for at in range(length)
        ]

    def prefill(self, batch: int) -> float:
        rows = self._prompt(batch, self._job.prompt)
        begun = time.perf_counter()
        self._feed(rows)
        self._api.llama_synchronize(self._context)
        return time.perf_counter() - begun

    def decode(self, batch: int) -> float:
        self._feed(self._prompt(batch, CONTEXT))
        tokens = [0] * batch
        begun = time.perf_counter()
        for index in range(self._job.decode):
            at = CONTEXT + index
            self._feed([(token, at, row, True) for row, token in enumerate(tokens)])
            tokens = self._likeliest(batch)
        return time.perf_counter() - begun


def open_model(job: Job) -> LlamaCpp:
    return LlamaCpp(job)
