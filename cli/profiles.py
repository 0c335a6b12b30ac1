"""Profiles: named sets of settings that follow a person from folder to folder.

A profile is a settings file `profiles/NAME.toml` in this user's config folder; beside them the
file `default-profile` may name the one that is used when nothing else names one. Knows where
they lie and what they are called; what a settings file may say is `settings_file`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from bitnet_jax.core.errors import CannotCreate, ConfigError, UsageError, did_you_mean
from bitnet_jax.core.paths import atomic_file, os_failure

NONE = "none"  # --profile none: use no profile, not even the default one
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

TEMPLATE = """\
# Profile `{name}`: settings that hold wherever it is chosen (`bitnet help settings`).
"""


def folder(env: Mapping[str, str]) -> Path:
    """Returns this user's config folder, which need not exist.

    Raises:
      ConfigError: there is no home folder to keep it in (``settings.no_home``).
    """
    if env.get("BITNET_CONFIG_DIR"):
        return Path(env["BITNET_CONFIG_DIR"]).absolute()
    import platformdirs

    path = Path(platformdirs.user_config_dir("bitnet-jax"))
    if not path.is_absolute():  # neither HOME nor an entry for this user: `~` is left as it is
        raise ConfigError(
            "settings.no_home",
            "this user has no home folder to keep profiles in",
            "set BITNET_CONFIG_DIR to a folder",
        )
    return path


def file_of(name: str, env: Mapping[str, str]) -> Path:
    """Returns the file of a profile, which need not exist.

    Raises:
      UsageError: a profile cannot be called so.
    """
    if not NAME.fullmatch(name) or name == NONE:
        raise UsageError(
            "settings.profile_name",
            f"`{name}` cannot be the name of a profile",
            "letters, digits, `.`, `_` and `-`, at most 64"
            + (f"; `{NONE}` means no profile" if name == NONE else ""),
        )
    return folder(env) / "profiles" / f"{name}.toml"


def names(env: Mapping[str, str]) -> list[str]:
    """Returns the profiles there are, in alphabetical order."""
    try:
        stems = sorted(path.stem for path in (folder(env) / "profiles").glob("*.toml"))
    except OSError:  # a home that cannot be looked into holds none
        return []
    return [stem for stem in stems if NAME.fullmatch(stem) and stem != NONE]


def default(env: Mapping[str, str]) -> tuple[str, Path] | None:
    """Returns the default profile's name and the file that says so, or None.

    Without a home folder, or with one that is no folder or may not be read, there is none: nobody
    asked for a profile, so its absence is no error.
    """
    try:
        path = folder(env) / "default-profile"
        name = path.read_text(encoding="utf-8").strip()
    except (ConfigError, OSError, UnicodeDecodeError):
        return None
    return (name, path) if name else None


def find(name: str, origin: str, env: Mapping[str, str]) -> Path:
    """Returns the file of the profile `name`, which `origin` asks for.

    Raises:
      ConfigError: there is none.
    """
    path = file_of(name, env)
    if not path.is_file():
        known = names(env)
        hint = did_you_mean(name, known) if known else "there are none yet;"
        raise ConfigError(
            "settings.unknown_profile",
            f"there is no profile `{name}` in `{path.parent}` ({origin})",
            f"{hint} `bitnet dev profile create {name}` makes it, or --profile {NONE}",
        )
    return path


def create(name: str, text: str, env: Mapping[str, str], *, force: bool) -> Path:
    """Writes a profile; returns its file.

    Raises:
      CannotCreate: it exists and `force` is false.
    """
    path = file_of(name, env)
    if path.exists() and not force:
        raise CannotCreate(
            "settings.profile_exists",
            f"the profile `{name}` exists: `{path}`",
            "choose another name, or pass --force",
        )
    _make(path.parent)
    with atomic_file(path) as stream:
        stream.write(text.encode())
    return path


def set_default(name: str | None, env: Mapping[str, str]) -> None:
    """Makes `name` the default profile; None: there is none."""
    path = folder(env) / "default-profile"
    if name is None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise os_failure(error, "remove", path) from error
        return
    _make(path.parent)
    with atomic_file(path) as stream:
        stream.write(f"{name}\n".encode())


def delete(name: str, env: Mapping[str, str]) -> Path:
    """Removes a profile, also as the default; returns the file that it was."""
    path = find(name, "to delete it", env)
    chosen = default(env)
    if chosen is not None and chosen[0] == name:
        set_default(None, env)
    try:
        os.unlink(path)
    except OSError as error:
        raise os_failure(error, "remove", path) from error
    return path


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        failure = os_failure(error, "create the config folder", path)
        failure.hint = "set BITNET_CONFIG_DIR to a folder that can be written"
        raise failure from error
