"""Shell completion: the registry as an argparse tree, which shtab writes as a shell script.

Everything comes from the registry and the args classes: a command, an alias, an option or a choice
that is added there is completed. What is not built yet is not offered: it would only fail.
Knows nothing of how a shell completes a file (`completion_words` does).
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from . import help as pages
from . import profiles, registry
from .completion_words import BASH_END, KINDS, calls, preambles
from .fields import spellings
from .options import GlobalArgs

SHELLS = ("bash", "zsh", "fish", "powershell", "tcsh")

# How each shell loads the script for good: shown by the help, and above each script.
INSTALL: dict[str, str] = {
    "bash": "bitnet dev completion bash > ~/.local/share/bash-completion/completions/bitnet",
    "zsh": "bitnet dev completion zsh > ~/.zfunc/_bitnet  # with fpath=(~/.zfunc $fpath) in .zshrc",
    "fish": "bitnet dev completion fish > ~/.config/fish/completions/bitnet.fish",
    "powershell": "bitnet dev completion powershell >> $PROFILE",
    "tcsh": "bitnet dev completion tcsh > ~/.bitnet.tcsh  # with source ~/.bitnet.tcsh in .tcshrc",
}

ZSH_EVAL = "$zsh_eval_context[-1] == eval"
ZSH_SOURCE = "$zsh_eval_context[-1] == (eval|file)"

# What stands in an option's help for its value -> the kind of value, where no field says more.
BY_METAVAR = {"MODEL": "model", "FILE": "file", "PATH": "file", "DIR": "folder"}
# Options whose name says more than their metavar.
BY_NAME = {
    "config": "recipe",
    "settings": "settings",
    "plugin": "plugin",
    "profile": "profile",
    "export_json": "page",
}


def script(shell: str, env: Mapping[str, str]) -> str:
    """Returns the completion script of a shell."""
    import shtab

    words = preambles(str(profiles.folder(env)))
    text = shtab.complete(tree(), shell, preamble=words[shell])
    # shtab's own lines on how to install it name other places than ours.
    head, _, rest = text.partition("# Usage:\n")
    lines = rest.splitlines(keepends=True)
    while lines and lines[0].startswith(("#", "/creating")):
        lines.pop(0)
    text = f"{head}# To keep it:\n#   {INSTALL[shell]}\n{''.join(lines)}"
    if shell == "bash":
        text += BASH_END
    if shell == "zsh":
        # It takes `source` for the autoload of a file in fpath, and would complete at once.
        text = _with_equals(text.replace(ZSH_EVAL, ZSH_SOURCE))
    return text


def _with_equals(text: str) -> str:
    """Returns a zsh script that also completes what follows `--emit=`."""
    lines = []
    for line in text.splitlines(keepends=True):
        names, bracket, rest = line.partition("[")
        if "]:" in rest and "--" in names:
            names = re.sub(r"(--[\w-]+)", r"\1=", names)
        lines.append(names + bracket + rest)
    return "".join(lines)


def tree() -> argparse.ArgumentParser:
    """Returns all commands as one parser: it completes, and parses nothing."""
    root = _parser("bitnet")
    _add_options(root, dataclasses.fields(GlobalArgs))
    root.add_argument("-V", "--version", action="store_true", help="print the version")
    below = root.add_subparsers(dest="command")
    for name, row in _rows(""):
        _add_command(below, name, row)
    for group, about in registry.GROUPS.items():
        rows = _rows(group)
        if not rows:
            continue
        parser = below.add_parser(group, help=_text(about), add_help=False)
        _add_options(parser, dataclasses.fields(GlobalArgs))
        inside = parser.add_subparsers(dest="command")
        for name, row in rows:
            _add_command(inside, name, row)
    _add_help(below)
    return root


def keys() -> list[str]:
    """Returns every name that `dev config` takes and a file may set, the general ones first."""
    from .config import NOT_IN_FILES
    from .settings_file import names_by_command

    running = {"", *map(registry.words, registry.built())}
    known = {words: names for words, names in names_by_command().items() if words in running}
    everyone = known.pop("") - NOT_IN_FILES
    named = sorted(everyone | {name for names in known.values() for name in names - NOT_IN_FILES})
    own = [
        f"{words.replace(' ', '.')}.{name}"
        for words, names in known.items()
        for name in sorted(names - everyone - NOT_IN_FILES)
    ]
    return [name.replace("_", "-") for name in (*named, *own)]


def _rows(group: str) -> list[tuple[str, registry.Command]]:
    """Returns (word, command) for what may follow a group and runs: its commands, and aliases."""
    found = [(name, registry.find(group, name)) for name in registry.names_in(group)]
    return [(name, row) for name, row in found if row is not None and row.target is not None]


def _add_command(below: Any, name: str, row: registry.Command) -> None:
    help = row.help if name == row.name else f"= bitnet {registry.words(row)}: {row.help}"
    parser = below.add_parser(name, help=_text(help), add_help=False)
    fields = [f for f in dataclasses.fields(registry.load(row)[1]) if f.metadata.get("built", True)]
    _add_options(parser, [*fields, *dataclasses.fields(GlobalArgs)])
    for field in fields:
        if field.metadata.get("positional"):
            word = parser.add_argument(
                f"word_{field.name}",
                nargs="*" if field.metadata.get("repeat") else "?",
                help=_text(field.metadata["help"]),
            )
            _say_values(word, field, row)


def _add_options(parser: argparse.ArgumentParser, fields: Iterable[dataclasses.Field[Any]]) -> None:
    for field in fields:
        meta = field.metadata
        told: dict[str, Any] = {"dest": field.name, "help": _text(meta["help"])}
        if meta.get("count"):
            told["action"] = "count"
        elif field.type is bool:
            told["action"] = "store_true"
        else:
            told |= {"nargs": meta.get("nargs"), "metavar": meta.get("metavar")}
            told["action"] = "append" if meta.get("repeat") else "store"
        action = parser.add_argument(*spellings(field), **told)
        if "metavar" in told:
            _say_values(action, field, None)
    parser.add_argument("-h", "--help", action="store_true", help="options and examples")


def _say_values(action: Any, field: dataclasses.Field, row: registry.Command | None) -> None:
    """Says which values an option or a word may have, or what kind of value it takes."""
    choices = field.metadata.get("choices")
    if typing.get_origin(field.type) is typing.Literal:
        choices = typing.get_args(field.type)
    if row is not None and (row.group, row.name, field.name) == ("dev", "config", "name"):
        choices = keys()
    kind = BY_NAME.get(field.name, BY_METAVAR.get(field.metadata.get("metavar", "")))
    if row is not None and (row.group, row.name, field.name) == ("dev", "profile", "name"):
        kind = "profile"
    if choices:
        action.choices = list(choices)
    elif kind in KINDS:
        action.complete = calls(kind)


def _add_help(below: Any) -> None:
    parser = below.add_parser("help", help="a topic, a group or a command", add_help=False)
    groups = [name for name in registry.GROUPS if _rows(name)]
    first = [*pages.TOPICS, *groups, *(name for name, _ in _rows(""))]
    inside = dict.fromkeys(name for group in groups for name, _ in _rows(group))
    parser.add_argument("topic", nargs="?", choices=first, help="what about")
    parser.add_argument("command", nargs="?", choices=list(inside), help="which command")


def _parser(name: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=name, add_help=False)


def _text(help: str) -> str:
    return help.replace("%", "%%")
