"""One command over several models: a record each, the worst exit code, and going on later.

A command says how one model is done, and hands the rest over (`each`). What is there already
and still holds is skipped; an error of one model does not stop the others. Knows nothing of
what a command does. How the models are shared out over processes is in `workers`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bitnet_jax.core.errors import BitnetError, CannotCreate, Resumable, UsageError
from bitnet_jax.core.paths import atomic_file, os_failure

from . import manifest, workers
from .context import Context
from .envelope import SCHEMA, dump, envelope, plain
from .failure import as_error
from .options import MODEL_SUFFIXES
from .result import CommandResult, Section, Text, flat, show, table_of
from .signals import Terminated
from .stdio import OutputClosed

# How one model is done: (model, args, ctx), all else as if it were the only one.
One = Callable[[str, Any, Context], CommandResult]


@dataclasses.dataclass(frozen=True)
class Item:
    """One model, its own args, and the file or folder that is written for it (or None)."""

    model: str
    args: Any
    output: str | None


class Records:
    """What is written for each model is its record, as JSON; for commands that only look.

    A record still holds for the same version, options and file (names, sizes, times).
    """

    def name(self, model: str, args: Any) -> str:
        """Returns the name of what is written for a model of this name."""
        return f"{model}.json"

    def done(self, item: Item, ctx: Context) -> CommandResult | None:
        """Returns the result that stands already and still holds, or None."""
        assert item.output is not None
        try:
            text = Path(item.output).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise os_failure(error, "read", item.output) from error
        try:
            record = json.loads(text)
            ours = record["schema"] == SCHEMA and record["command"] == ctx.command
            made_of, errors, warnings = record["made_of"], record["errors"], record["warnings"]
        except (ValueError, TypeError, KeyError, RecursionError):
            ours = False
        if not ours:
            if not item.args.force:
                raise CannotCreate(
                    "batch.not_ours",
                    f"`{item.output}` exists and is no record of `bitnet {ctx.command}`",
                    "pass --force to replace it, or another --output-dir",
                )
            return None
        if made_of is None or made_of != _made_of(item) or item.args.force:
            return None
        return CommandResult(record["data"], record["ok"], record["exit_code"], warnings, errors)

    def keep(self, item: Item, result: CommandResult, ctx: Context) -> None:
        """Writes the record of a model."""
        assert item.output is not None
        told = envelope(
            ctx.command,
            ok=result.ok,
            exit_code=result.exit_code,
            data=result.data,
            warnings=result.warnings,
            errors=result.errors,
        )
        text = dump({**told, "made_of": _made_of(item)}, indent=2)
        with atomic_file(Path(item.output)) as stream:
            stream.write(text.encode("utf-8", "backslashreplace") + b"\n")


class Models:
    """What is written for each model is a model; the library says whether it still holds."""

    def __init__(self, suffixes: dict[str, str], made: Callable[[Item], Any]):
        self.suffixes, self.made = suffixes, made

    def name(self, model: str, args: Any) -> str:
        """Returns the name of what is written for a model of this name."""
        known = next((s for s in MODEL_SUFFIXES if model.lower().endswith(s) and model != s), "")
        stem = model[: len(model) - len(known)]
        return stem + self.suffixes[args.format or next(iter(self.suffixes))]

    def done(self, item: Item, ctx: Context) -> CommandResult | None:
        """Returns the result that stands already and still holds, or None."""
        record = None if item.args.force else self.made(item)
        return None if record is None else CommandResult.of(record)

    def keep(self, item: Item, result: CommandResult, ctx: Context) -> None:
        """The command has written it."""


def each(
    one: One,
    args: Any,
    ctx: Context,
    *,
    written: Records | Models | None = None,
    columns: Sequence[str] = (),
    pages: bool = False,
) -> CommandResult:
    """Runs `one` for every model that `args` names.

    Args:
      written: what stands on the disk for each; records by default.
      columns: dotted names of the data that the page for people shows for each model.
      pages: show each model's own page, too.

    Raises:
      UsageError: options that exclude each other, or two models with one output.
    """
    written = written or Records()
    if isinstance(written, Models):
        args = _one_place(args, ctx)
    if len(args.model) == 1 and args.manifest is None and args.output_dir is None:
        return one(args.model[0], args, ctx)
    items = _items(args, ctx, written)
    results: list[CommandResult | None] = [None] * len(items)
    skipped: set[int] = set()
    try:
        for index, result in _results(one, items, ctx, args, written, skipped):
            results[index] = result
            record = _record(items[index], result, index in skipped)
            ctx.event("model", **record)
            ctx.say(_line(index, len(items), record))
        stopped = None
    except (KeyboardInterrupt, Terminated) as stop:
        stopped = _stopped(stop, items, sum(result is not None for result in results))
    done = [
        (item, result, _record(item, result, index in skipped))
        for index, (item, result) in enumerate(zip(items, results, strict=True))
        if result is not None
    ]
    gathered = _gathered(done, columns, pages)
    return gathered if stopped is None else gathered.fail(stopped)


def _stopped(stop: BaseException, items: Sequence[Item], done: int) -> BitnetError:
    """Returns the error for a batch that was stopped; what is done stands beside it."""
    told = Resumable(
        "batch.stopped",
        f"{done} of {len(items)} models were done",
        "run the same line again: what is done is skipped",
    )
    if any(item.output is None for item in items):
        return as_error(stop)
    if isinstance(stop, Terminated):
        return told
    stop.__cause__ = told
    return as_error(stop)


def _one_place(args: Any, ctx: Context) -> Any:
    """Returns `args` with --output or --output-dir: what was typed wins over the settings.

    Raises:
      UsageError: both were typed, or neither (the settings say both).
    """
    names = [name for name in ("output", "output_dir") if getattr(args, name) is not None]
    if len(names) < 2:
        return args
    typed = [name for name in names if ctx.settings[name].origin == "command line"]
    if len(typed) != 1:
        raise UsageError(
            "cli.clash", "--output and --output-dir exclude each other", "leave one of them out"
        )
    [other] = set(names) - set(typed)
    return dataclasses.replace(args, **{other: None})


def _items(args: Any, ctx: Context, written: Records | Models) -> list[Item]:
    entries: list[dict[str, Any]] = [{"model": model} for model in args.model]
    if args.manifest is not None:
        entries += manifest.read(args.manifest, type(args), ctx.streams.stdin)
    makes = isinstance(written, Models)  # else --output, if there is one, is the page of it all
    if makes and args.output is not None and len(entries) > 1:
        raise UsageError(
            "cli.clash",
            f"--output names one output, and there are {len(entries)} models",
            "say --output-dir DIR for several; put a name with spaces in quotes",
        )
    if getattr(args, "dump_passes", None) and _jobs(args) > 1:
        raise UsageError("cli.clash", "--dump-passes shows one model's programs: leave out --jobs")
    if not makes and "://" in (args.output_dir or ""):
        raise UsageError(
            "batch.local_records",
            f"--output-dir `{args.output_dir}`: records are written to a folder of this machine",
            "name a folder here, or leave it out and take --export-json",
        )
    items = []
    for entry in entries:
        own = dataclasses.replace(args, **{**entry, "model": [entry["model"]]})
        output = (entry.get("output") or args.output) if makes else None
        if output is None and args.output_dir is not None:
            # Joined as texts: a path would make one slash of the two in gs://.
            output = f"{args.output_dir.rstrip('/')}/{written.name(_name(entry['model']), own)}"
        if makes and output is None:
            raise UsageError(
                "cli.missing_option",
                f"nothing says where `{entry['model']}` is written",
                "say --output-dir DIR, or `output` in the manifest",
            )
        if makes:
            own = dataclasses.replace(own, output=output)
        if len(entries) > 1 and _jobs(args) > 1:
            own = dataclasses.replace(own, jobs=1)  # models at once; of one, it is threads
        items.append(Item(entry["model"], own, output))
    _check_apart(items, makes)
    return items


def _name(model: str) -> str:
    """Returns the last part of a model's name, also of `.` and `..`."""
    last = Path(model).name
    return last if last not in ("", "..") else Path(model).resolve().name or "model"


