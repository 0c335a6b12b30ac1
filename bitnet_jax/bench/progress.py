"""Saying how far a benchmark is, to whoever listens.

Knows nothing of how that is shown.
"""

from __future__ import annotations

from typing import Any


class task:
    """A task of `progress`, if there is one; gives what is called when a unit is done."""

    def __init__(self, progress: Any, label: str, total: int | None, unit: str):
        self._task = progress.task(label, total, unit) if progress is not None else None

    def __enter__(self) -> Any:
        if self._task is None:
            return lambda: None
        task = self._task.__enter__()
        return lambda: task.update(1)

    def __exit__(self, *exception: object) -> None:
        if self._task is not None:
            self._task.__exit__(*exception)
