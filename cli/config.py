"""Where each option's value comes from, and which of its places wins.

flag > environment > settings file > workspace > profile > default. Every value keeps
its origin, and a name that no option has is an error with the nearest one. Knows nothing of what
the options mean; texts become values by the command's own parser.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bitnet_jax.core.errors import BitnetError, ConfigError, Faults, UsageError, did_you_mean

from . import profiles, registry, settings_file
from .args import Parser, as_texts
from .fields import ENV_PREFIX, default_of, env_name
from .settings_file import Source

WORKSPACE_FILE = "bitnet.toml"

# Read by the library itself, not options of any command: name -> what it does, its values.
# `bitnet help environment` prints it.
LIBRARY_ENV: dict[str, str] = {
    "BITNET_CACHE_DIR": "the folder for built kernels, locks, and what is fetched from and "
    "uploaded to gs:// and s3://; default: this user's cache",
    "BITNET_CONFIG_DIR": "the folder for profiles; default: this user's config folder",
    "BITNET_ISA": "the CPU kernels' instruction set: avx512_vbmi, avx512_vnni, avx_vnni, avx2, "
    "neon_i8mm, neon_dotprod or portable; one that cannot run is an error; default: the best that "
    "this processor has",
    "BITNET_KERNELS": "a folder that `bitnet dev build` wrote: its CPU kernels are used, and none "
    "are built",
    "BITNET_NO_COMPILE": "1: never call a C++ compiler; 0 (default): build the CPU kernels at "
    "first use",
    "BITNET_VERIFY_PASSES": "1: check every program after each pass, and name the pass that broke "
    "it; 0 (default): trust them",
}

# Read when this package is built, and by no command: one may well have it exported.
BUILD_ENV = frozenset({"BITNET_WHEEL"})

# Not ours, and heeded, here or by what fetches for us: as above.
OTHER_ENV: dict[str, str] = {
    "CXX": "the C++ compiler that builds the CPU kernels; default: c++, g++, clang++",
    "NO_COLOR, TERM=dumb": "no colour",
    "FORCE_COLOR": "colour in a pipe too",
    "CI": "nobody is there: no question is asked, and progress is lines",
    "HF_HOME, HF_HUB_CACHE": "where models that were fetched lie",
    "HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE": "1: fetch nothing, as --offline; the first wins",
    "HF_TOKEN": "who asks the hub: for what is gated or private",
    "HF_ENDPOINT": "another hub; default: https://huggingface.co",
    "HF_HUB_DOWNLOAD_TIMEOUT": "seconds that the hub may be silent; default: 10",
    "AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY": "who asks s3://, as everywhere",
    "AWS_ENDPOINT_URL": "another store behind s3://",
    "GOOGLE_APPLICATION_CREDENTIALS": "who asks gs://; else gcloud's own login",
    "STORAGE_EMULATOR_HOST": "another store behind gs://",
    "HTTPS_PROXY": "the way to the network",
}

TRUTH = {"1": True, "true": True, "yes": True, "on": True}
TRUTH |= {"0": False, "false": False, "no": False, "off": False}

# Which file a settings file is chosen by cannot stand in one, nor a profile in a profile.
NOT_IN_FILES = frozenset({"settings"})
NOT_IN_PROFILES = frozenset({"settings", "profile"})

# The layers below the command line, the strongest first; `bitnet dev config` names them.
LAYERS = ("environment", "settings file", "workspace", "profile", "default")


# These run although the profile in force is missing: with them it is mended.
MENDERS = frozenset({"dev config", "dev profile"})
MENDED = frozenset({"settings.unknown_profile", "settings.profile_name"})


class Setting(NamedTuple):
    """A value and where it came from."""

    value: Any
    origin: str


class Layer(NamedTuple):
    """What one layer says: its name (of LAYERS), the file if it is one, and the values."""

    name: str
    file: Path | None
    source: Source


def resolve(
    parser: Parser,
    command: registry.Command,
    typed: Mapping[str, Any],
    env: Mapping[str, str],
    cwd: Path,
) -> dict[str, Setting]:
    """Returns field name -> Setting for every option of `parser`.

    Raises:
      ConfigError: unknown names, or values that do not fit, outside the command line: all at once.
      NoInput: the settings file named does not exist.
    """
    found = layers(parser, command, typed, env, cwd, mend=registry.words(command) in MENDERS)
    faults, settings = Faults(ConfigError), dict[str, Setting]()
    for name, field in parser.fields.items():
        with faults.gathered():
            settings[name] = next(said(parser, field, typed, found))[1]
    faults.raise_any()
    return settings


def said(
    parser: Parser, field: dataclasses.Field, typed: Mapping[str, Any], found: list[Layer]
) -> Iterator[tuple[str, Setting]]:
    """Yields what each layer says of an option, the strongest first, with the layer's name."""
    if field.name in typed:
        yield "command line", Setting(typed[field.name], "command line")
    for layer in found:
        if field.name in layer.source.values:
            origin = layer.source.origins[field.name]
            value = fit(parser, field, layer.source.values[field.name], origin)
            yield layer.name, Setting(value, origin)
    yield "default", Setting(default_of(field), "default")


