"""The exit codes and what each tells a script.

The one table of them; knows nothing of what raises which (errors carry their own).
"""

from __future__ import annotations

OK = 0
CHECK_FAILED = 1
USAGE = 2
BAD_DATA = 65
NO_INPUT = 66
UNAVAILABLE = 69
BUG = 70
CANNOT_CREATE = 73
IO = 74
RESUMABLE = 75
PERMISSION = 77
CONFIG = 78
INTERRUPTED = 130
TERMINATED = 143

MEANING: dict[int, str] = {
    OK: "done (a server that drained after SIGTERM too)",
    CHECK_FAILED: "a check failed: validation, tolerance or regression; the record says which",
    USAGE: "the command line is wrong: unknown command or option, missing or bad value",
    BAD_DATA: "an input exists and is not what it should be",
    NO_INPUT: "an input that was named does not exist",
    UNAVAILABLE: "a device, an extra, a compiler, memory or an endpoint is missing",
    BUG: "a bug of bitnet-jax; run again with --debug",
    CANNOT_CREATE: "the output exists already, or would lose precision",
    IO: "the system refused to read or write (disk full, I/O error)",
    RESUMABLE: "stopped and can go on later, or another process holds the lock",
    PERMISSION: "the system denies access",
    CONFIG: "a setting, a settings file or a recipe is wrong",
    INTERRUPTED: "interrupted by Ctrl-C",
    TERMINATED: "ended by SIGTERM",
}
