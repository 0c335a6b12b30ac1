"""Compiles the C++ kernels into one shared library, and says where such libraries lie.

The file name carries a key of everything the library depends on, so that a change
of source, flags, compiler or jaxlib makes a new file and never an old one's reuse.
Beside each library stands its SHA-256: a truncated file would kill the process in
`dlopen`, so it is compared first. Knows nothing of loading or of JAX's tracing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bitnet_jax.core.errors import (
    BadData,
    PermissionDenied,
    Resumable,
    Unavailable,
)
from bitnet_jax.core.paths import (
    atomic_file,
    check_output,
    lock,
    os_failure,
    scratch_directory,
)

SOURCE_DIR = Path(__file__).parent
MAIN_SOURCE = "library.cc"
# -ffp-contract=off: a fused multiply-add would round once where the contract rounds twice.
# Instruction sets are chosen per function, so there is no -march here.
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-ffp-contract=off", "-pthread")
COMPILERS = ("c++", "g++", "clang++")
COMPILE_SECONDS = 300
LOCK_SECONDS = 300


@dataclass(frozen=True)
class BuildRecord:
    """What a build left: the library, what it was made from, and what it can do here."""

    path: str
    key: str
    compiler: str
    seconds: float
    isa: tuple[str, ...]


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: its command and the first line of its version."""

    command: tuple[str, ...]
    version: str


@cache
def source_key() -> str:
    """SHA-256 over the sources, the flags, jaxlib's version and the architecture."""
    import jaxlib.version

    digest = hashlib.sha256()
    for path in sorted([*SOURCE_DIR.glob("*.h"), *SOURCE_DIR.glob("*.cc")]):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    for fact in (*FLAGS, jaxlib.version.__version__, platform.system(), platform.machine()):
        digest.update(f"{fact}\n".encode())
    return digest.hexdigest()


def name_prefix() -> str:
    """What the file name of every library built from these sources starts with."""
    return f"bitnet_kernels-{platform.machine()}-{source_key()[:16]}-"


def library_name(compiler: Compiler) -> str:
    key = hashlib.sha256(compiler.version.encode()).hexdigest()
    return f"{name_prefix()}{key[:8]}.so"


def find_compiler(environ: Mapping[str, str] = os.environ) -> Compiler | None:
    """The first C++ compiler that answers: ``CXX``, then c++, g++, clang++."""
    named = shlex.split(environ.get("CXX", ""))
    for command in ([named] if named else []) + [[name] for name in COMPILERS]:
        program = shutil.which(command[0], path=environ.get("PATH"))
        if program is None:
            continue
        arguments = (program, *command[1:])
        answer = subprocess.run(
            [*arguments, "--version"], capture_output=True, text=True, check=False, timeout=30
        )
        if answer.returncode == 0 and answer.stdout:
            return Compiler(arguments, answer.stdout.splitlines()[0])
    return None


def check_private(path: Path) -> None:
    """Refuses a folder or library that somebody else could have written.

    Loading a library runs it, so it must belong to this user or to root, and nobody
    else may write it.

    Raises:
      PermissionDenied: code ``kernel.unsafe_path``.
    """
    if not hasattr(os, "geteuid"):
        return  # Windows: the cache folder is in the user's profile, guarded by its ACL
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()):
        raise PermissionDenied(
            "kernel.unsafe_path",
            f"`{path}` belongs to user {found.st_uid}: code from there is not run",
            "set BITNET_CACHE_DIR (or BITNET_KERNELS) to a folder of your own",
        )
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise PermissionDenied(
            "kernel.unsafe_path",
            f"others may write `{path}` (mode {stat.S_IMODE(found.st_mode):04o}): code from "
            "there is not run",
            f"chmod go-w {path}",
        )


def digest_path(library: Path) -> Path:
    return library.with_name(library.name + ".sha256")


def check_intact(library: Path) -> None:
    """Raises `BadData` unless `library` has the digest that was written beside it."""
    beside = digest_path(library)
    if not beside.exists():
        raise BadData("kernel.corrupt", f"`{beside}` is missing")
    if hashlib.sha256(library.read_bytes()).hexdigest() != beside.read_text().strip():
        raise BadData("kernel.corrupt", f"`{library}` is not the file that was built")


