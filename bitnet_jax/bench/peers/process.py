"""The parent's side of a contestant: starts its process, asks, and looks at its memory.

Every contestant runs with the same number of threads, and threads that wait do not spin: they
would take the processor from whoever's turn it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from typing import Any

from bitnet_jax.bench.peers.runner import Job
from bitnet_jax.bench.peers.table import OURS, runtime
from bitnet_jax.core import errors
from bitnet_jax.core.errors import BitnetError, Unavailable
from bitnet_jax.core.pages import peak_resident

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "TOKENIZERS_PARALLELISM": "false"}
_TAIL = 800


class Peer:
    """One contestant. A context manager: its process ends with the block."""

    def __init__(self, name: str, job: Job):
        self.name, self._job = name, job
        self._module = runtime(name).module
        self._process: subprocess.Popen[str] | None = None
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> Peer:
        threads = dict.fromkeys(_THREADS, str(self._job.threads))
        offline = {} if self.name == OURS else {"HF_HUB_OFFLINE": "1"}  # ours is told by the job
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bitnet_jax.bench.peers.child", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env={**os.environ, **threads, **_QUIET, **offline},
        )
        try:
            self._ask({"do": "open", "job": asdict(self._job)})
            self.facts = self._ask({"do": "facts"})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, self._log):
            with contextlib.suppress(BrokenPipeError):  # a request that nobody read any more
                if stream is not None:
                    stream.close()

    def seconds(self, phase: str, batch: int) -> float:
        """Measures once."""
        return float(self._ask({"do": phase, "batch": batch}))

    def peak_bytes(self) -> int | None:
        """The most memory that the process held so far; None once it has ended."""
        assert self._process is not None
        return peak_resident(self._process.pid)

    def _ask(self, request: dict[str, Any]) -> Any:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._died()
        answer = json.loads(line)
        if "error" in answer:
            kind, code, message, hint = answer["error"]
            if kind is not None:
                found: type[BitnetError] = getattr(errors, kind)
                raise found(code, message, hint)
            raise Unavailable(
                "bench.runtime_failed", f"`{self._job.model}` in {self.name}: {message}"
            )
        return answer["value"]

    def _died(self) -> BitnetError:
        assert self._process is not None
        code = self._process.wait()
        self._log.seek(0)
        said = self._log.read()[-_TAIL:].strip()
        return Unavailable(
            "bench.runtime_failed",
            f"the process of {self.name} on `{self._job.model}` ended with {code}"
            + (f": {said}" if said else ""),
            "did it run out of memory? take a smaller batch",
        )
