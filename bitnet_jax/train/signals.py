"""Signals as an event: SIGTERM and Ctrl-C let the step in hand end, and the state be saved.

Knows nothing of training; whoever polls the event raises `Resumable`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from bitnet_jax.core.errors import Resumable


@contextlib.contextmanager
def stop_on_signals(
    signals: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT),
) -> Iterator[threading.Event]:
    """Gives an event that the first such signal sets; a second one acts as usual.

    A Ctrl-C ends as KeyboardInterrupt in the end, but only after the block saved.
    Only the main thread may set handlers: elsewhere the event is never set.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in signals}

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in signals:
        signal.signal(number, handle)
    try:
        yield event
    except Resumable as error:
        if received and received[0] == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
