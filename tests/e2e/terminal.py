"""`bitnet` as a person at a terminal meets it: an exit code, two streams, and files.

`here` runs a line in this process (as fast as a call), `spawn` in a process of its own.
`Folder` sees what a run did to a folder: every name, every byte, every time of change.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULE = (sys.executable, "-m", "bitnet_cli")
ERROR = re.compile(r"error\[([a-z_]+(?:\.[a-z0-9_]+)+)\]: \S.*")


@dataclass
class Ended:
    """How a run ended."""

    rc: int
    out: str
    err: str

    @property
    def envelope(self) -> dict[str, Any]:
        """The one JSON line that --json promises, and nothing beside it."""
        lines = self.out.splitlines()
        assert len(lines) == 1, f"one envelope and nothing else, not: {self.out[:2000]!r}"
        found = json.loads(lines[0])
        assert found["schema"] == "bitnet/1"
        assert found["exit_code"] == self.rc and found["ok"] == (self.rc == 0)
        return found

    @property
    def data(self) -> dict[str, Any]:
        """The record of a run that went well."""
        assert self.rc == 0, self.err
        return self.envelope["data"]

    @property
    def code(self) -> str:
        """The error's code, once the error has been seen to be told as it should."""
        assert "Traceback" not in self.err and "Traceback" not in self.out
        spoken = [line for line in self.err.splitlines() if not line.startswith("warning: ")]
        assert spoken, f"nothing was said; exit code {self.rc}"
        match = ERROR.fullmatch(spoken[0])
        assert match, f"the first line is no error: {self.err!r}"
        for number, line in enumerate(spoken):
            if line.startswith("hint: "):
                assert spoken[number - 1] == "" and len(line) > len("hint: ") + 3
        return match[1]

    @property
    def hint(self) -> str:
        """The hint, or nothing."""
        return self.err.partition("\n\nhint: ")[2].strip()

    def refused(self, rc: int, code: str) -> Ended:
        """Asserts that the run was refused so, with nothing but the envelope on stdout."""
        assert (self.rc, self.code) == (rc, code), f"{self.rc}\n{self.err}"
        if self.out:
            assert [error["code"] for error in self.envelope["errors"]] == [code]
        return self


def here(*argv: object) -> Ended:
    """Runs `bitnet *argv` in this process."""
    from bitnet_cli.main import main

    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            rc = main([str(word) for word in argv])
    finally:
        sys.stdin = before
    return Ended(rc, out.getvalue(), err.getvalue())


def start(*argv: object, cwd: Path, first: str = "true") -> subprocess.Popen:
    """Starts `bitnet *argv` in a process of its own; `finish` it.

    `first` is run by the shell that becomes the process: it may set limits.
    """
    return subprocess.Popen(
        ["sh", "-c", f'{first} && exec "$@"', "sh", *MODULE, *map(str, argv)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
    )


def finish(process: subprocess.Popen, timeout: float = 240) -> Ended:
    """Waits for a process; it never outlives the test."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return Ended(process.returncode, out.decode(), err.decode())


def spawn(*argv: object, cwd: Path, first: str = "true") -> Ended:
    """Runs `bitnet *argv` in a process of its own."""
    return finish(start(*argv, cwd=cwd, first=first))


def wait_for(folder: Path, pattern: str, process: subprocess.Popen, timeout: float = 120) -> Path:
    """Waits until something in `folder` matches `pattern`, while `process` runs."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found = next(iter(folder.glob(pattern)), None)
        if found is not None:
            return found
        assert process.poll() is None, finish(process)
        time.sleep(0.005)
    raise AssertionError(f"{pattern} did not appear in {timeout} s")


class Folder:
    """A folder as it stands now, to compare with how it stands later."""

    def __init__(self, path: Path):
        self.path = path
        self.before = self._look()

    def _look(self) -> dict[str, tuple]:
        return {str(item.relative_to(self.path)): _seen(item) for item in self.path.rglob("*")}

    def check_untouched(self) -> None:
        """Asserts that nothing came, went or changed."""
        now = self._look()
        assert now.keys() == self.before.keys()
        changed = [name for name in now if now[name] != self.before[name]]
        assert not changed, changed


def _seen(path: Path) -> tuple:
    status = path.lstat()
    if not path.is_file() or path.is_symlink():
        return status.st_mode, status.st_ino
    return status.st_mode, status.st_ino, status.st_mtime_ns, sha256(path)


def sha256(path: Path) -> str:
    """The file's digest, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