def compile_library(compiler: Compiler, target: Path) -> float:
    """Compiles the sources to `target`, and its digest beside it; returns the seconds.

    Raises:
      Unavailable: the compiler fails (code ``kernel.compile_failed``).
    """
    import jax.ffi

    started = time.monotonic()
    with scratch_directory(target.parent) as folder:
        output = folder / target.name
        command = [
            *compiler.command,
            *FLAGS,
            f'-DBITNET_SOURCE_KEY="{source_key()}"',
            "-isystem",
            jax.ffi.include_dir(),
            str(SOURCE_DIR / MAIN_SOURCE),
            "-o",
            str(output),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=COMPILE_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                "kernel.compile_failed",
                f"`{compiler.command[0]}` did not finish in {COMPILE_SECONDS} seconds",
                "set BITNET_NO_COMPILE=1 to go without the C++ kernels",
            ) from error
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            raise Unavailable(
                "kernel.compile_failed",
                f"`{' '.join(compiler.command)}` failed on the C++ kernels: "
                + (errors[0] if errors else done.stderr.strip()[-500:]),
                "set CXX to a C++17 compiler (g++ 11 or clang 14 or later), or "
                "BITNET_NO_COMPILE=1 to go without the C++ kernels",
            )
        # The digest comes first: killed between the two, there is no library, which the next
        # run builds; a library without its digest would be taken for a damaged one.
        with atomic_file(digest_path(target), mode="w") as stream:
            stream.write(hashlib.sha256(output.read_bytes()).hexdigest() + "\n")
        # The umask may leave both writable by a group; what is loaded must not be.
        os.chmod(digest_path(target), 0o644)
        os.chmod(output, 0o755)
        os.replace(output, target)
    return time.monotonic() - started


class wait_for_lock:
    """Holds `paths.lock`, waiting for another builder instead of failing at once."""

    def __init__(self, path: Path, seconds: float = LOCK_SECONDS, remove: bool = False):
        self._path, self._remove = path, remove
        self._deadline = time.monotonic() + seconds

    def __enter__(self) -> None:
        while True:
            self._held = lock(self._path, remove=self._remove)
            try:
                self._held.__enter__()
                return
            except Resumable:
                if time.monotonic() > self._deadline:
                    raise
                time.sleep(0.05)

    def __exit__(self, *exception) -> None:
        self._held.__exit__(*exception)


def build(output_dir: Path | str, force: bool = False) -> BuildRecord:
    """Builds the library ahead of use into `output_dir`, for ``BITNET_KERNELS``.

    Raises:
      NoInput: `output_dir` does not exist and its parent neither.
      CannotCreate: the library is there already, and `force` is false.
      Unavailable: there is no compiler, it fails, or the result fails its self-test.
    """
    from bitnet_jax.ops.native.library import open_library

    folder = Path(output_dir)
    compiler = find_compiler()
    if compiler is None:
        raise no_compiler()
    with _made(folder):
        target = folder / library_name(compiler)
        check_output(target, force=force)
        with wait_for_lock(folder / ".lock", remove=True):
            seconds = compile_library(compiler, target)
        library = open_library(target)
    return BuildRecord(str(target), source_key(), compiler.version, seconds, library.usable_isas)


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes the folder where there is none; one made for nothing is removed again."""
    if folder.exists():
        yield
        return
    check_output(folder, force=False)
    try:
        folder.mkdir(mode=0o755)
    except OSError as error:
        raise os_failure(error, "create", folder) from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # something was built
            folder.rmdir()
        raise


def no_compiler() -> Unavailable:
    return Unavailable(
        "kernel.no_compiler",
        "no C++ compiler was found (looked for CXX, " + ", ".join(COMPILERS) + ")",
        "install g++ or clang, or point BITNET_KERNELS at a folder made by "
        "`bitnet dev build --output DIR`",
    )
