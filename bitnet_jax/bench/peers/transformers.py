"""Hugging Face `transformers` on PyTorch, in bfloat16 as its users run it on a CPU."""

from __future__ import annotations

import time
from typing import Any

from bitnet_jax.bench.peers.runner import CONTEXT, Job


class Transformers:
    """A causal language model with its own cache; each step takes the likeliest token."""

    def __init__(self, job: Job):
        import torch
        import transformers

        self._torch, self._job = torch, job
        torch.set_num_threads(job.threads)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            job.model, dtype=torch.bfloat16, local_files_only=True
        ).eval()
        self._vocabulary = int(self._model.config.vocab_size)
        self._version = transformers.__version__

    def facts(self) -> dict[str, Any]:
        parameters = self._model.parameters()
        return {
            "version": self._version,
            "kernel": f"torch {self._torch.__version__}, bfloat16",
            "weight_bytes": sum(p.numel() * p.element_size() for p in parameters),
            "positions": int(getattr(self._model.config, "max_position_embeddings", 0)) or None,
        }

    def _ids(self, batch: int, length: int) -> Any:
        generator = self._torch.Generator().manual_seed(0)
        return self._torch.randint(0, self._vocabulary, (batch, length), generator=generator)

    def prefill(self, batch: int) -> float:
        ids = self._ids(batch, self._job.prompt)
        with self._torch.inference_mode():
            begun = time.perf_counter()
            self._model(ids, use_cache=True, logits_to_keep=1)
            return time.perf_counter() - begun

    def decode(self, batch: int) -> float:
        with self._torch.inference_mode():
            out = self._model(self._ids(batch, CONTEXT), use_cache=True, logits_to_keep=1)
            begun = time.perf_counter()
            for _ in range(self._job.decode):
                token = out.logits[:, -1:].argmax(-1)
                out = self._model(token, past_key_values=out.past_key_values, use_cache=True)
            return time.perf_counter() - begun


def open_model(job: Job) -> Transformers:
    return Transformers(job)
