"""One command's run: settings, questions, log, the command itself, and what is printed.

Knows the order of these and nothing of any command.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from bitnet_jax.core.errors import BitnetError, IOFailure, UsageError

from . import ask, config, exit_codes, log, planned, progress, registry, route
from .args import Parser
from .context import Context, Streams
from .envelope import plain
from .failure import result_of
from .guess import guess_emit
from .options import MODEL_SUFFIXES, GlobalArgs, load_plugins
from .render import render, talk, write_export
from .report import check_page, page_file, write_page
from .result import CommandResult
from .signals import Terminated, telling
from .stdio import OutputClosed


class Session:
    """Runs one command.

    `emit`, `quiet` and `debug` start as guesses from the words typed and become what the
    settings say, so that an error met on the way is told in the form that was asked for.
    """

    def __init__(self, command: registry.Command, argv: list[str], streams: Streams):
        self.command, self.argv, self.streams = command, argv, streams
        self.words = registry.words(command)
        self.emit = guess_emit(argv, streams.env)
        self.quiet = False
        self.debug = "--debug" in argv
        self.export: str | None = None
        self.exports: list[str] = []
        self.page: str | None = None
        self.force = False
        self.said: list[str] = []

    def run(self) -> int:
        """Returns the exit code; everything has been printed."""
        try:
            result = self._result()
        except OutputClosed:
            return exit_codes.OK
        # The edge: whatever was raised becomes a code, a message and a hint.
        except (Exception, KeyboardInterrupt, SystemExit, Terminated) as error:  # noqa: BLE001
            if self.debug:
                self.streams.stderr.write("".join(traceback.format_exception(error)))
            result = result_of(error)
        result.warnings = list(dict.fromkeys([*self.said, *result.warnings]))
        return finish(result, self.words, self.emit, self.streams, quiet=self.quiet, said=self.said)

    def _result(self) -> CommandResult:
        module, cls = registry.load(self.command)
        parser = Parser(GlobalArgs, cls, prog=f"bitnet {self.words}", elsewhere=route.having)
        settings = self._settings(parser, module)
        values = {name: setting.value for name, setting in settings.items()}
        shared = {name: values.pop(name) for name in list(values) if name in _GLOBAL_NAMES}
        settle_loudness(shared, settings)
        self._take(GlobalArgs(**shared), settings)
        planned.check(self.command, parser.fields, settings)
        self.force = bool(values.get("force"))
        pages = [values[f.name] for f in dataclasses.fields(cls) if f.metadata.get("report")]
        self.page = page_file(shared["report"], pages)
        if self.page:
            check_page(self.page, force=self.force)
        more = [values[f.name] for f in dataclasses.fields(cls) if f.metadata.get("export")]
        files = [file for file in (self.export, *more) if file]
        self.exports = list(dict.fromkeys(files))
        for file in self.exports:
            if file != "-" or file in more:
                check_export(file, force=self.force)
        with log.configured(
            self.streams.stderr,
            verbose=shared["verbose"],
            quiet=self.quiet,
            file=shared["log_file"],
            form=shared["log_format"],
        ):
            context = self._context(settings, shared)
            context.warnings = self.said
            try:
                # A library that prints must not spoil the record: stdout is ours.
                talk = contextlib.redirect_stdout(cast(Any, self.streams.stderr))
                with log.run(shlex.join([*self.words.split(), *self.argv])), talk:
                    load_plugins(values.get("plugin", ()))
                    with dumping(values.get("dump_passes")):
                        result = module.run(cls(**values), context)
                    for told in result.errors:
                        log.RUN.error("[%s] %s", told["code"], told["message"])
            finally:
                context.progress.close()
        result.data = plain(result.data)  # what has no JSON form is met here, and told as a bug
        for file in self.exports:
            self._export(result, file)
        if self.page:
            self._write_page(result, self.page)
        return result

    def _settings(self, parser: Parser, module: Any) -> dict[str, config.Setting]:
        typed = parser.typed(self.argv)
        settings = config.resolve(parser, self.command, typed, self.streams.env, Path.cwd())
        # Nobody is asked for what a command that is not built yet would need.
        absent = ask.missing(parser, settings) if self.command.target else []
        if absent:
            if settings["no_input"].value or not self.streams.asks:
                raise ask.refuse(absent, parser.prog, module.EXAMPLES[0])
            answers = ask.fill(absent, parser, self.streams)
            line = ask.whole_line(self.argv, self.words, answers)
            self.streams.stderr.write(f"running: {line}\n")
            settings |= answers
        return settings

    def _take(self, options: GlobalArgs, settings: Mapping[str, config.Setting]) -> None:
        """Takes what the settings say about printing."""
        if options.json:
            if settings["emit"].origin == "command line" and options.emit != "json":
                raise UsageError(
                    "cli.clash", f"--json and --emit {options.emit} exclude each other"
                )
            options.emit = "json"
        self.emit, self.quiet, self.debug = options.emit, options.quiet, options.debug
        self.export = options.export_json

    def _context(self, settings: Mapping[str, config.Setting], shared: dict[str, Any]) -> Context:
        shown = progress.make(
            shared["progress"],
            stderr=self.streams.stderr,
            stdout=self.streams.stdout,
            emit=self.emit,
            quiet=self.quiet,
            terminal=self.streams.bars,
        )
        return Context(
            command=self.words,
            cwd=Path.cwd(),
            settings=settings,
            progress=shown,
            streams=self.streams,
            emit=self.emit,
            quiet=self.quiet,
            interactive=self.streams.asks and not shared["no_input"],
            program=program(self.streams.env),
        )

    def _write_page(self, result: CommandResult, file: str) -> None:
        """Writes the page of --report; where that fails, the record is still printed."""
        result.warnings = list(dict.fromkeys([*self.said, *result.warnings]))
        try:
            write_page(result, self.words, file, force=self.force)
        except BitnetError as error:
            result.fail(error)
            return
        if not self.quiet:
            self.streams.stderr.write(f"wrote {file}\n")

    def _export(self, result: CommandResult, file: str) -> None:
        """Writes --export-json; on stdout it stands for the table, and an envelope holds it.

        Where the file cannot be written, the record is still printed.
        """
        if file == "-":
            if self.emit == "table":
                write_export(result.data, "-", self.streams, force=False)
                result.sections = []
            return
        try:
            write_export(result.data, file, self.streams, force=self.force)
        except BitnetError as error:
            result.fail(error)
            return
        if not self.quiet:
            self.streams.stderr.write(f"wrote {file}\n")


_GLOBAL_NAMES = frozenset(GlobalArgs.__dataclass_fields__)


def check_export(file: str, *, force: bool) -> None:
    """Refuses, before the command runs, an export that could not be written after it.

    Raises:
      UsageError: its name is that of a model, which a slip of the hand would replace.
    """
    if Path(file).name.lower().endswith(MODEL_SUFFIXES):
        raise UsageError(
            "cli.export_name",
            f"`{file}` is the name of a model, not of a record",
            f"an export is JSON: name it `{Path(file).stem or 'record'}.json`",
        )
    check_page(file, force=force)


def dumping(folder: str | None) -> contextlib.AbstractContextManager[None]:
    """Writes every program that a command makes, where --dump-passes asks for it."""
    if folder is None:
        return contextlib.nullcontext()
    from bitnet_jax import api

    return api.dump_passes(folder)


def settle_loudness(shared: dict[str, Any], settings: Mapping[str, config.Setting]) -> None:
    """Lets what was typed win where --quiet and --verbose are both set.

    Raises:
      UsageError: both were typed, or neither (the settings say both).
    """
    if not (shared["quiet"] and shared["verbose"]):
        return
    typed = [name for name in ("quiet", "verbose") if settings[name].origin == "command line"]
    if len(typed) != 1:
        raise UsageError(
            "cli.clash", "--quiet and --verbose exclude each other", "leave one of them out"
        )
    shared.update({"quiet": False} if typed == ["verbose"] else {"verbose": 0})


def program(env: Mapping[str, str]) -> str:
    """Returns how this program is called again: by its name, where a shell would find it."""
    if shutil.which(registry.PROGRAM, path=env.get("PATH", os.defpath)):
        return registry.PROGRAM
    if sys.argv[0].endswith(".py"):  # python -m
        return shlex.join([sys.executable, "-m", "bitnet_cli"])
    return shlex.quote(sys.argv[0])


def finish(
    result: CommandResult,
    words: str,
    emit: str,
    streams: Streams,
    *,
    quiet: bool = False,
    said: list[str] | None = None,
) -> int:
    """Prints a result; returns the exit code, also when stdout cannot be written."""
    unwritten: IOFailure | None = None
    # First the page, then the error that it explains: on a terminal both are one text.
    try:
        if result.errors or result.warnings:
            streams.end_line()
        with telling(exit_codes.INTERRUPTED):  # a record that stands whole is the outcome
            render(result, words, emit, streams)
            streams.stdout.outcome = result.exit_code
    except OutputClosed:
        pass  # the reader has read enough: the outcome stays what it is
    except IOFailure as error:
        unwritten = error
        if unwritten.message not in [told["message"] for told in result.errors]:
            result.fail(unwritten)
    talk(result, streams, quiet=quiet, said=said or [])
    return unwritten.exit_code if unwritten else result.exit_code
