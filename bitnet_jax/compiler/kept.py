"""Executables kept on disk, so that a second start neither traces nor compiles.

`compiled_once` keeps whole programs whose every source is known; `keep_xla` lets JAX keep what it
compiles of any function, which is traced each time.

An entry is found by everything that its program depends on: what was asked for, the sources of
this package and of its kernels, the versions, the processor or device, JAX's settings. It lies in
a folder that nobody else may write, beside its receipt and its digest; one that is damaged, or that
others may write, is removed and compiled again. Only what this package's own sources define may
be kept: nobody can tell whether another's function is still the same. Whatever hinders keeping is
said, and hinders nothing else. Where JAX has a cache of its own, that one is used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from bitnet_jax.compiler.compile import Executable, Receipt
from bitnet_jax.core.caches import cache_dir
from bitnet_jax.core.errors import BitnetError, Resumable
from bitnet_jax.core.paths import atomic_file
from bitnet_jax.ops.native import build
from bitnet_jax.ops.native import library as native
from bitnet_jax.targets.detect import detect, processor_features, versions

logger = logging.getLogger(__name__)

# The newest entries that are kept; one is of 100 KB to a few MB.
_MOST = 256
_DIGEST = 32
# What JAX keeps: compilations of at least so many seconds, and so many bytes in all. (Only with a
# limit it holds a lock while it writes.) Setting -> JAX's own value, and ours.
_XLA_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": (1.0, 0.3),
    "jax_compilation_cache_max_size": (-1, 1 << 30),
}
_NAME = re.compile("[0-9a-f]{64}")
_ENVIRONMENT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "BITNET_ISA", *native.SETTINGS[:2])
_ROOT = Path(__file__).parents[1]
_IMPORTED = time.time()


def compiled_once(
    asked: str, make: Callable[[], Executable], args: tuple[Any, ...], out_like: Any
) -> Executable:
    """The executable kept for `asked`, or that of `make`, which is kept then.

    Args:
      asked: all that decides the program beside its arguments' shapes and what `_here` tells.
      args: its arguments, arrays or abstract values.
      out_like: a pytree of its results' structure.
    """
    flat, in_tree = jax.tree_util.tree_flatten((args, {}))
    shapes = [f"{jax.dtypes.result_type(leaf)}{list(leaf.shape)}" for leaf in flat]
    # What JAX takes from its own cache has lost what it takes to be written once more: of the two
    # caches, the one that was asked for. (Seen: such a program ends with NOT_FOUND.)
    others = ("jax_default_device", "jax_compilation_cache_dir")
    if any(jax.config.values[name] for name in others) or _edited():
        return make()
    facts = json.dumps([asked, str(in_tree), shapes, _here()])
    try:
        path = _folder("executables") / hashlib.sha256(facts.encode()).hexdigest()
    except BitnetError as error:
        logger.warning("no compiled program is kept: %s", error.message)
        return make()
    found = _read(path, in_tree, jax.tree_util.tree_structure(out_like))
    if found is not None:
        return found
    executable = make()
    try:
        _write(path, executable)
    except Resumable:
        logger.debug("another process keeps this program now")
    except Exception as error:  # noqa: BLE001 - a full disk, a backend that gives no bytes
        logger.warning("a compiled program is not kept: %s", error)
    return executable


def keep_xla(wanted: bool = True) -> None:
    """Lets JAX keep what takes long to compile in this user's cache, from now on.

    For the rest of this process. A folder that JAX was told of already stays
    (``JAX_COMPILATION_CACHE_DIR``), and so does a threshold or a limit of the user's own. To be
    called before anything is compiled.
    """
    if not wanted or jax.config.values["jax_compilation_cache_dir"]:
        return
    try:
        folder = _folder("xla")
    except BitnetError as error:
        logger.warning("no compiled program is kept: %s", error.message)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, (default, value) in _XLA_SETTINGS.items():
        if jax.config.values[name] == default:
            jax.config.update(name, value)


def _folder(name: str) -> Path:
    folder = cache_dir(name)
    build.check_private(folder)
    return folder


def _here() -> list[str]:
    """What every program of this process depends on."""
    if native.status().available:
        native.ffi_target(native.FFI_TARGETS[0])  # a program that is loaded finds its kernels
    status = native.status()
    settings = {
        name: str(value)
        for name, value in jax.config.values.items()
        if not name.startswith(("jax_compilation_cache", "jax_persistent_cache"))
    }
    return [
        _sources(),
        build.source_key(),
        f"{status.isa} {status.path}",
        json.dumps(versions()),
        f"{platform.python_version()} {detect()} {processor_features()}",
        jax.local_devices()[0].client.platform_version,
        json.dumps(settings, sort_keys=True),
        json.dumps({name: os.environ.get(name) for name in _ENVIRONMENT}),
    ]


@functools.cache
def _edited() -> bool:
    """Whether a source is younger than this process: then what is imported may be another."""
    newest = max(path.stat().st_mtime for path in _ROOT.rglob("*.py"))
    if newest > _IMPORTED:
        logger.warning("no compiled program is kept: sources of bitnet-jax have changed")
    return newest > _IMPORTED


@functools.cache
def _sources() -> str:
    """SHA-256 of this package's Python sources."""
    digest = hashlib.sha256()
    for path in sorted(_ROOT.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(_ROOT)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _read(path: Path, in_tree: Any, out_tree: Any) -> Executable | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body = content[_DIGEST:]
    try:
        build.check_private(path)
        if hashlib.sha256(body).digest() != content[:_DIGEST]:
            raise ValueError("it is not what was written")
        told, _, program = body.partition(b"\n")
        compiled = serialize_executable.deserialize_and_load(
            program, in_tree, out_tree, execution_devices=jax.local_devices()[:1]
        )
        receipt = Receipt(**json.loads(told))
    except FileNotFoundError:  # another process removed it meanwhile
        return None
    except Exception as error:  # noqa: BLE001 - whatever a damaged program makes XLA say
        logger.warning("removing the compiled program `%s`, which cannot be read: %s", path, error)
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the oldest are those that nobody reads
    return Executable(compiled, replace(receipt, kept=True))


def _write(path: Path, executable: Executable) -> None:
    program, _, _ = serialize_executable.serialize(executable.compiled)
    body = json.dumps(executable.receipt.to_json()).encode() + b"\n" + program
    with atomic_file(path) as stream:
        stream.write(hashlib.sha256(body).digest() + body)
    os.chmod(path, 0o600)  # whatever the umask: what others may write is not read again
    entries = [entry for entry in path.parent.iterdir() if _NAME.fullmatch(entry.name)]
    for old in sorted(entries, key=_age)[:-_MOST]:
        with contextlib.suppress(OSError):
            old.unlink()


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process removed it
        return 0.0
