"""ONNX Runtime on a decoder's graph, named as `optimum` names its inputs and outputs.

`input_ids` gives `logits`; `past_key_values.*` gives `present.*` where the graph has a cache.
Without one each step runs all tokens so far, and that is said.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bitnet_jax.bench.peers.runner import CONTEXT, Job
from bitnet_jax.core.errors import BadData

_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}
_TYPES |= {"tensor(float16)": np.float16}
_PAST, _PRESENT = "past_key_values.", "present."


class OnnxRuntime:
    """One session on the CPU."""

    def __init__(self, job: Job):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._job, self._version = job, onnxruntime.__version__
        self._session = onnxruntime.InferenceSession(
            job.model, options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {one.name: one for one in self._session.get_inputs()}
        self._outputs = [one.name for one in self._session.get_outputs()]
        if "input_ids" not in self._inputs or "logits" not in self._outputs:
            raise BadData(
                "bench.onnx_inputs",
                f"`{job.model}` takes {', '.join(self._inputs)} and gives "
                f"{', '.join(self._outputs)}: it needs `input_ids` and `logits`",
                "export it as a decoder, with names as `optimum` gives them",
            )
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "position_ids"}
        self._past = sorted(name for name in unknown if name.startswith(_PAST))
        if unknown - set(self._past):
            raise BadData(
                "bench.onnx_inputs",
                f"`{job.model}` also takes {', '.join(sorted(unknown - set(self._past)))}",
                "export it without them",
            )
        self._vocabulary = self._session.get_outputs()[self._outputs.index("logits")].shape[-1]

    def facts(self) -> dict[str, Any]:
        return {
            "version": self._version,
            "kernel": "CPUExecutionProvider" + ("" if self._past else ", no cache in the graph"),
            "weight_bytes": None,
            "positions": None,
        }

    def _ids(self, batch: int, length: int) -> np.ndarray:
        top = self._vocabulary if isinstance(self._vocabulary, int) else 2
        return np.random.default_rng(0).integers(0, top, (batch, length))

    def _empty(self, batch: int) -> dict[str, np.ndarray]:
        found = {}
        for name in self._past:
            one = self._inputs[name]
            _, heads, _, size = one.shape
            found[name] = np.zeros((batch, heads, 0, size), _TYPES[one.type])
        return found

    def _run(self, ids: np.ndarray, before: int, past: dict[str, np.ndarray]) -> Any:
        batch, length = ids.shape
        given = {
            "input_ids": ids,
            "attention_mask": np.ones((batch, before + length)),
            "position_ids": np.tile(np.arange(before, before + length), (batch, 1)),
        }
        feed = {
            name: value.astype(_TYPES[self._inputs[name].type])
            for name, value in given.items()
            if name in self._inputs
        }
        out = dict(zip(self._outputs, self._session.run(None, feed | past), strict=True))
        kept = {name: out[_PRESENT + name.removeprefix(_PAST)] for name in past}
        return out["logits"][:, -1].argmax(-1)[:, None], kept

    def prefill(self, batch: int) -> float:
        ids, past = self._ids(batch, self._job.prompt), self._empty(batch)
        begun = time.perf_counter()
        self._run(ids, 0, past)
        return time.perf_counter() - begun

    def decode(self, batch: int) -> float:
        ids = self._ids(batch, CONTEXT)
        token, past = self._run(ids, 0, self._empty(batch))
        begun = time.perf_counter()
        for index in range(self._job.decode):
            if self._past:
                token, past = self._run(token, CONTEXT + index, past)
            else:
                ids = np.concatenate([ids, token], 1)
                token, past = self._run(ids, 0, past)
        return time.perf_counter() - begun


def open_model(job: Job) -> OnnxRuntime:
    return OnnxRuntime(job)
