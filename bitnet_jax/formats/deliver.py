"""An output that may lie in an object store: written here, proven, then uploaded.

For a local path this hands the path on. For an address the model is written into the cache,
by the same code; only what has been proven there is uploaded. Knows which object makes a
folder a model, and so must come last, and that a receipt never stands beside another model.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitnet_jax.core.caches import cache_dir
from bitnet_jax.core.errors import BitnetError, UsageError
from bitnet_jax.core.paths import lock, os_failure
from bitnet_jax.formats.model_files import CONFIG, INDEX
from bitnet_jax.formats.receipts import receipt_path
from bitnet_jax.formats.save import FORMATS, format_of
from bitnet_jax.stores.address import Address, parse
from bitnet_jax.stores.store import Reach
from bitnet_jax.stores.upload import Upload


@dataclass
class Delivery:
    """Where to write, and where it ends up.

    Attributes:
      path: what to write, on this machine.
      beside: further files that go with it, after the model itself.
    """

    path: Path
    address: Address | None = None
    beside: list[Path] = field(default_factory=list)

    def named(self, path: Path) -> str:
        """What a record calls a file that was written."""
        if self.address is None:
            return str(path)
        if path == self.path:
            return str(self.address)
        inside = path.is_relative_to(self.path)
        folder, base = (self.address, self.path) if inside else (
            self.address.parent, self.path.parent,
        )  # fmt: skip
        return str(folder.child(path.relative_to(base).as_posix()))


@contextmanager
def delivered(
    output: str | os.PathLike,
    *,
    format: str | None = None,
    force: bool = False,
    offline: bool | None = None,
    progress: Any = None,
) -> Iterator[Delivery]:
    """Yields where to write `output`; uploads it when the block has ended without an error.

    Raises:
      CannotCreate: the store has it already, and `force` is false; before the block runs.
      Unavailable: the store cannot be written to.
      IOFailure: the upload was cut; what was written is kept, and the hint says where.
    """
    address = parse(output)
    if address is None:
        yield Delivery(Path(output))
        return
    if "/" not in address.rest:
        raise UsageError(
            "store.address",
            f"`{address}` is a whole bucket",
            f"name what is to be written in it: {address}/model.bitnet",
        )
    directory = FORMATS[format_of(Path(address.name), format)].directory
    upload = Upload(address if directory else address.parent, Reach.of(offline, progress))
    own = {address.name, receipt_path(Path(address.name), format).name}
    upload.check(_is_model if directory else own.__contains__, force=force)
    key = hashlib.sha256(str(address).encode()).hexdigest()[:24]
    with lock(cache_dir("locks") / f"out-{key}"):
        stage = _emptied(cache_dir("stores", "out", key))
        delivery = Delivery(stage / address.name, address)
        try:
            yield delivery
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        _upload(upload, delivery, receipt_path(delivery.path, format), force)
        shutil.rmtree(stage, ignore_errors=True)


def _upload(upload: Upload, delivery: Delivery, receipt: Path, force: bool) -> None:
    path = delivery.path
    if path.is_dir():
        # The config makes it a model: it is gone before anything is replaced, and comes last.
        inside = sorted(path.iterdir(), key=lambda file: (file.name == CONFIG, file.name))
        files = {file.name: file for file in inside}
        old = sorted(name for name in upload.names() if _is_weights(name) and name not in files)
        first_remove = [CONFIG, *old]
    else:
        # The file is replaced in one step: cut before it, the old model lacks its receipt.
        files = {file.name: file for file in (path, *delivery.beside)}
        first_remove = [receipt.name]
    try:
        upload.check(files.__contains__, force=force)
        upload.put(files, first_remove=first_remove)
    except BitnetError as error:
        kept = f"the model that was written is kept as `{delivery.path}` until the next try"
        error.hint = f"{error.hint}; {kept}" if error.hint else kept
        raise


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors") or name == INDEX


def _is_model(name: str) -> bool:
    return name == CONFIG or _is_weights(name)


def _emptied(folder: Path) -> Path:
    try:
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise os_failure(error, "empty", folder) from error
    return folder
