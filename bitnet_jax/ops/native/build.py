"""Compiles the C++ kernels into one shared library, and says where such libraries lie.

The file name carries a key of everything the library depends on, so that a change of
source, flags, compiler or XLA's interface makes a new file and never an old one's reuse.
Beside each library stands its SHA-256: a truncated file would kill the process in
`dlopen`, so it is compared first. Knows nothing of loading or of JAX's tracing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shlex
import shutil
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
from bitnet_jax.core.system import foreign_owner, foreign_writers

SOURCE_DIR = Path(__file__).parent
MAIN_SOURCE = "library.cc"
SOURCE_KINDS = (".cc", ".h", ".map")
# -ffp-contract=off: a fused multiply-add would round once where the contract rounds twice.
# Instruction sets are chosen per function, so there is no -march here.
FLAGS = ("-std=c++17", "-O3", "-shared", "-ffp-contract=off", "-fvisibility=hidden")


@dataclass(frozen=True)
class System:
    """How a system's libraries are called and made: `{sources}` in a flag is their folder."""

    suffix: str
    flags: tuple[str, ...]
    compilers: tuple[str, ...]


SYSTEMS = {
    "Linux": System(
        ".so",
        ("-fPIC", "-pthread", "-Wl,--version-script={sources}/exports.map"),
        ("c++", "g++", "clang++"),
    ),
    "Darwin": System(".dylib", ("-fPIC", "-pthread"), ("c++", "clang++", "g++")),
    # No g++ there: it keeps 32-byte vectors on a stack that Windows aligns to 16 (its bug 54412).
    "Windows": System(".dll", (), ("clang++",)),
}
COMPILE_SECONDS = 300
# Ahead of use. zig compiles the standard library first, which takes minutes.
AHEAD_SECONDS = 1800
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


def this_system() -> System:
    """How libraries are made here; a system that is not in the table is taken for a Linux."""
    return SYSTEMS.get(platform.system(), SYSTEMS["Linux"])


def ffi_headers() -> Path:
    """The folder of XLA's headers in the installed jaxlib."""
    import jaxlib

    return Path(jaxlib.__file__).parent / "include"


@cache
def ffi_version() -> str:
    """The version of the C interface between the installed jaxlib and the kernels.

    It, not jaxlib's own version, says whether a library fits: XLA refuses handlers that
    were compiled against another.
    """
    text = (ffi_headers() / "xla/ffi/api/c_api.h").read_text("utf-8")
    found = dict(re.findall(r"^#define XLA_FFI_API_(MAJOR|MINOR) (\d+)$", text, re.M))
    return f"{found['MAJOR']}.{found['MINOR']}"


@cache
def source_key() -> str:
    """SHA-256 over the sources, the flags, XLA's interface, system and architecture."""
    digest = hashlib.sha256()
    for path in sorted(path for path in SOURCE_DIR.iterdir() if path.suffix in SOURCE_KINDS):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    facts = (ffi_version(), platform.system(), platform.machine())
    for fact in (*FLAGS, *this_system().flags, *facts):
        digest.update(f"{fact}\n".encode())
    return digest.hexdigest()


def name_prefix() -> str:
    """What the file name of every library built from these sources starts with."""
    return f"bitnet_kernels-{platform.machine()}-{source_key()[:16]}-"


def library_name(compiler: Compiler) -> str:
    key = hashlib.sha256(compiler.version.encode()).hexdigest()
    return f"{name_prefix()}{key[:8]}{this_system().suffix}"


def find_compiler(environ: Mapping[str, str] = os.environ) -> Compiler | None:
    """The first C++ compiler that answers: ``CXX``, then those that this system may have."""
    named = shlex.split(environ.get("CXX", ""))
    for command in ([named] if named else []) + [[name] for name in this_system().compilers]:
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
    owner, mode = foreign_owner(path), foreign_writers(path)
    if owner is not None:
        raise PermissionDenied(
            "kernel.unsafe_path",
            f"`{path}` belongs to user {owner}: code from there is not run",
            "set BITNET_CACHE_DIR (or BITNET_KERNELS) to a folder of your own",
        )
    if mode is not None:
        raise PermissionDenied(
            "kernel.unsafe_path",
            f"others may write `{path}` (mode {mode:04o}): code from there is not run",
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


def compile_library(
    compiler: Compiler,
    target: Path,
    system: System | None = None,
    link: tuple[str, ...] = (),
    patience: float = COMPILE_SECONDS,
) -> float:
    """Compiles the sources to `target`, and its digest beside it; returns the seconds.

    Args:
      compiler: the command; it may compile for another machine.
      target: the library to write.
      system: the system that the library is for; None: this one.
      link: further flags, on which no result depends: what is linked statically.
      patience: the seconds it may take.

    Raises:
      Unavailable: the compiler fails (code ``kernel.compile_failed``).
    """
    started = time.monotonic()
    with scratch_directory(target.parent) as folder:
        output = folder / target.name
        command = [
            *compiler.command,
            *FLAGS,
            *(flag.format(sources=SOURCE_DIR) for flag in (system or this_system()).flags),
            *link,
            f'-DBITNET_SOURCE_KEY="{source_key()}"',
            # The same bytes wherever the headers and the sources lie.
            f"-ffile-prefix-map={ffi_headers()}=.",
            f"-ffile-prefix-map={SOURCE_DIR}=.",
            "-isystem",
            str(ffi_headers()),
            str(SOURCE_DIR / MAIN_SOURCE),
            "-o",
            str(output),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=patience
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                "kernel.compile_failed",
                f"`{compiler.command[0]}` did not finish in {patience:.0f} seconds",
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
            except OSError as error:
                raise os_failure(error, "lock", self._path) from error

    def __exit__(self, *exception) -> None:
        self._held.__exit__(*exception)


def build(output_dir: Path | str, force: bool = False, link: tuple[str, ...] = ()) -> BuildRecord:
    """Builds the library ahead of use into `output_dir`: for ``BITNET_KERNELS``, or a wheel.

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
            seconds = compile_library(compiler, target, link=link, patience=AHEAD_SECONDS)
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


def no_compiler(besides: str | None = None) -> Unavailable:
    looked_for = ", ".join(("CXX", *this_system().compilers))
    return Unavailable(
        "kernel.no_compiler",
        f"no C++ compiler was found (looked for {looked_for})"
        + (f"; {besides}" if besides else ""),
        "install g++ or clang, or point BITNET_KERNELS at a folder made by "
        "`bitnet dev build --output DIR`",
    )
