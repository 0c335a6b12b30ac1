"""One checked pass over a checkpoint: findings, digests, and what a probe needs of its tensors.

Stands on the survey of `formats`; adds progress, and the forms that programs are traced over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.doctor import Examiner, Finding
from bitnet_jax.formats.survey import Seen, Survey
from bitnet_jax.quant.digest import Digest
from bitnet_jax.runtime.stepwise import form_of
from bitnet_jax.workflows.contract import Side


class Pass:
    """A pass over `checkpoint`, whoever reads its tensors; `finish` reads those that are left.

    Attributes:
      forms: by name, `stepwise.form_of` what was read.
    """

    def __init__(self, checkpoint: Checkpoint, step: Callable[[str], None]):
        self.checkpoint = checkpoint
        self.forms: dict[str, Any] = {}
        self._examiner, self._step, self._guard = Examiner(checkpoint), step, threading.Lock()
        self._survey = Survey(checkpoint, (self._examiner, self))

    def see(self, name: str, value: Any) -> None:
        """As an observer: keeps the form of a tensor."""
        self._note(name, form_of(value))

    def begin(self, name: str) -> Callable[[np.ndarray | None], None]:
        """As an observer: keeps the form of a matrix that comes in pieces."""
        dtype: list[Any] = []

        def part(value: np.ndarray | None) -> None:
            if value is not None:
                dtype[:] = [value.dtype]
            else:
                shape = self.checkpoint.entries[name].shape
                self._note(name, jax.ShapeDtypeStruct(shape, dtype[0]))

        return part

    def _note(self, name: str, form: Any) -> None:
        self.forms[name] = form
        with self._guard:
            self._step(name)

    def watched(self) -> Checkpoint:
        """The checkpoint to read from."""
        return self._survey.watched()

    def digest(self) -> Digest:
        """The digests, once all was read."""
        return self._survey.digest

    def finish(self, jobs: int) -> None:
        """Reads what nobody has read yet."""
        self._survey.read_rest(jobs)

    def findings(self) -> tuple[Finding, ...]:
        """The doctor's, once all was read."""
        return self._examiner.findings(self.digest())

    @property
    def seen(self) -> dict[str, Seen]:
        """By name, what is kept of each tensor."""
        return self._survey.seen

    @property
    def side(self) -> Side:
        """What the contract is checked on."""
        return Side(self.checkpoint, self.seen)