def _check_apart(items: Sequence[Item], makes: bool) -> None:
    seen: dict[str, Item] = {}
    for item in items:
        if item.output is None:
            continue
        # Some file systems know no capitals: two names that differ in them only are one there.
        other = seen.setdefault(str(Path(item.output).absolute()).casefold(), item)
        if other is not item:
            raise UsageError(
                "batch.same_output",
                f"`{other.model}` and `{item.model}` would both be written as `{item.output}`",
                "give each its `output` in a --manifest (`bitnet help batch`)"
                if makes
                else "look at them in two calls, each with its --output-dir",
            )


def _results(
    one: One,
    items: Sequence[Item],
    ctx: Context,
    args: Any,
    written: Records | Models,
    skipped: set[int],
) -> Iterator[tuple[int, CommandResult]]:
    """Yields each model's place and result, as they come."""
    if args.output_dir is not None and "://" not in args.output_dir:
        _make_folder(args.output_dir)
        for item in items:  # some formats have a folder of their own in it
            if item.output is not None and Path(item.output).is_relative_to(args.output_dir):
                _make_folder(str(Path(item.output).parent))
    left = []
    for index, item in enumerate(items):
        result = _safely(partial(written.done, item, ctx), ctx) if item.output else None
        if result is None:
            left.append(index)
            continue
        if result.ok or result.data:  # found done, with whatever it came to; else it failed now
            skipped.add(index)
        yield index, result

    def finish(index: int, result: CommandResult) -> CommandResult:
        # An error without data is no look at the model: the next call tries again.
        if items[index].output and (result.ok or result.data):
            return _safely(partial(written.keep, items[index], result, ctx), ctx) or result
        return result

    done: Iterable[tuple[int, CommandResult]]
    if _jobs(args) == 1 or len(left) <= 1:  # of one model, it is how many threads
        work = ((i, partial(one, items[i].model, items[i].args, ctx)) for i in left)
        done = ((i, _safely(call, ctx) or CommandResult()) for i, call in work)
    else:
        calls = {i: (one, items[i].model, items[i].args) for i in left}
        done = workers.run(calls, ctx, _jobs(args))
    for index, result in done:
        yield index, finish(index, result)


