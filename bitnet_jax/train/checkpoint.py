"""Checkpoints of a run: the device state by Orbax, the host's beside it as JSON.

What is restored is bit for bit what was saved: parameters, optimizer, step, data
position, plan. Orbax writes to a temporary folder and renames, so a killed save
leaves the one before it. Knows nothing of when to save.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitnet_jax.core.errors import BadData, NoInput
from bitnet_jax.core.paths import os_failure
from bitnet_jax.train.data import DataState
from bitnet_jax.train.schedule import Plan
from bitnet_jax.train.step import TrainState

FORMAT = 1


@dataclass(frozen=True)
class HostState:
    """What a run knows beside the device state; λ and the rates follow from the plan.

    Attributes:
      spec: the model's, as plain data; None where something else is trained.
      rules: what is made ternary, as plain data: what tells the packed model of the floats.
    """

    step: int
    data: DataState
    plan: Plan
    spec: dict[str, Any] | None = None
    rules: list[dict[str, Any]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns plain data; `from_json` inverts it."""
        return {
            "format": FORMAT,
            "step": self.step,
            "data": dataclasses.asdict(self.data),
            "plan": [list(change) for change in self.plan.changes],
            "spec": self.spec,
            "rules": self.rules,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> HostState:
        """Inverse of `to_json`."""
        return cls(
            step=data["step"],
            data=DataState(**data["data"]),
            plan=Plan(tuple((step, total) for step, total in data["plan"])),
            spec=data["spec"],
            rules=data.get("rules"),
        )


def list_steps(folder: Path) -> list[int]:
    """Returns the steps that have a complete checkpoint, ascending."""
    if not folder.is_dir():
        return []
    # Orbax's temporary folders have a suffix, so their names are no numbers.
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and p.is_dir())


def save(folder: Path, state: TrainState, host: HostState, keep: int = 2) -> Path:
    """Writes ``folder/<step>`` and deletes all but the newest `keep`; returns its path."""
    import orbax.checkpoint as ocp

    path = folder.absolute() / str(host.step)
    leaves = _leaves(state)
    if path.is_dir() and read_host(path) == host:
        return path  # resumed, and not one step taken: Orbax would remove it before it writes
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(folder)
        with _system_errors(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(
                path,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(leaves),
                    host=ocp.args.JsonSave({**host.to_json(), "leaves": _shapes(leaves)}),
                ),
                force=True,
            )
        for step in list_steps(folder)[:-keep]:
            shutil.rmtree(folder / str(step))
    except OSError as error:
        _remove_unfinished(folder)
        raise os_failure(error, "write the checkpoint", path) from error
    return path


# Orbax's name of a checkpoint under construction; one that lies there when another is begun
# was left by a process that was killed, for a run's folder has one writer at a time.
_UNFINISHED = "*.orbax-checkpoint-tmp*"
# How its storage library ends the text of an error of the operating system.
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")
# What Python says of a write of Orbax that was given up before it began.
_NOT_BEGUN = r"coroutine 'async_serialize_from_host\..*' was never awaited"


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob(_UNFINISHED):
        shutil.rmtree(path, ignore_errors=True)


_LOG = logging.getLogger(__name__)


def _shown_unless_late(show: Callable[[Any], object]) -> Callable[[Any], None]:
    """As the hook `show`, but for writes that end after the first of them has failed.

    They find the event loop closed, in threads of the storage library, which would print a
    traceback for each.
    """

    def hook(what: Any) -> None:
        value = what.exc_value
        if isinstance(value, RuntimeError) and "Event loop is closed" in str(value):
            _LOG.debug("a write that ended late: %s", value)
        else:
            show(what)

    return hook


