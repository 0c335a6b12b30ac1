"""Builds the wheel and the sdist: setuptools, with the C++ kernels in the wheel.

Where there is a C++ compiler, the wheel holds the kernel library for the machine that
builds it and is a platform wheel; the library has no Python ABI, so one wheel serves every
Python. Else it is a pure wheel, and the kernels are built at first use. ``BITNET_WHEEL``
chooses: ``auto`` (so), ``native`` (no library is an error), ``pure`` (none).

Both archives are the same bytes whenever and wherever the same things build them
(docs/decisions/0009). Knows nothing of how the library is made: `bitnet_jax.ops.native.build`
does, and the wheel holds what it left, digest included.
"""

from __future__ import annotations

import gzip
import os
import platform
import re
import shutil
import sysconfig
import tarfile
import tomllib
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

from bitnet_jax.core.errors import BitnetError
from bitnet_jax.ops.native import build

CHOICES = ("auto", "native", "pure")
PREBUILT = Path("bitnet_jax/ops/native/prebuilt")
# What no result depends on: which other libraries ours needs, which systems it runs on.
LINK = {
    "Linux": ("-static-libstdc++", "-static-libgcc", "-Wl,--gc-sections", "-s"),
    "Darwin": ("-mmacosx-version-min=11.0",),  # as jaxlib's own wheels
}
# Every system that runs glibc has these; what needs others is no manylinux wheel.
GLIBC = re.compile(r"(libc|libm|libdl|libpthread|librt|ld-linux[\w-]*)\.so\.\d+")
EPOCH = "315532800"  # 1980, the earliest that a zip file can say


def _choice() -> str:
    choice = os.environ.get("BITNET_WHEEL", "auto")
    if choice not in CHOICES:
        raise SystemExit(f"error: BITNET_WHEEL=`{choice}` is none of {', '.join(CHOICES)}")
    return choice


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """jax and jaxlib, whose headers the kernels need and which test them, or nothing."""
    needs = build_meta.get_requires_for_build_wheel(config_settings)
    if _choice() == "pure" or (_choice() == "auto" and build.find_compiler() is None):
        return needs
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    return needs + [line for line in project["dependencies"] if re.match(r"jax(lib)?\b", line)]


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """As setuptools, with dates that do not depend on the day."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", EPOCH)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """As setuptools, then written again in order, without owners and days."""
    name = build_meta.build_sdist(sdist_directory, config_settings)
    path = Path(sdist_directory, name)
    plain = path.with_suffix(".tar")
    date = int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH))
    with tarfile.open(path) as source, tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as to:
        for member in sorted(source.getmembers(), key=lambda member: member.name):
            member.mtime, member.pax_headers = date, {}
            member.uid, member.gid, member.uname, member.gname = 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            to.addfile(member, source.extractfile(member) if member.isfile() else None)
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=date) as packed:
        packed.write(plain.read_bytes())
    plain.unlink()
    return name


class BuildPy(build_py):
    """Copies the packages, then builds the library beside its sources."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)  # what an earlier tree held is not ours
        super().run()
        choice = _choice()
        if choice == "pure":
            return
        try:
            record = build.build(
                Path(self.build_lib, PREBUILT), link=LINK.get(platform.system(), ())
            )
            print(f"wheel: with the C++ kernels, built by {record.compiler} for {record.isa}")
        except (BitnetError, ImportError) as error:
            shutil.rmtree(Path(self.build_lib, PREBUILT), ignore_errors=True)
            if choice == "native":
                raise SystemExit(f"BITNET_WHEEL=native: {error}") from error
            print(f"wheel: without C++ kernels (BITNET_WHEEL=native insists): {error}")


class BdistWheel(bdist_wheel):
    """Calls the wheel by what is in it."""

    _library: Path | None = None  # an editable install has none: it builds its own in the cache

    def run(self) -> None:
        self.run_command("build")
        folder = Path(self.get_finalized_command("build_py").build_lib, PREBUILT)
        suffix = build.this_system().suffix
        self._library = next(iter(folder.glob(f"*{suffix}")), None)
        if self._library is not None:
            # It lies with the packages, not in a folder of its own beside them.
            self.distribution.has_ext_modules = lambda: True
            self.root_is_pure = False
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        if self._library is None:
            return super().get_tag()
        return "py3", "none", platform_tag(self._library)


def platform_tag(library: Path) -> str:
    """The systems on which `library` loads, as wheels spell them."""
    machine = platform.machine()
    if platform.system() == "Darwin":
        return f"macosx_11_0_{machine}"
    plain = re.sub(r"[-.]", "_", sysconfig.get_platform())
    if platform.system() != "Linux":
        return plain
    # The names that the dynamic linker is asked for end, each, in a zero byte.
    names = {
        name.decode("ascii") for name in re.findall(rb"[\x21-\x7e]+(?=\0)", library.read_bytes())
    }
    needs = {name for name in names if re.fullmatch(r"(lib|ld-)[\w.+-]*\.so(\.\d+)*", name)}
    versions = [re.fullmatch(r"GLIBC_(\d+)\.(\d+)(\.\d+)?", name) for name in names]
    newest = max(((int(v[1]), int(v[2])) for v in versions if v), default=None)
    others = sorted(name for name in needs if not GLIBC.fullmatch(name))
    if others or newest is None:
        print(f"wheel: for this machine alone, since the library needs {others or 'no glibc'}")
        return plain
    return f"manylinux_{newest[0]}_{newest[1]}_{machine}"


__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]
