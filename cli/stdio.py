"""stdin, stdout and stderr as the program may meet them: closed, full, no text, read no further.

What becomes of a write that fails is decided here, for data (stdout) and for talk (stderr), and
what becomes of bytes on stdin that are no text.
Knows nothing of what is written. `bitnet --help` loads this file: it imports little.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, Protocol

from bitnet_jax.core.errors import BadData, IOFailure


class OutputClosed(BaseException):
    """Whoever read stdout has read enough (`| head`).

    Not an Exception: the library must not take it for a failure of its own.
    """


class Writer(Protocol):
    """What progress and the log need of a stream."""

    def write(self, text: str, /) -> Any: ...

    def flush(self) -> None: ...


class Input:
    """stdin: text, or an error that says where it is none.

    Each line is looked at when it is read, so that those before a bad one have been of use.
    """

    def __init__(self, stream: Any):
        if isinstance(stream, io.TextIOWrapper):
            # No byte fails to decode: Python decodes ahead, and would fail lines too early.
            stream.reconfigure(errors="surrogateescape")
        self._stream, self._lines = stream, 0

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def readline(self) -> str:
        return self._read("readline")

    def read(self) -> str:
        return self._read("read")

    def _read(self, how: str) -> str:
        try:
            return self._checked(getattr(self._stream, how)())
        except OSError as error:  # opened for writing only, say
            from bitnet_jax.core.outputs import os_failure

            raise os_failure(error, "read", "stdin") from error

    def _checked(self, text: str) -> str:
        """Returns `text`.

        Raises:
          BadData: a byte of it was no text (``cli.stdin_not_text``).
        """
        bad = next((at for at, c in enumerate(text) if "\udc80" <= c <= "\udcff"), None)
        if bad is not None:
            encoding = (getattr(self._stream, "encoding", None) or "utf-8").upper()
            line = self._lines + text.count("\n", 0, bad) + 1
            raise BadData(
                "cli.stdin_not_text",
                f"stdin, line {line}: the byte 0x{ord(text[bad]) - 0xDC00:02x} is no {encoding} "
                "text",
                "convert it first: iconv -f LATIN1 -t UTF-8"
                if encoding == "UTF-8"
                else "set a locale that is UTF-8: LC_ALL=C.UTF-8",
            )
        self._lines += text.count("\n")
        return text


class _Stream:
    """A text stream, or None for one that was closed before the program began."""

    def __init__(self, stream: Any):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal in an old encoding shows an escape where it lacks the character.
            stream.reconfigure(errors="backslashreplace")
        self.stream = stream

    @property
    def encoding(self) -> str:
        return getattr(self.stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        try:
            return self.stream is not None and self.stream.isatty()
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        if self.stream is None:
            raise io.UnsupportedOperation("fileno")
        return self.stream.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _hush(self) -> None:
        """Points the descriptor at nothing: else Python's flush at exit would fail again."""
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
        except (OSError, ValueError, AttributeError):
            self.stream = None  # no descriptor of its own: nothing is flushed at exit


class Output(_Stream):
    """stdout: data. A write that fails is `OutputClosed` (a reader left), or an error.

    Attributes:
      line_open: whether what was written last ended within a line.
      written: whether anything was.
      outcome: the exit code of the record that was written whole, once it was.
    """

    line_open = written = False
    outcome: int | None = None

    def write(self, text: str) -> int:
        if text:
            self.written = True
            self._try("write", text)
            self.line_open = not text.endswith("\n")
        return len(text)

    def flush(self) -> None:
        if self.stream is not None:
            self._try("flush")

    def _try(self, action: str, *words: str) -> None:
        """Does it.

        Raises:
          OutputClosed: nobody reads on.
          IOFailure: the system refuses.
        """
        number: int | None = errno.EBADF
        reason = os.strerror(errno.EBADF)
        try:
            if self.stream is not None:
                getattr(self.stream, action)(*words)
                return
        except BrokenPipeError as error:
            self._hush()
            raise OutputClosed from error
        except (OSError, ValueError) as error:
            self._hush()
            number = getattr(error, "errno", None)
            reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot write to stdout: {reason}"
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise IOFailure("io.disk_full", message, "free some space, or send stdout elsewhere")
        raise IOFailure("io.stdout", message, "send stdout to a file, a pipe or a terminal")


class Talk(_Stream):
    """stderr: talk. Where nobody can be told, nobody is; the outcome stays what it is.

    Attributes:
      line_open: whether what was written last ended within a line, as a question does.
      told: whether an error was.
    """

    line_open = told = False

    def write(self, text: str) -> int:
        if text:
            self._try("write", text)
            self.line_open = not text.endswith("\n")
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def _try(self, action: str, *words: str) -> None:
        if self.stream is None:
            return
        try:
            getattr(self.stream, action)(*words)
        except (OSError, ValueError):
            self._hush()


def standard() -> tuple[Input, Output, Talk]:
    """Returns stdin, stdout and stderr, fit to be used."""
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if stream is None:
            _occupy(number)
    talk = Talk(sys.stderr)
    if sys.stderr is None:
        sys.stderr = talk  # print(file=None) would go to stdout
    return Input(sys.stdin or io.StringIO()), Output(sys.stdout), talk


def _occupy(number: int) -> None:
    """Puts something behind a closed descriptor.

    Else the next file opened would get its number, and whatever C++ prints would go into it.
    """
    try:
        os.fstat(number)
    except OSError:
        # The lowest free number is given: those below it were occupied before.
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
