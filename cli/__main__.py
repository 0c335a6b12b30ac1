"""The process `bitnet`: from its first instruction to its exit code.

Only signals are dealt with here, and before anything is imported: an import that a Ctrl-C
interrupts would print a traceback. What a command line means is `main`'s. `python -m bitnet_cli` is
the same. What Python does before it comes here (a tenth of a second) is out of our hands.
"""

from __future__ import annotations

# `signal` is a file, and takes a moment; what it is made of is part of Python itself.
import _signal  # type: ignore[import-not-found]  # no stub: `signal` is its face
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# Said of a signal that comes before anything has begun: its exit code and words.
EARLY = {
    _signal.SIGINT: (130, "cli.interrupted", "interrupted"),
    _signal.SIGTERM: (143, "cli.terminated", "ended by SIGTERM"),
}


def _end(number: int, frame: Any) -> None:
    """Says one line (and, if JSON was asked for, the envelope), and is gone."""
    _handle(_signal.SIG_IGN)  # the second press of two
    code, name, message = EARLY[number]
    try:
        os.write(2, f"error[{name}]: {message}\n".encode())
        from .guess import guess_emit  # small, and it imports nothing

        emit = guess_emit(sys.argv[1:], os.environ)
        if emit in ("json", "jsonl"):
            import json

            words = " ".join([word for word in sys.argv[1:3] if not word.startswith("-")])
            told = [{"code": name, "message": message, "hint": None}]
            record = {"schema": "bitnet/1", "command": words, "ok": False, "exit_code": code}
            record |= {"data": {}, "warnings": [], "errors": told}
            record |= {"event": "result"} if emit == "jsonl" else {}
            os.write(1, (json.dumps(record) + "\n").encode())
    finally:
        os._exit(code)


def entry() -> NoReturn:
    """Runs the process's own command line and ends with the exit code."""
    import atexit

    atexit.register(_handle, _signal.SIG_IGN)  # registered first, it runs last
    from .main import main

    code = main()
    # All is said and written: a signal from here on ends the process with that outcome. Python's
    # own handler would raise in whatever runs at exit (JAX clears its caches there).
    _handle(lambda *_: os._exit(code))
    sys.exit(code)


def _handle(how: Any) -> None:
    for number in _watched:
        _signal.signal(number, how)


_watched = [number for number in EARLY if _signal.getsignal(number) != _signal.SIG_IGN]  # nohup
_handle(_end)

if __name__ == "__main__":
    entry()
