"""Writes docs/errors.md and cli/errors.tsv from the source: every code, its exit code, its words.

Reads the syntax tree of `bitnet_jax` and `cli`, and runs none of it. A code must stand in the
source as a literal, or be passed as one to the function that raises it, so that it can
be found by searching for it; what cannot be followed is an `Unfollowed`.

    python -m tests.contracts.errors_page

The table is what `bitnet help KEYWORD` searches: an installed program has no docs.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CODE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_{}]+)+")

HEAD = """# Errors

<!-- Written by `make format` from the source: do not edit. -->

Every failure that a user can cause has a code. It keeps its meaning once published, so a
script may rely on it; the words may change. An error is printed to stderr as
`error[code]: what was asked, what was found`, an empty line, and `hint: what to do`; with
`--json` it stands in the envelope's `errors` as `{"code", "message", "hint"}`.

Exit codes: 0 ok · 1 a check failed · 2 usage · 65 bad data · 66 no input · 69 something is
missing (device, extra, compiler, memory, endpoint) · 70 a bug of ours · 73 cannot create · 74
I/O · 75 stopped but resumable, or busy · 77 permission · 78 configuration · 130, 143
interrupted.

Words in braces are filled in.

| code | exit | what it says | from |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Raised:
    """One place that makes an error."""

    code: str
    exit_code: int
    message: str
    where: str


@dataclass(frozen=True)
class Unfollowed:
    """A code that is not a literal, and whose callers pass none."""

    where: str
    text: str


def text_of(node: ast.expr | None) -> str | None:
    """The string that `node` makes, with `{name}` where it is filled in; None if not a string."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part) or "" for part in parts)
        case ast.FormattedValue(value=value):
            return "{" + re.sub(r"\W+", " ", ast.unparse(value)).strip().split(" ")[-1] + "}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            pieces = [text_of(left), text_of(right)]
            return "".join(p if p is not None else "{…}" for p in pieces) if any(pieces) else None
    return None


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Every module, by its path from the root."""
    for root in ("bitnet_jax", "cli"):
        for file in sorted((ROOT / root).rglob("*.py")):
            if "templates" not in file.parts:
                yield str(file.relative_to(ROOT)), ast.parse(file.read_text())


def name_of(node: ast.expr) -> str:
    """`f` of `f` and of `module.f`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def error_classes(classes: Iterable[ast.ClassDef]) -> dict[str, int]:
    """Class name -> exit code, for BitnetError and all that inherit from it."""
    found = {"BitnetError": 70}
    classes = list(classes)
    for _ in range(5):  # inheritance is shallow, in any order
        for node in classes:
            base = next((name_of(b) for b in node.bases if name_of(b) in found), None)
            if base is None:
                continue
            own = [
                item.value.value
                for item in node.body
                if isinstance(item, ast.Assign)
                and name_of(item.targets[0]) == "exit_code"
                and isinstance(item.value, ast.Constant)
            ]
            found[node.name] = int(own[0]) if own else found[base]
    return found


def parents_of(tree: ast.Module) -> dict[ast.AST, ast.AST]:
    """Each node's parent."""
    return {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}


def argument(call: ast.Call, position: int, name: str) -> ast.expr | None:
    """The argument of `call` that stands at `position` or is called `name`."""
    if position < len(call.args):
        return call.args[position]
    return next((k.value for k in call.keywords if k.arg == name), None)


