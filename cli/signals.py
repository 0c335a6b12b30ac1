"""Ctrl-C and SIGTERM as exceptions, raised where that is safe.

Python runs a signal's handler between any two instructions. Inside JAX those may lie in a
callback that C++ made and that must not raise: the process would be aborted where it stands,
half-written files and all. So while JAX is on the stack, the exception waits until it is not. It
waits while a module is imported, too: an extension in C may make a broken import of it, with words
of its own; and in callbacks of the garbage collector, where it would be lost.
Knows nothing of commands. `bitnet --help` loads this file: it imports little.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType


class Terminated(BaseException):
    """SIGTERM came; raised in the main thread so that what is half-written is removed."""


RAISED: dict[int, type[BaseException]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
}
# Packages that call Python from C++ which cannot pass an exception on.
FRAGILE = frozenset({"jax", "jaxlib"})
# Whatever these call is an import. A file of the user's is imported too, and may never end.
IMPORTING = frozenset({"importlib._bootstrap", "importlib._bootstrap_external"})
# From callbacks of the garbage collector nothing is passed on: it would be lost.
UNHEARD = frozenset({"__del__", "weakref_cb", "_xla_gc_callback"})
_IMPORT_SECONDS = 5.0
_AGAIN_SECONDS = 0.02
# A key that bounces, or a hasty second press, must not cut the tidying up short.
_ONE_PRESS_SECONDS = 0.3
_TELLING_SECONDS = 2.0
# How long a press may seem to do nothing.
_QUIET_SECONDS = 1.0


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Makes both signals unwind the block, so that temporary files are removed."""
    before = {number: signal.getsignal(number) for number in RAISED}
    stops = _Stops()
    mine = [number for number, handler in before.items() if handler != signal.SIG_IGN]  # nohup
    try:
        for number in mine:
            signal.signal(number, stops.handle)
    except ValueError:  # only the main thread may set handlers
        yield
        return
    try:
        yield
    finally:
        stops.over = True
        for number in mine:
            handler = before[number]
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def telling(code: int) -> Iterator[None]:
    """Lets the block say why it all ended, whatever is pressed.

    Not for ever: whoever reads may have stopped reading, and then a later press ends the process
    with `code`.
    """
    before = {number: signal.getsignal(number) for number in RAISED}
    until = time.monotonic() + _TELLING_SECONDS

    def handle(number: int, frame: FrameType | None) -> None:
        if time.monotonic() > until:
            os._exit(code)

    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, handle)
    except ValueError:  # only the main thread may set handlers
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Stops:
    """The handler; `waiting` while a signal is held back, `over` after the block."""

    def __init__(self) -> None:
        self.waiting = self.over = self.said = False
        self.raised, self.since = float("-inf"), float("inf")

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.waiting or time.monotonic() - self.raised < _ONE_PRESS_SECONDS:
            return  # a second Ctrl-C: the first one is still to come, or has just come
        self.since = min(self.since, time.monotonic())
        patient = time.monotonic() - self.since < _IMPORT_SECONDS
        if not _fragile(frame, patient):
            self.raised, self.since = time.monotonic(), float("inf")
            raise RAISED[number]
        self._say_why()
        import threading

        self.waiting = True
        timer = threading.Timer(_AGAIN_SECONDS, self._again, (number,))
        timer.daemon = True
        timer.start()

    def _say_why(self) -> None:
        """Tells a person at a terminal, once, why the keys they pressed have no effect yet."""
        if self.said or time.monotonic() - self.since < _QUIET_SECONDS:
            return
        self.said = True
        with contextlib.suppress(OSError):  # stderr may be closed
            if os.isatty(2):
                os.write(2, b"\nstopping, once what JAX is about is done\n")

    def _again(self, number: int) -> None:
        self.waiting = False
        if not self.over:
            os.kill(os.getpid(), number)


def _fragile(frame: FrameType | None, patient: bool) -> bool:
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if name.partition(".")[0] in FRAGILE or (patient and name in IMPORTING):
            return True
        if name == "weakref" or frame.f_code.co_name in UNHEARD:
            return True
        frame = frame.f_back
    return False
