"""The program's log: on stderr as loud as -v asks, and whole in --log-file.

Only sets up `logging`; the library logs under `bitnet_jax` and knows nothing of this.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from bitnet_jax.core.errors import BitnetError
from bitnet_jax.core.paths import os_failure

from .stdio import Writer

# What was run, and how it ended: for --log-file. On the screen the person typed it, and sees it.
RUN = logging.getLogger("bitnet_cli.run")
NAMES = ("bitnet_jax", "bitnet_cli", "py.warnings")
LEVELS = {0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class Keeper(logging.FileHandler):
    """Appends to the log's file; where it cannot, that is said once and the work goes on."""

    def __init__(self, file: str, stderr: Writer):
        self._shown, self._stderr, self._broken = file, stderr, False
        super().__init__(file, encoding="utf-8")

    def _open(self) -> Any:
        # Not blocking: to open a FIFO would wait for a reader, for ever.
        def opener(name: str, flags: int) -> int:
            return os.open(name, flags | getattr(os, "O_NONBLOCK", 0), 0o666)

        return open(self.baseFilename, "a", encoding="utf-8", opener=opener)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._broken:
            self._broken = True
            told = os_failure(error, "write the log to", self._shown)
            self._stderr.write(f"warning: {told.message}\n")

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # what could not be written before cannot be now
            if not self._broken:
                told = os_failure(error, "write the log to", self._shown)
                self._stderr.write(f"warning: {told.message}\n")


@contextlib.contextmanager
def run(line: str) -> Iterator[None]:
    """Writes what is run, and how the block ended."""
    RUN.info("bitnet %s (process %d)", line, os.getpid())
    try:
        yield
    except BitnetError as error:
        RUN.error("[%s] %s", error.code, error.message)
        raise
    except BaseException as error:
        RUN.error("%s", type(error).__name__, exc_info=error)
        raise
    RUN.info("done")


@contextlib.contextmanager
def configured(
    stderr: Writer, *, verbose: int, quiet: bool, file: str | None, form: str
) -> Iterator[None]:
    """Sends the log where the options say, for the block."""
    loudness = logging.ERROR if quiet else LEVELS[min(verbose, 2)]
    screen = logging.StreamHandler(stderr)
    screen.setLevel(loudness)
    # Python's own warnings speak to developers: the file has them, the screen only with -v.
    screen.addFilter(lambda record: record.name != "py.warnings" or verbose > 0)
    screen.addFilter(lambda record: record.name != RUN.name)
    handlers: list[logging.Handler] = [screen]
    text: logging.Formatter = logging.Formatter("%(levelname)s %(name)s: %(message)s")
    screen.setFormatter(JsonFormatter() if form == "json" else text)
    if file is not None:
        try:
            keeper = Keeper(file, stderr)
        except OSError as error:
            raise os_failure(error, "write the log to", file) from error
        dated = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        keeper.setFormatter(JsonFormatter() if form == "json" else dated)
        keeper.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
        handlers.append(keeper)

    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger.level, logger.propagate) for logger in loggers]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.setLevel(min(handler.level for handler in handlers))
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.propagate = propagate
            for handler in handlers:
                logger.removeHandler(handler)
        for handler in handlers:
            handler.close()