class _SaidOnce(logging.Filter):
    """Keeps asyncio from telling of a failed write that has been raised.

    Orbax writes every array in a task of its own (`serialization.async_serialize_from_host`) and
    gathers them in `asyncio.run`: the first that fails ends the loop. A task that has failed by
    then, and whose callback has not run, is told of with a traceback when it is collected: some
    time later, in any thread.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or not _OS_ERROR.search(str(error)):
            return True
        _LOG.debug("a write that failed with the others: %s", error)
        return False


_SAID_ONCE = _SaidOnce()


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Turns what the storage library raises for a full disk, and the like, into `OSError`.

    It raises a ValueError with the system's error as text, and logs it with a traceback
    from another thread, where nobody asked.
    """
    log, tasks = logging.getLogger("absl"), logging.getLogger("asyncio")
    before, log.disabled = log.disabled, True
    show = sys.unraisablehook
    sys.unraisablehook = _shown_unless_late(show)
    tasks.addFilter(_SAID_ONCE)
    try:
        yield
        # After a failure they stay: there are more to come.
        sys.unraisablehook = show
        tasks.removeFilter(_SAID_ONCE)
    except (ValueError, RuntimeError) as error:
        found = _OS_ERROR.search(str(error))
        if found is None:
            raise
        # A write that had not begun is warned of when it is collected.
        warnings.filterwarnings("ignore", _NOT_BEGUN, RuntimeWarning)
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
    finally:
        log.disabled = before


def restore(path: Path, like: TrainState) -> tuple[TrainState, HostState]:
    """Reads what `save` wrote.

    Args:
      path: as `resolve` takes it.
      like: a state of the same shapes (its values are not read).

    Raises:
      NoInput: there is no checkpoint.
      BadData: it is damaged, or of another model or optimizer.
    """
    import orbax.checkpoint as ocp

    path = resolve(path)
    data = _read_json(path)
    wanted = _leaves(like)
    # Compared here: Orbax, refusing a shape, leaves the reads of the other leaves dangling.
    if data["leaves"] != _shapes(wanted):
        raise BadData(
            "train.checkpoint",
            f"`{path}` is of another model or optimizer than the recipe's",
            "resume with the recipe that the run was started with",
        )
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), wanted)
    with _damage(path), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        state = checkpointer.restore(
            path, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        ).state
    leaves = [state[key] for key in sorted(state)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), HostState.from_json(data)


def read_host(path: Path) -> HostState:
    """Returns only the host's part, without reading any array."""
    return HostState.from_json(_read_json(resolve(path)))


def _read_json(path: Path) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    with _damage(path), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        data = checkpointer.restore(path, args=ocp.args.Composite(host=ocp.args.JsonRestore())).host
        HostState.from_json(data)  # all that is needed is there
        if data["format"] != FORMAT or "leaves" not in data:
            raise ValueError(f"it has format {data['format']}, known is {FORMAT}")
        return data


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turns what Orbax raises for a damaged or foreign folder into `BadData`."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BadData(
            "train.checkpoint",
            f"`{path}` cannot be restored: {error}",
            "is it a checkpoint of ours, and complete? an older one may stand beside it",
        ) from error


def _shapes(leaves: dict[str, Any]) -> dict[str, list]:
    return {key: [leaf.dtype.name, *leaf.shape] for key, leaf in leaves.items()}


def resolve(path: Path) -> Path:
    """Returns the checkpoint meant by a run, its ``checkpoints`` folder, or itself.

    Raises:
      NoInput: there is none.
    """
    path = Path(path).absolute()
    if path.is_file():
        raise BadData(
            "train.checkpoint",
            f"`{path}` is a file; a training checkpoint is a folder",
            "name a run's folder; weights from elsewhere: bitnet train qat --model",
        )
    # A run may be called `7`: its checkpoints come before its name.
    for folder in (path / "checkpoints", path):
        steps = list_steps(folder)
        if steps:
            return folder / str(steps[-1])
    if path.name.isdecimal() and path.is_dir():
        return path
    raise NoInput(
        "train.no_checkpoint",
        f"`{path}` holds no checkpoint",
        "name a run's folder, its `checkpoints`, or one of the numbered folders in it",
    )


def _leaves(state: TrainState) -> dict[str, Any]:
    """Leaves by position: optax's nested tuples have no stable names to save under."""
    leaves = jax.tree.leaves(state)
    width = len(str(len(leaves)))
    return {f"{index:0{width}d}": _array(leaf) for index, leaf in enumerate(leaves)}


def _array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