def layers(
    parser: Parser,
    command: registry.Command,
    typed: Mapping[str, Any],
    env: Mapping[str, str],
    cwd: Path,
    *,
    mend: bool = False,
) -> list[Layer]:
    """Returns the layers between the command line and the defaults, the strongest first.

    With `mend`, a profile that is missing is none, unless it was typed.
    """
    words = registry.words(command)
    found = [Layer("environment", None, _environment(parser, env))]
    faults = Faults(ConfigError)

    def file(path: Path, name: str, **rules: Any) -> None:
        with faults.gathered():
            source = settings_file.source(settings_file.read(path), words, parser.fields, **rules)
            found.append(Layer(name, path, source))

    chosen = typed.get("settings") or found[0].source.values.get("settings")
    if chosen:
        file(cwd / chosen, "settings file", but=NOT_IN_FILES)
    workspace = find_workspace(cwd)
    if workspace is not None:
        file(workspace, "workspace", but=NOT_IN_FILES, check=check_workspace)
    faults.raise_any()  # of what is left, it is not known which profile is in force
    try:
        profile = profile_file(parser, typed, found, env)
    except BitnetError as error:
        if not mend or "profile" in typed or error.code not in MENDED:
            raise
        profile = None
    if profile is not None:
        file(profile, "profile", but=NOT_IN_PROFILES, check=check_profile)
    faults.raise_any()
    return found


def profile_file(
    parser: Parser, typed: Mapping[str, Any], found: list[Layer], env: Mapping[str, str]
) -> Path | None:
    """Returns the file of the profile in force: named by what is stronger, or the default one."""
    if "profile" not in parser.fields:
        return None
    _, (name, origin) = next(said(parser, parser.fields["profile"], typed, found))
    if name is None:
        chosen = profiles.default(env)
        if chosen is None:
            return None
        name, origin = chosen[0], str(chosen[1])
    return None if name == profiles.NONE else profiles.find(name, origin, env)


def fit(parser: Parser, field: dataclasses.Field, raw: Any, origin: str) -> Any:
    """Returns a raw value (a text, or what a settings file holds) as the option's value.

    Raises:
      ConfigError: it does not fit.
    """
    if raw is None:  # YAML: a name, and nothing after it
        raise ConfigError(
            "settings.bad_value", f"{origin}: `{field.name}` has no value", "give one, or leave out"
        )
    if field.type is bool:
        word = str(raw).strip().lower()
        if word not in TRUTH:
            raise ConfigError(
                "settings.bad_value",
                f"{origin}: `{raw}` is neither true nor false (`{field.name}`)",
                "write one of: " + ", ".join(TRUTH),
            )
        return TRUTH[word]
    try:
        if field.metadata.get("count"):
            return int(raw)
        return parser.convert(field, as_texts(field, raw))
    except UsageError as error:
        raise ConfigError("settings.bad_value", f"{origin}: {error.message}", error.hint) from error
    except ValueError as error:
        raise ConfigError("settings.bad_value", f"{origin}: `{field.name}`: {error}") from error


def _environment(parser: Parser, env: Mapping[str, str]) -> Source:
    names = {env_name(field): name for name, field in parser.fields.items()}
    # Empty is unset: `BITNET_OUTPUT= bitnet ...` is how a shell takes one away.
    ours = {name for name, value in env.items() if name.startswith(ENV_PREFIX) and value}
    stray = sorted(ours - set(names) - set(LIBRARY_ENV) - BUILD_ENV)
    # The options of the other commands are only gathered when there is something to look up.
    known = _all_env_names() if stray else set()
    faults = Faults(ConfigError)
    for variable in stray:
        if variable not in known:
            error = ConfigError(
                "settings.unknown_environment",
                f"the environment sets `{variable}`, which no option is read from",
                f"{did_you_mean(variable, known | set(LIBRARY_ENV))} Else: unset {variable}",
            )
            faults.add(error)
    faults.raise_any()
    values = {names[variable]: env[variable] for variable in ours & set(names)}
    return Source(values, {names[v]: f"environment variable {v}" for v in ours & set(names)})


def _all_env_names() -> set[str]:
    by_command = settings_file.names_by_command()
    return {ENV_PREFIX + name.upper() for names in by_command.values() for name in names}


def find_workspace(cwd: Path) -> Path | None:
    """Returns the nearest `bitnet.toml`, in `cwd` or a folder above it."""
    for folder in (cwd, *cwd.parents):
        if (folder / WORKSPACE_FILE).is_file():
            return folder / WORKSPACE_FILE
    return None


def check_workspace(name: str, value: Any, where: str) -> None:
    """Refuses a plugin in a workspace.

    That is found by itself, also in a folder that a stranger's model came in: no file may be run
    because it stands there. A file that was named by --settings may say it.
    """
    if name == "plugin":
        raise ConfigError(
            "settings.workspace_code",
            f"{where}: `{name}` would run a file because of the folder that you are in",
            f"pass --{name}, set {ENV_PREFIX}{name.upper()}, or name a file: --settings",
        )


def check_profile(name: str, value: Any, where: str) -> None:
    """Refuses a plugin of a profile that each folder may have of its own."""
    for file in value if isinstance(value, list) else [value]:
        if name == "plugin" and not Path(str(file)).is_absolute():
            raise ConfigError(
                "settings.profile_code",
                f"{where}: `{name}` in a profile must be an absolute path, not `{file}`",
                "else each folder that you are in could bring its own",
            )
