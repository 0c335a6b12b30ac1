"""The kernel sources compile and link for every system that jaxlib or a plan of ours names.

zig's clang brings the headers and libraries of each system. This shows that the sources are
portable and what a library exports and needs; it runs nothing: a result on macOS or Windows is
shown by the workflow there alone (.github/workflows/ci.yml).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bitnet_jax.ops.native import build
from bitnet_jax.ops.native.library import FFI_TARGETS

pytestmark = pytest.mark.heavy


@dataclass(frozen=True)
class Target:
    """A system as zig calls it, and what its library may need of it (starts of names)."""

    name: str
    system: str
    machine: str
    needs: tuple[str, ...]


GLIBC = ("libc.so", "libm.so", "libpthread.so", "libdl.so", "ld-linux")
WINDOWS = ("KERNEL32.dll", "api-ms-win-crt-", "ntdll.dll")
MACOS = ("/usr/lib/libSystem.", "library.dylib")  # the second is its own name
TARGETS = [
    Target("x86_64-windows-gnu", "Windows", "MACHINE_TYPES.AMD64", WINDOWS),
    Target("aarch64-macos", "Darwin", "CPU_TYPE.ARM64", MACOS),
    Target("x86_64-macos", "Darwin", "CPU_TYPE.X86_64", MACOS),
    # The oldest glibc that jaxlib's own wheels run on.
    Target("x86_64-linux-gnu.2.27", "Linux", "ARCH.X86_64", GLIBC),
    Target("aarch64-linux-gnu.2.27", "Linux", "ARCH.AARCH64", GLIBC),
    Target("x86_64-linux-musl", "Linux", "ARCH.X86_64", ("libc.so",)),
    Target("aarch64-linux-musl", "Linux", "ARCH.AARCH64", ("libc.so",)),
]
ENTRIES = {
    *FFI_TARGETS,
    *("bitnet_source_key", "bitnet_isa_count", "bitnet_isa_name", "bitnet_isa_usable"),
    *("bitnet_run", "bitnet_rows_run", "bitnet_dense_run"),
    *("bitnet_threads", "bitnet_set_threads", "bitnet_repack", "bitnet_quantize_rows"),
    *("bitnet_probe", "bitnet_probe_name", "bitnet_probe_usable"),
}


@pytest.fixture(autouse=True)
def _zig_cache(repo, monkeypatch):
    # zig compiles each system's C++ library once, which takes a minute or more.
    for kind in ("GLOBAL", "LOCAL"):
        monkeypatch.setenv(f"ZIG_{kind}_CACHE_DIR", str(repo / ".cache/zig"))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_compiles_and_links_for(target, tmp_path):
    import lief

    command = (sys.executable, "-m", "ziglang", "c++", "-target", target.name, "-Wall", "-Werror")
    system = build.SYSTEMS[target.system]
    path = tmp_path / f"library{system.suffix}"
    build.compile_library(build.Compiler(command, "zig"), path, system, patience=1500)

    made = lief.parse(path)
    header = made.header
    kinds = ("machine", "cpu_type", "machine_type")  # ELF, Mach-O, PE
    assert str(next(getattr(header, kind) for kind in kinds if hasattr(header, kind))) == (
        target.machine
    )
    exported = {function.name.removeprefix("_") for function in made.exported_functions}
    assert exported >= ENTRIES
    # Mach-O has no list of what to show: the standard library's weak symbols show too.
    assert target.system == "Darwin" or exported - {"init", "fini"} == ENTRIES
    needed = [Path(str(getattr(library, "name", library))) for library in made.libraries]
    for library in needed:
        assert str(library).startswith(target.needs) or library.name in target.needs, needed
