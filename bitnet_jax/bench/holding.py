"""How the model that is measured is held and run: what `bj.load` takes, too.

Knows nothing of what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.ops.native import library as native
from bitnet_jax.ops.threads import check_threads, set_threads
from bitnet_jax.quant.cache_rows import check_cache
from bitnet_jax.runtime.model import Model
from bitnet_jax.runtime.resident import check_held


@dataclass(frozen=True)
class Holding:
    """What was asked for, checked; None: as it is without asking.

    Attributes:
      head: kind of the embedding and the head.
      layout: of the trits.
      threads: of a CPU kernel.
      kv: what the KV cache holds.
    """

    head: str | None = None
    layout: str | None = None
    threads: int | None = None
    kv: str = "float32"

    def __post_init__(self) -> None:
        check_held(self.head, self.layout)
        check_cache(self.kv)
        if self.threads is not None:
            check_threads(self.threads)

    def model(self, checkpoint: Checkpoint) -> Model:
        """The model on the device."""
        if self.threads is not None:
            set_threads(self.threads)
        return Model(checkpoint, head=self.head, layout=self.layout, kv=self.kv)

    def settings(self) -> dict[str, Any]:
        """As records say it: two of them are compared only where these are equal."""
        threads = native.threads() if native.status().available else None
        return {"head": self.head, "layout": self.layout, "kv": self.kv, "threads": threads}