def _jobs(args: Any) -> int:
    return (
        getattr(args, "jobs", 1) or 1
    )  # what measures has no --jobs: two would disturb each other


def _make_folder(folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise CannotCreate(
            "batch.not_a_folder", f"`{folder}` exists and is no folder", "name another --output-dir"
        ) from error
    except OSError as error:
        raise os_failure(error, "create", folder) from error


def _safely(call: Callable[[], CommandResult | None], ctx: Context) -> CommandResult | None:
    """Returns what `call` does, or the failed result: one model's error stops no other."""
    try:
        return call()
    except OutputClosed:  # nobody reads on: that ends the whole
        raise
    except Exception as error:  # noqa: BLE001
        return workers.caught(error, ctx)


def _made_of(item: Item) -> Any:
    """Returns what a record depends on; None when the model is no file here."""
    from importlib.metadata import version

    path = Path(item.model)
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        stamps = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    except OSError:
        return None
    options = {k: v for k, v in vars(item.args).items() if k not in manifest.SHARED}
    return plain({"version": version("bitnet-jax"), "files": stamps, "options": options})


def _record(item: Item, result: CommandResult, skipped: bool) -> dict[str, Any]:
    return {
        "model": item.model,
        "output": item.output,
        "ok": result.ok,
        "exit_code": result.exit_code,
        "skipped": skipped,
        "data": plain(result.data),
        "warnings": result.warnings,
        "errors": result.errors,
    }


def _line(index: int, total: int, record: dict[str, Any]) -> str:
    return f"[{index + 1}/{total}] {show(record['model'])}: {_outcome(record)}"


def _outcome(record: dict[str, Any]) -> str:
    what = record["errors"][0]["code"] if record["errors"] else "done"
    return f"{what} (skipped: done before)" if record["skipped"] else what


def _gathered(
    done: Sequence[tuple[Item, CommandResult, dict[str, Any]]],
    columns: Sequence[str],
    pages: bool,
) -> CommandResult:
    whole = CommandResult(data={"models": [record for _, _, record in done]}, rows="models")
    rows = []
    for item, result, record in done:
        if not result.ok:
            whole.ok, whole.exit_code = False, max(whole.exit_code, result.exit_code)
        whole.errors += [_of(item.model, error) for error in result.errors]
        whole.warnings += [f"{item.model}: {warning}" for warning in result.warnings]
        known = dict(flat(record["data"]))
        row = {"model": item.model, "outcome": _outcome(record)}
        row |= {"output": item.output} if item.output else {}
        rows.append(row | {name: known.get(name) for name in columns})
    sections: list[Section] = []
    if pages:
        for item, result, _ in done:
            if result.sections:
                sections += [Text(f"== {show(item.model)}"), *result.sections]
    whole.sections = [*sections, table_of(rows)] if rows else []
    return whole


def _of(model: str, error: dict[str, Any]) -> dict[str, Any]:
    """Returns an error that names its model."""
    named = f"`{model}" in error["message"]
    return error if named else {**error, "message": f"`{model}`: {error['message']}"}
