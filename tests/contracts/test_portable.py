"""What not every system has is called in `bitnet_jax/core` alone.

Which names of the standard library those are is not listed here but read from typeshed (mypy
brings it): whatever its stubs put under `if sys.platform ...` for Linux, macOS or Windows.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import mypy
import pytest

STUBS = Path(mypy.__file__).parent / "typeshed/stdlib"
PLATFORMS = ("linux", "darwin", "win32")
Imported = ast.Import | ast.ImportFrom
# Arguments of `subprocess` that Windows refuses, or takes and ignores.
POSIX_ARGUMENTS = {"preexec_fn", "pass_fds", "start_new_session", "process_group", "umask"}


def holds(test: ast.expr, platform: str) -> bool:
    """The value of a stub's condition; of what is not about platforms, this Python's."""
    code = compile(ast.Expression(test), "stub", "eval")
    system = type("sys", (), {"platform": platform, "version_info": sys.version_info})
    return bool(eval(code, {"sys": system, "TYPE_CHECKING": False}))  # noqa: S307  mypy's own files


def defined(body: list[ast.stmt], platform: str) -> Iterator[str]:
    for node in body:
        match node:
            case ast.If():
                yield from defined(
                    node.body if holds(node.test, platform) else node.orelse, platform
                )
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign():
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.Import() | ast.ImportFrom():  # of which a stub hands some on
                for alias in node.names:
                    yield alias.asname or alias.name


@functools.cache
def partial(module: str) -> dict[str, set[str]] | None:
    """name -> the platforms that lack it; None: `module` is no module of the standard library."""
    path = STUBS.joinpath(*module.split("."))
    stub = path / "__init__.pyi" if path.is_dir() else path.with_suffix(".pyi")
    if not stub.exists():
        return None
    body = ast.parse(stub.read_text("utf-8")).body
    names = {platform: set(defined(body, platform)) for platform in PLATFORMS}
    everywhere = set.intersection(*names.values())
    lacking = {
        name: {platform for platform in PLATFORMS if name not in names[platform]}
        for name in set.union(*names.values()) - everywhere
    }
    # A stub that is one big condition: all that it defines, and does not import, stands in it.
    imports = [node for node in ast.walk(ast.Module(body, [])) if isinstance(node, Imported)]
    brought = {alias.asname or alias.name for node in imports for alias in node.names}
    own = set.union(*names.values()) - brought
    if own and own <= set(lacking):
        lacking["*"] = set.union(*lacking.values())
    return lacking


def findings(text: str) -> list[str]:
    """What in the source `text` not every system has, with its line."""
    tree = ast.parse(text)
    modules: dict[str, str] = {}  # the name in this file -> the module
    found = []

    def check(line: int, module: str, name: str) -> None:
        lacking = partial(module)
        if lacking and name in lacking:
            what = module if name == "*" else f"{module}.{name}"
            found.append(f"{line}: {what} is missing on {', '.join(sorted(lacking[name]))}")

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules[alias.asname or alias.name] = alias.name
                check(node.lineno, alias.name, "*")
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            whole = "*" in (partial(node.module) or ())
            for name in ["*"] if whole else [alias.name for alias in node.names]:
                check(node.lineno, node.module, name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in modules:
                check(node.lineno, modules[node.value.id], node.attr)
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in POSIX_ARGUMENTS:
                    found.append(f"{node.lineno}: {keyword.arg}= is not for every system")
    return found


def sources(repo: Path) -> list[Path]:
    core = repo / "bitnet_jax/core"
    files = [path for folder in ("bitnet_jax", "cli") for path in (repo / folder).rglob("*.py")]
    return [path for path in files if core not in path.parents]


def test_only_core_calls_what_some_system_lacks(repo):
    wrong = [
        f"{path.relative_to(repo)}:{finding}"
        for path in sources(repo)
        for finding in findings(path.read_text("utf-8"))
    ]
    assert not wrong, "ask bitnet_jax/core/system.py or paths.py:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.fork()",
        "import os\nos.geteuid()",
        "import os as o\no.sched_getaffinity(0)",
        "from os import getuid",
        "import fcntl",
        "import resource",
        "from termios import TCSANOW",
        "import pwd",
        "import msvcrt",
        "import signal\nsignal.SIGKILL",
        "import signal\nsignal.SIGPIPE",
        "import signal\nif hasattr(signal, 'SIGHUP'): signal.SIGHUP",
        "import os\nos.O_NOFOLLOW",
        "import mmap\nmmap.MAP_PRIVATE",
        "import socket\nsocket.AF_UNIX",
        "import subprocess\nsubprocess.run([], start_new_session=True)",
    ],
)
def test_what_would_be_found(text):
    assert len(findings(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.replace('a', 'b'), os.open('a', os.O_RDONLY), os.kill, os.getpid()",
        "import signal\nsignal.SIGINT, signal.SIGTERM",
        "import os\ngetattr(os, 'O_BINARY', 0)",
        "import numpy as os\nos.fork",
        "import mmap, socket, subprocess, errno\nerrno.ENOSPC, errno.EDQUOT, mmap.ACCESS_READ",
    ],
)
def test_what_every_system_has_is_free(text):
    assert findings(text) == []
