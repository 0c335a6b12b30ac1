"""This engine as a runner: the same rows that `bench run` measures."""

from __future__ import annotations

from typing import Any

from bitnet_jax.bench.peers.runner import Job
from bitnet_jax.bench.steps import Row, decode_row, prefill_row
from bitnet_jax.models.families import load_plugin
from bitnet_jax.runtime.model import load


class Ours:
    """A model of this package."""

    def __init__(self, job: Job):
        for file in job.plugins:
            load_plugin(file)
        model = load(
            job.model,
            head=job.head,
            kv=job.kv,
            layout=job.layout,
            threads=job.threads,
            offline=job.offline,
        )
        self._job, self._engine = job, model.engine
        self._rows: dict[tuple[str, int], Row] = {}

    def facts(self) -> dict[str, Any]:
        receipt = self._engine.receipt()
        return {
            "version": _version(),
            "kernel": receipt.kernel,
            "weight_bytes": receipt.weight_bytes + receipt.float_bytes,
            "positions": self._engine.spec.max_positions,
        }

    def prefill(self, batch: int) -> float:
        return self._seconds("prefill", batch, prefill_row, self._job.prompt)

    def decode(self, batch: int) -> float:
        return self._seconds("decode", batch, decode_row, self._job.decode)

    def _seconds(self, phase: str, batch: int, make: Any, tokens: int) -> float:
        key = (phase, batch)
        if key not in self._rows:
            self._rows[key] = make(self._engine, batch, tokens)
        return batch * tokens / self._rows[key].measure()


def _version() -> str:
    from importlib.metadata import version

    return version("bitnet-jax")


def open_model(job: Job) -> Ours:
    return Ours(job)
