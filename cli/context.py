"""What a command is given besides its args: where it runs, and ways to talk.

Commands never touch streams: they stream data with `write`, talk with `say` and `warn`, ask
with `ask`, and return the rest. Knows nothing of what a command does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitnet_jax.core.errors import UsageError
from bitnet_jax.core.letters import spelled_out

from .config import Setting
from .envelope import dump, event
from .progress import Progress
from .stdio import Input, Output, Talk


@dataclass
class Streams:
    """The three streams (`stdio` makes them fit to be used), and which of them are terminals."""

    stdin: Input
    stdout: Output
    stderr: Talk
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def asks(self) -> bool:
        """Says whether there is a person to ask."""
        return self._terminal(self.stdin) and self._terminal(self.stderr) and not self.unattended

    @property
    def unattended(self) -> bool:
        """Says whether this runs in continuous integration, whose terminal nobody looks at."""
        return self.env.get("CI", "").lower() not in ("", "0", "false")

    @property
    def stdout_terminal(self) -> bool:
        return self._terminal(self.stdout)

    @property
    def bars(self) -> bool:
        """Says whether stderr can show a bar (a dumb terminal cannot go back in its line)."""
        dumb = self.env.get("TERM") == "dumb" or self.unattended
        return self._terminal(self.stderr) and not dumb

    def colour(self, stream: Output | Talk) -> bool:
        """Says whether `stream` is coloured: a terminal is, unless NO_COLOR is set.

        FORCE_COLOR colours a pipe too (a log that is looked at in colour); NO_COLOR wins over it.
        """
        if self.env.get("NO_COLOR"):
            return False
        if self.env.get("FORCE_COLOR", "0") not in ("", "0", "false"):
            return True
        return self._terminal(stream) and self.env.get("TERM") != "dumb"

    def answer(self) -> str:
        """Returns the line that was typed at a question, with its end; "" when there is none."""
        line = self.stdin.readline()
        if line.endswith("\n"):
            self.stderr.line_open = False  # Enter ended it on the screen
        return line

    def end_line(self) -> None:
        """Ends the line of text on stdout before talk that would go on in it."""
        if self.stdout.line_open and self.stdout_terminal and self._terminal(self.stderr):
            self.stdout.write("\n")
            self.stdout.flush()

    @staticmethod
    def _terminal(stream: Input | Output | Talk) -> bool:
        try:
            return stream.isatty()
        except ValueError:  # closed
            return False


@dataclass
class Context:
    """Handed to `run(args, ctx)`.

    Attributes:
      command: the words typed after `bitnet`.
      cwd: the folder that relative paths start from.
      settings: field name -> value and its origin, for every option.
      program: what was run, as it is typed again ("bitnet").
      progress: give it to the library, or use `progress.task(...)`.
      emit: how the record will be printed; `streams_text` is what matters to most.
      interactive: whether a person can be asked.
    """

    command: str
    cwd: Path
    settings: Mapping[str, Setting]
    progress: Progress
    streams: Streams
    emit: str = "table"
    quiet: bool = False
    interactive: bool = False
    program: str = "bitnet"
    warnings: list[str] = field(default_factory=list)

    @property
    def streams_text(self) -> Callable[[str], None] | None:
        """Returns where text goes as it is made, or None when only the record is printed."""
        return self.write if self.emit in ("table", "jsonl") else None

    def write(self, text: str) -> None:
        """Writes data to stdout at once (an event of --emit jsonl; nothing in other formats)."""
        if self.emit == "jsonl":
            self.event("text", text=text)
        elif self.emit == "table":
            self._out(spelled_out(text) if self.streams.stdout_terminal else text)

    def end_text(self) -> None:
        """Ends the last line of the text written: part of the page, no event."""
        if self.emit == "table":
            self._out("\n")

    def event(self, kind: str, **fields: Any) -> None:
        """Writes one event of --emit jsonl; nothing in the other formats."""
        if self.emit == "jsonl":
            self._out(dump(event(kind, **fields), self.streams.stdout) + "\n")

    def say(self, text: str) -> None:
        """Says something to the person, on stderr."""
        if not self.quiet:
            self._talk(text)

    def warn(self, text: str) -> None:
        """Warns at once, and in the envelope."""
        self.warnings.append(text)
        self.event("warning", message=text)
        if not self.quiet:
            self._talk(f"warning: {text}")

    def ask(self, prompt: str) -> str | None:
        """Returns a line from stdin, or None at its end; the prompt shows on a terminal only.

        Raises:
          UsageError: stdin is a terminal and --no-input was given.
        """
        asking = self.streams._terminal(self.streams.stdin)
        if asking:
            if not self.interactive:
                raise UsageError(
                    "cli.no_input", "this would ask, and --no-input was given", "pipe the input in"
                )
            self.streams.stderr.write(prompt)
            self.streams.stderr.flush()
        line = self.streams.answer()
        if asking and not line:
            self._talk("")  # Ctrl-D leaves the cursor behind the prompt
        return line.rstrip("\n") if line else None

    def read_stdin(self) -> str:
        """Returns all of stdin, as text."""
        return self.streams.stdin.read()

    def _talk(self, text: str) -> None:
        self.streams.end_line()
        bars = getattr(self.progress.sink, "bars", None)
        if bars is not None:
            self.progress.sink.line(text)
        else:
            self.streams.stderr.write(text + "\n")
            self.streams.stderr.flush()

    def _out(self, text: str) -> None:
        self.streams.stdout.write(text)
        self.streams.stdout.flush()
