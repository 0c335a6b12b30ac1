"""The settings in force, for one command or all: each value, its origin, and what it hides.

Records only; knows nothing of how they are printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bitnet_jax.core.errors import BitnetError

from . import config, profiles, registry, settings_file
from .args import Parser
from .options import GlobalArgs
from .result import CommandResult

# Where settings lie, by the layer that a file is.
FILES = ("settings file", "workspace", "profile")


class View:
    """Settings as the commands would find them here, with `typed` for what was typed."""

    def __init__(self, typed: Mapping[str, Any], env: Mapping[str, str], cwd: Path):
        self.typed, self.env, self.cwd = dict(typed), env, cwd

    def files(self) -> dict[str, Any]:
        """Returns which files are read, and which profile is in force."""
        command = registry.built()[0]
        parser = self._parser(command)
        found = config.layers(parser, command, self.typed, self.env, self.cwd, mend=True)
        files: dict[str, Any] = {layer.name: str(layer.file) for layer in found if layer.file}
        profile = files.get("profile")
        return {
            "settings_file": files.get("settings file"),
            "workspace": files.get("workspace"),
            "profile": Path(profile).stem if profile else None,
            "profile_file": profile,
            "profiles": profiles.names(self.env),
        }

    def of(self, command: registry.Command) -> list[dict[str, Any]]:
        """Returns a record for each option of `command`: its value in force, and the origin."""
        parser = self._parser(command)
        found = config.layers(parser, command, self.typed, self.env, self.cwd, mend=True)
        rows = []
        for name, field in parser.fields.items():
            layer, setting = next(config.said(parser, field, self.typed, found))
            rows.append(_row(name, layer, setting))
        return rows

    def everywhere(self) -> list[dict[str, Any]]:
        """Returns a record for each value that is set somewhere, with the commands it is for."""
        merged: dict[tuple[Any, ...], dict[str, Any]] = {}
        for command in registry.COMMANDS:
            for row in self.of(command):
                if row["layer"] != "default":
                    key = (row["name"], row["layer"], row["origin"], repr(row["value"]))
                    merged.setdefault(key, {**row, "commands": []})["commands"].append(
                        registry.words(command)
                    )
        for row in merged.values():
            row["commands"] = _narrowed(row["name"], row["commands"])
        return sorted(merged.values(), key=lambda row: (row["name"], row["commands"]))

    def layers(self, place: str, name: str) -> list[dict[str, Any]]:
        """Returns what each layer says of one option, the strongest first.

        For the commands of `place` that have it; those that agree share their records.
        """
        merged: dict[str, list[dict[str, Any]]] = {}
        commands: dict[str, list[str]] = {}
        for command in registry.COMMANDS:
            words = registry.words(command)
            parser = self._parser(command)
            if not settings_file.covers(place, words) or name not in parser.fields:
                continue
            found = config.layers(parser, command, self.typed, self.env, self.cwd, mend=True)
            rows = [
                {**_row(name, layer, setting), "in_force": number == 0}
                for number, (layer, setting) in enumerate(
                    config.said(parser, parser.fields[name], self.typed, found)
                )
            ]
            merged[repr(rows)] = rows
            commands.setdefault(repr(rows), []).append(words)
        return [
            {**row, "commands": _narrowed(name, commands[key])}
            for key, rows in merged.items()
            for row in rows
        ]

    @staticmethod
    def _parser(command: registry.Command) -> Parser:
        return Parser(GlobalArgs, registry.load(command)[1])


def told_of_profile(result: CommandResult, env: Mapping[str, str], cwd: Path) -> CommandResult:
    """Warns where the profile that the settings name is missing: other commands stop there."""
    command = registry.built()[0]
    try:
        config.layers(View._parser(command), command, {}, env, cwd)
    except BitnetError as error:
        if error.code not in config.MENDED:
            raise
        result.warnings.append(error.message + (f"; {error.hint}" if error.hint else ""))
    return result


def _row(name: str, layer: str, setting: config.Setting) -> dict[str, Any]:
    return {
        "name": name.replace("_", "-"),
        "value": setting.value,
        "layer": layer,
        "origin": setting.origin,
    }


def _narrowed(name: str, words: Iterable[str]) -> list[str]:
    """Returns the commands, or nothing where it is all those that have the option."""
    known = settings_file.names_by_command()
    field = name.replace("-", "_")
    everyone = {place for place, names in known.items() if place and field in names}
    return [] if set(words) == everyone else sorted(words)
