"""This user's cache folder, also where there is no home to have one in."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

from bitnet_jax.core.errors import BitnetError, PermissionDenied
from bitnet_jax.core.outputs import os_failure


def cache_dir(*parts: str) -> Path:
    """Returns (and creates, mode 0700) this user's cache folder for `parts`.

    ``BITNET_CACHE_DIR`` overrides the platform's place, and must then be usable. Where nobody
    chose one and the home folder is absent, read-only or no folder (containers, system users),
    a private folder below the system's temporary one serves, and that is said once.

    Raises:
      PermissionDenied, NoInput, IOFailure: it cannot be made, or not written into.
    """
    chosen = os.environ.get("BITNET_CACHE_DIR")
    if chosen:
        return _usable(Path(chosen).joinpath(*parts))
    import platformdirs

    base = Path(platformdirs.user_cache_dir("bitnet-jax"))
    try:
        if base.is_absolute():  # else there is neither HOME nor an entry for this user
            return _usable(base.joinpath(*parts))
        why = "this user has no home folder"
    except BitnetError as error:
        why = error.message
    temporary = _private_temporary()
    if not _said_temporary:
        _said_temporary.append(temporary)
        logging.getLogger(__name__).warning(
            "%s; using %s until BITNET_CACHE_DIR names a folder", why, temporary
        )
    return _usable(temporary.joinpath(*parts))


_said_temporary: list[Path] = []


def _usable(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise os_failure(error, "create the cache folder", path) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionDenied(
            "io.permission",
            f"cannot write into the cache folder `{path}`",
            "set BITNET_CACHE_DIR to a folder that can be written",
        )
    return path


def _private_temporary() -> Path:
    """Makes this user's folder below the temporary one; nobody else may have prepared it."""
    import tempfile

    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    path = Path(tempfile.gettempdir()) / f"bitnet-jax-{user}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    mine = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    if not stat.S_ISDIR(found.st_mode) or not mine or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionDenied(
            "io.not_private",
            f"`{path}` is not a folder of this user's alone",
            "set BITNET_CACHE_DIR to a folder that is",
        )
    return path
