"""Finding, checking and rebuilding the library, with a stand-in compiler that copies
a library built before: it takes no time and counts how often it is asked.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet_jax.core.errors import BadData, BitnetError, CannotCreate, PermissionDenied, Unavailable
from bitnet_jax.ops.native import build
from bitnet_jax.ops.native import library as native

STATUS = native.status()
pytestmark = pytest.mark.skipif(not STATUS.available, reason=f"no C++ kernels: {STATUS.reason}")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """An empty cache, and a compiler that writes one line to `calls` each time."""
    calls = tmp_path / "calls"
    calls.touch()
    script = tmp_path / "fake-c++"
    script.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo fake 1.0; exit 0; fi\n'
        f"echo called >> {calls}\n"
        "for last; do true; done\n"
        f'cp {STATUS.path} "$last"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("BITNET_KERNELS", raising=False)
    monkeypatch.delenv("BITNET_NO_COMPILE", raising=False)
    monkeypatch.setattr(native, "WHEEL_DIR", tmp_path / "wheel")
    return tmp_path


@pytest.fixture
def wheel(world) -> Path:
    """The folder that a platform wheel brings, filled by a build of its own."""
    build.build(world / "wheel")
    (world / "calls").write_text("")
    return world / "wheel"


def compilations(world: Path) -> int:
    return len((world / "calls").read_text().splitlines())


def test_built_at_first_use_then_taken_from_the_cache(world):
    assert native.obtain().origin == "built"
    assert native.obtain().origin == "cache"
    assert compilations(world) == 1
    folder = world / "cache" / "kernels"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def overwrite(path: Path, content: bytes) -> None:
    # A new file, since this process has the old one mapped.
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: overwrite(path, path.read_bytes()[:1000]),
        lambda path: overwrite(path, b""),
        lambda path: overwrite(path, path.read_bytes()[:-1] + b"?"),
        lambda path: build.digest_path(path).unlink(),
    ],
    ids=["truncated", "empty", "flipped", "no digest"],
)
def test_a_corrupt_cached_library_is_rebuilt_once(world, damage):
    path = native.obtain().path
    damage(path)
    assert native.obtain().origin == "built"
    assert compilations(world) == 2


def test_a_library_that_stays_bad_is_reported(world):
    Path(os.environ["CXX"]).write_text(
        '#!/bin/sh\n[ "$1" = --version ] && { echo fake 2; exit 0; }\n'
        "for last; do true; done\necho nonsense > $last\n"
    )
    with pytest.raises(Unavailable) as caught:
        native.obtain()
    assert caught.value.code == "kernel.unusable"


def test_wrong_values_fail_the_self_test(world, monkeypatch):
    right = native.Library.run

    def wrong(self, isa, sizes, x, codes, scale, y, threads=1):
        right(self, isa, sizes, x, codes, scale, y, threads)
        y.flat[0] += 1

    monkeypatch.setattr(native.Library, "run", wrong)
    with pytest.raises(BadData) as caught:
        native.open_library(Path(STATUS.path))
    assert caught.value.code == "kernel.selftest"


def test_a_compiler_that_fails_is_quoted(world):
    Path(os.environ["CXX"]).write_text(
        '#!/bin/sh\n[ "$1" = --version ] && { echo fake 3; exit 0; }\n'
        "echo 'library.cc:1: error: no such header' >&2\nexit 1\n"
    )
    with pytest.raises(Unavailable, match="no such header") as caught:
        native.obtain()
    assert caught.value.code == "kernel.compile_failed"
    assert not list((world / "cache" / "kernels").glob(".bitnet-build-*"))


def test_no_compiler_is_said_with_what_was_looked_for(world, monkeypatch):
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(world))
    with pytest.raises(Unavailable) as caught:
        native.obtain()
    assert caught.value.code == "kernel.no_compiler"
    status = native.status()
    assert not status.available and "no C++ compiler" in status.reason


def test_no_compile_uses_the_cache_and_never_the_compiler(world, monkeypatch):
    monkeypatch.setenv("BITNET_NO_COMPILE", "1")
    with pytest.raises(Unavailable) as caught:
        native.obtain()
    assert caught.value.code == "kernel.no_compile"
    assert compilations(world) == 0
    monkeypatch.delenv("BITNET_NO_COMPILE")
    native.obtain()
    monkeypatch.setenv("BITNET_NO_COMPILE", "1")
    assert native.obtain().origin == "cache"


def test_a_cache_that_others_may_write_is_refused(world):
    folder = native.obtain().path.parent
    folder.chmod(0o777)
    with pytest.raises(PermissionDenied, match="others may write"):
        native.obtain()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_cache_of_somebody_else_is_refused(world):
    folder = native.obtain().path.parent
    os.chown(folder, 12345, -1)
    with pytest.raises(PermissionDenied, match="belongs to user 12345"):
        native.obtain()


def test_prebuilt_folder_is_used_as_it_is(world, monkeypatch):
    record = build.build(world / "kernels")
    assert record.compiler == "fake 1.0" and set(record.isa) == set(STATUS.usable_isas)
    with pytest.raises(CannotCreate):
        build.build(world / "kernels")
    build.build(world / "kernels", force=True)
    files = sorted((world / "kernels").iterdir())
    monkeypatch.setenv("BITNET_KERNELS", str(world / "kernels"))
    monkeypatch.setenv("BITNET_NO_COMPILE", "1")
    found = native.obtain()
    assert (found.origin, found.path) == ("prebuilt", Path(record.path))
    assert sorted((world / "kernels").iterdir()) == files
    overwrite(found.path, b"?")
    with pytest.raises(Unavailable) as caught:
        native.obtain()
    assert caught.value.code == "kernel.prebuilt_corrupt"


def test_a_prebuilt_folder_for_other_versions_says_what_it_holds(world, monkeypatch):
    (world / "bitnet_kernels-x86_64-0000000000000000-00000000.so").touch()
    monkeypatch.setenv("BITNET_KERNELS", str(world))
    with pytest.raises(Unavailable, match="it holds bitnet_kernels-x86_64-0000") as caught:
        native.obtain()
    assert caught.value.code == "kernel.prebuilt_missing"


def test_two_builders_at_once_build_once(world):
    code = "from bitnet_jax.ops.native.library import obtain; print(obtain().origin)"
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    origins = sorted(process.communicate(timeout=120)[0].strip() for process in both)
    assert origins == ["built", "cache"]
    assert compilations(world) == 1


# ------------------------------------------------------------------- the wheel's own library
def test_the_wheels_own_library_spares_the_compiler(world, wheel):
    found = native.obtain()
    assert (found.origin, found.path.parent, found.passed_over) == ("wheel", wheel, None)
    assert compilations(world) == 0
    assert not list((world / "cache" / "kernels").glob("*" + build.this_system().suffix))


def test_what_was_asked_for_and_the_cache_come_before_the_wheel(world, wheel, monkeypatch):
    monkeypatch.setattr(native, "WHEEL_DIR", world / "none")
    assert native.obtain().origin == "built"
    monkeypatch.setattr(native, "WHEEL_DIR", wheel)
    assert native.obtain().origin == "cache"
    build.build(world / "kernels")
    monkeypatch.setenv("BITNET_KERNELS", str(world / "kernels"))
    assert native.obtain().origin == "prebuilt"


@pytest.mark.parametrize("no_compile", [False, True])
def test_the_wheel_serves_where_nothing_can_be_compiled(world, wheel, monkeypatch, no_compile):
    if no_compile:
        monkeypatch.setenv("BITNET_NO_COMPILE", "1")
    else:
        monkeypatch.delenv("CXX")
        monkeypatch.setenv("PATH", str(world))
    assert native.obtain().origin == "wheel"


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: overwrite(path, path.read_bytes()[:-1] + b"?"), "not the file that was"),
        (lambda path: build.digest_path(path).unlink(), "is missing"),
    ],
    ids=["flipped", "no digest"],
)
def test_a_damaged_library_of_the_wheel_is_passed_over_and_said(
    world, wheel, monkeypatch, damage, why
):
    damage(next(wheel.glob("*" + build.this_system().suffix)))
    found = native.obtain()
    assert found.origin == "built" and why in found.passed_over
    (world / "cache").rename(world / "old cache")
    monkeypatch.setenv("BITNET_NO_COMPILE", "1")
    with pytest.raises(Unavailable, match=why) as caught:
        native.obtain()
    assert caught.value.code == "kernel.no_compile"


@pytest.mark.parametrize("trouble", ["no folder", "not private", "no lock"])
def test_the_wheel_needs_no_cache(world, wheel, monkeypatch, trouble):
    folder = world / "cache" / "kernels"
    if trouble == "no folder":
        (world / "cache").write_text("a file")  # as a home that cannot be written
    else:
        folder.mkdir(parents=True, mode=0o700)
        (folder / ".lock").mkdir()  # a lock that cannot be taken
    if trouble == "not private":
        folder.chmod(0o777)
    assert native.obtain().origin == "wheel"
    monkeypatch.setattr(native, "WHEEL_DIR", world / "none")
    with pytest.raises(BitnetError):
        native.obtain()


def test_a_library_for_another_interface_of_xla_is_refused(world, wheel, monkeypatch):
    monkeypatch.setattr(build, "ffi_version", lambda: "0.99")
    build.source_key.cache_clear()
    try:
        monkeypatch.delenv("CXX")
        monkeypatch.setenv("PATH", str(world))
        with pytest.raises(Unavailable, match="does not fit.*XLA interface 0.99") as caught:
            native.obtain()
        assert caught.value.code == "kernel.no_compiler"
    finally:
        build.source_key.cache_clear()


def test_the_key_follows_the_interface_that_xla_itself_checks():
    # XLA compares this version when a handler is registered; jaxlib's own may differ.
    import jax.ffi

    assert build.ffi_headers() == Path(jax.ffi.include_dir())
    assert [part.isdigit() for part in build.ffi_version().split(".")] == [True, True]
