"""A program at a real terminal: a pseudo-terminal of a given size that types and looks.

The program is the leader of its own session and the terminal controls it, so that a typed Ctrl-C
is the signal that a person's would be.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

ESCAPES = re.compile(r"\x1b(\[[0-9;?>=]*[a-zA-Z]|\][^\x07\x1b]*(\x07|\x1b\\)|[=>()][0-9A-Z]?)")


class Terminal:
    """What was typed to and shown by one program."""

    def __init__(self, process: subprocess.Popen, master: int):
        self.process, self.master = process, master
        self.raw = b""

    @property
    def screen(self) -> str:
        """All that was shown so far, without escapes."""
        return ESCAPES.sub("", self.raw.decode("utf-8", "replace")).replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Types `text`; "\\x03" is Ctrl-C, "\\x04" Ctrl-D, "\\t" TAB."""
        os.write(self.master, text.encode())

    def read(self, seconds: float) -> bool:
        """Takes what comes within `seconds`; returns whether anything can still come."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            more = os.read(self.master, 65536)
        except OSError:  # nobody holds the other end any more
            return False
        self.raw += more
        return bool(more)

    def wait_for(self, text: str, timeout: float = 60) -> str:
        """Reads until `text` is on the screen, past what was there; returns the screen."""
        end = time.monotonic() + timeout
        while text not in self.screen:
            alive = self.read(0.1)
            assert alive or text in self.screen, f"ended without {text!r}: {self.screen!r}"
            assert time.monotonic() < end, f"no {text!r} in {timeout} s: {self.screen!r}"
        return self.screen

    def settle(self, quiet: float = 0.4, timeout: float = 20) -> str:
        """Reads until nothing has come for `quiet` seconds; returns the screen."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            before = len(self.raw)
            if not self.read(quiet) or len(self.raw) == before:
                break
        return self.screen

    def end(self, timeout: float = 120) -> int:
        """Reads to the end; returns the exit code."""
        end = time.monotonic() + timeout
        while self.read(0.1) and time.monotonic() < end:
            if self.process.poll() is not None and not select.select([self.master], [], [], 0)[0]:
                break
        return self.process.wait(timeout=max(1, end - time.monotonic()))


@contextlib.contextmanager
def terminal(
    *argv: object, cwd: Path, env: dict[str, str] | None = None, columns: int = 80, rows: int = 24
) -> Iterator[Terminal]:
    """Runs a program at a terminal of its own; it does not outlive the block."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    # NO_COLOR and COLUMNS are set for the tests; a person's terminal has neither.
    given = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *map(str, argv)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=cwd,
        env={**given, "TERM": "xterm", **(env or {})},
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(master)
