"""Ctrl-C and SIGTERM as exceptions, raised where that is safe.

Python runs a signal's handler between any two instructions. Inside JAX those may lie in a
callback that C++ made and that must not raise: the process would be aborted where it stands,
half-written files and all. So while JAX is on the stack, the exception waits until it is not.
Knows nothing of commands.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from .failure import Terminated

RAISED: dict[int, type[BaseException]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
}
# Packages that call Python from C++ which cannot pass an exception on.
FRAGILE = frozenset({"jax", "jaxlib"})
_AGAIN_SECONDS = 0.02


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Makes both signals unwind the block, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    stops = _Stops()
    before = {number: signal.getsignal(number) for number in RAISED}
    mine = [number for number, handler in before.items() if handler != signal.SIG_IGN]  # nohup
    for number in mine:
        signal.signal(number, stops.handle)
    try:
        yield
    finally:
        stops.over = True
        for number in mine:
            handler = before[number]
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Stops:
    """The handler; `waiting` while a signal is held back, `over` after the block."""

    def __init__(self) -> None:
        self.waiting = self.over = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.waiting:
            return  # a second Ctrl-C: the first one is still to come
        if not _fragile(frame):
            raise RAISED[number]
        self.waiting = True
        timer = threading.Timer(_AGAIN_SECONDS, self._again, (number,))
        timer.daemon = True
        timer.start()

    def _again(self, number: int) -> None:
        self.waiting = False
        if not self.over:
            os.kill(os.getpid(), number)


def _fragile(frame: FrameType | None) -> bool:
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in FRAGILE:
            return True
        frame = frame.f_back
    return False
