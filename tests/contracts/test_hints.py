"""Every command that a message of ours names is one that runs, and has the options it names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from bitnet_cli import registry
from bitnet_cli.fields import option_strings
from bitnet_cli.main import _page
from bitnet_cli.options import GlobalArgs
from bitnet_cli.route import route

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path
    for package in ("bitnet_jax", "cli")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "_planned.py"  # what is announced there answers that it is not built
)
NAMED = re.compile(r"\bbitnet ([a-z][a-z-]*)\b([^`\n]*)")
# Words that follow the name of the program in prose.
PROSE = {"format", "file", "container", "model"}


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every text of a file but its docstrings; what an f-string fills in is an X."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            parts = [
                str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
            ]
            yield node.lineno, "".join(parts)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in skipped:
                yield node.lineno, node.value


def named(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command line in a text: its words, and the long options that it names."""
    for match in NAMED.finditer(text):
        first, rest = match[1], match[2]
        words = rest.split()
        options = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", rest)
        if first in registry.GROUPS:
            second = re.match(r" ([a-z][a-z-]*)(?![\w:])", rest)
            if second is not None:
                yield f"{first} {second[1]}", options
            elif first not in PROSE and words and not words[0].startswith(("-", "X")):
                yield f"{first} {words[0]}", options
        elif first in registry.names_in(""):
            yield first, options
        elif first == "help":
            assert _page(route(["help", *(words[:1] if words[:1] != ["WORD"] else [])]))


def fault(words: str, options: list[str]) -> str | None:
    """What is wrong with naming this command so, or nothing."""
    group, _, name = words.rpartition(" ")
    command = registry.find(group, name)
    if command is None:
        return f"`bitnet {words}` is no command"
    if command.target is None:
        return f"`bitnet {words}` is not built yet"
    known = {"--help", *option_strings(registry.load(command)[1]), *option_strings(GlobalArgs)}
    strange = sorted(set(options) - known)
    return f"`bitnet {words}` has no {strange}" if strange else None


def test_what_does_not_run_is_noticed(monkeypatch):
    waiting = registry.Command("dev", "waiting", None, "not built")
    monkeypatch.setattr(registry, "COMMANDS", (*registry.COMMANDS, waiting))
    for text, wrong in [
        ("in the midst: bitnet dev waiting does it", "`bitnet dev waiting` is not built yet"),
        ("see `bitnet dev nonsense a b`", "`bitnet dev nonsense` is no command"),
        ("`bitnet model inspect X --nonsense`", "`bitnet model inspect` has no ['--nonsense']"),
        ("`bitnet model inspect X --show-layers --json`", None),
    ]:
        (found,) = named(text)
        assert fault(*found) == wrong


def test_what_messages_name_is_built():
    faults, met = [], 0
    for file in FILES:
        for line, text in texts(ast.parse(file.read_text())):
            for words, options in named(text):
                met += 1
                wrong = fault(words, options)
                if wrong:
                    faults.append(f"{file.relative_to(ROOT)}:{line}: {wrong}")
    assert not faults, "\n".join(faults)
    assert met > 50