def enclosing(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> ast.FunctionDef | None:
    """The function that `node` stands in."""
    while node in parents:
        node = parents[node]
        if isinstance(node, ast.FunctionDef):
            return node
    return None


@functools.cache
def scan() -> tuple[list[Raised], list[Unfollowed]]:
    """Every code that the source can raise, and every one that could not be followed."""
    modules = [(where, tree, parents_of(tree)) for where, tree in sources()]  # walked once
    calls: dict[str, list[tuple[str, ast.Call]]] = defaultdict(list)
    defined: dict[str, list[ast.ClassDef]] = defaultdict(list)
    for where, _, parents in modules:
        for node in parents:
            if isinstance(node, ast.Call):
                calls[name_of(node.func)].append((where, node))
            elif isinstance(node, ast.ClassDef):
                defined[where].append(node)
    classes = error_classes(itertools.chain.from_iterable(defined.values()))

    raised: list[Raised] = []
    unfollowed: list[Unfollowed] = []
    for where, tree, parents in modules:
        # A class's own module may rebuild it (to unpickle it) without raising it.
        own = {node.name for node in defined[where]}
        for node in parents:
            if not isinstance(node, ast.Call) or name_of(node.func) not in classes:
                continue
            exit_code = classes[name_of(node.func)]
            code = argument(node, 0, "code")
            if code is not None and re.search(r"""(\.code|\['code'\])\)?$""", ast.unparse(code)):
                continue  # made from another error or a finding, which has its code already
            function = enclosing(node, parents)
            here = _local(code, function, tree)
            words = next(iter(_local(argument(node, 1, "message"), function, tree)), "")
            found = [Raised(text, exit_code, words, where) for text in here]
            found += [
                Raised(text, exit_code, passed or words, at)
                for at, text, passed in _passed(code, function, calls)
            ]
            raised += found
            if not found and name_of(node.func) not in own:
                unfollowed.append(Unfollowed(where, ast.unparse(node)[:120]))
    return raised, unfollowed


def _local(node: ast.expr | None, function: ast.FunctionDef | None, tree: ast.Module) -> list[str]:
    """The strings that `node` may be, as far as its function and module tell."""
    text = text_of(node)
    if text is not None:
        return [text]
    match node:
        case ast.IfExp(body=body, orelse=orelse):
            return _local(body, function, tree) + _local(orelse, function, tree)
        case ast.Name(id=name) if function is not None:
            return [
                text
                for item in ast.walk(function)
                if isinstance(item, ast.Assign) and name_of(item.targets[0]) == name
                for text in _local(item.value, None, tree)
            ]
        case ast.Subscript(value=ast.Name(id=name)):  # a module's table of codes
            return [
                item.value
                for table in tree.body
                if isinstance(table, ast.Assign) and name_of(table.targets[0]) == name
                for item in ast.walk(table.value)
                if isinstance(item, ast.Constant)
                and isinstance(item.value, str)
                and CODE.fullmatch(item.value)
            ]
    return []


def _passed(
    node: ast.expr | None,
    function: ast.FunctionDef | None,
    calls: dict[str, list[tuple[str, ast.Call]]],
) -> Iterator[tuple[str, str, str]]:
    """Where, code and message of each call of `function` that passes its parameter `node`."""
    if function is None or not isinstance(node, ast.Name):
        return
    names = [a.arg for a in function.args.args if a.arg not in ("self", "cls")]
    if node.id not in (*names, *(a.arg for a in function.args.kwonlyargs)):
        return
    position = names.index(node.id) if node.id in names else 99
    said = names.index("message") if "message" in names else 99
    for where, call in calls[function.name]:
        code = text_of(argument(call, position, node.id))
        if code is not None:
            yield where, code, text_of(argument(call, said, "message")) or ""


def rows() -> list[Raised]:
    """One row for each code."""
    found: dict[str, Raised] = {}
    # Where several places raise one code, the page shows the first that has words.
    for item in sorted(scan()[0], key=lambda r: (r.code, not r.message, r.where, r.message)):
        found.setdefault(item.code, item)
    return list(found.values())


def _words(item: Raised) -> str:
    return " ".join(item.message.split())


def page() -> str:
    """The whole of docs/errors.md."""
    lines = []
    for item in rows():
        words = _words(item).replace("|", "\\|")
        lines.append(f"| `{item.code}` | {item.exit_code} | {words} | `{item.where}` |\n")
    return HEAD + "".join(lines)


def table() -> str:
    """The whole of cli/errors.tsv: code, exit code, words."""
    return "".join(f"{item.code}\t{item.exit_code}\t{_words(item)}\n" for item in rows())


WRITTEN = {"docs/errors.md": page, "cli/errors.tsv": table}

if __name__ == "__main__":
    for name, text in WRITTEN.items():
        (ROOT / name).write_text(text())
