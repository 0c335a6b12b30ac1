"""What every runtime's file gives: one model that prefills and decodes, and says what it is.

The contract of `open_model(path, threads, batches, prompt, decode) -> Runner` in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

# Tokens that stand in the cache before a decode, in every runtime.
CONTEXT = 16


@dataclass(frozen=True)
class Job:
    """What will be asked of a runner: it may get ready for that, and for no more.

    Attributes:
      model: a path, or what else the runtime takes for a model.
      threads: how many it may use.
      batches: every batch that will be asked for.
      prompt, decode: tokens of a prefill and of a decode.
      plugins, offline, head, kv, layout: for this package's own runner, as `load_plugin` and
        `load` take them.
    """

    model: str
    threads: int
    batches: tuple[int, ...]
    prompt: int
    decode: int
    plugins: tuple[str, ...] = ()
    offline: bool | None = None
    head: str | None = None
    kv: str = "float32"
    layout: str | None = None


class Runner(Protocol):
    """One model in one runtime. The first call of each kind is a warm-up, and not counted."""

    def facts(self) -> dict[str, Any]:
        """Version, kernel, bytes of weights: what a result must name."""

    def prefill(self, batch: int) -> float:
        """Runs prompts of the job's length; returns seconds."""

    def decode(self, batch: int) -> float:
        """Adds the job's tokens to each sequence, one at a time; returns seconds."""
