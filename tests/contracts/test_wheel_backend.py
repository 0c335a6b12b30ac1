"""The hooks that `pip` and `build` call, without building (test_wheel.py builds)."""

from __future__ import annotations

import platform
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import wheel_backend
from bitnet_jax.ops.native import library as native


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "")


@pytest.fixture(autouse=True)
def _tree(repo, monkeypatch):
    monkeypatch.chdir(repo)  # as the hooks are called
    monkeypatch.setattr(wheel_backend.build_meta, "get_requires_for_build_wheel", lambda _: [])
    monkeypatch.delenv("BITNET_WHEEL", raising=False)


def test_the_backend_is_the_one_that_is_asked(repo):
    asked = tomllib.loads((repo / "pyproject.toml").read_text())
    assert asked["build-system"]["build-backend"] == wheel_backend.__name__
    assert Path(wheel_backend.__file__).parent == repo
    for hook in wheel_backend.__all__:
        assert callable(getattr(wheel_backend, hook))
    for command in asked["tool"]["setuptools"]["cmdclass"].values():
        assert hasattr(wheel_backend, command.split(".")[1])


def test_a_native_wheel_needs_jax_as_the_program_does(repo):
    listed = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["dependencies"]
    needs = wheel_backend.get_requires_for_build_wheel()
    assert len(needs) == 2 and set(needs) <= set(listed)


@pytest.mark.parametrize("choice", [None, "pure"])
def test_a_pure_wheel_needs_nothing(monkeypatch, choice, request):
    if choice:
        monkeypatch.setenv("BITNET_WHEEL", choice)
    else:
        request.getfixturevalue("no_compiler")
    assert wheel_backend.get_requires_for_build_wheel() == []


def test_native_needs_it_whatever_is_found(monkeypatch, no_compiler):
    monkeypatch.setenv("BITNET_WHEEL", "native")
    assert len(wheel_backend.get_requires_for_build_wheel()) == 2


def test_an_unknown_choice_is_refused(monkeypatch):
    monkeypatch.setenv("BITNET_WHEEL", "yes")
    with pytest.raises(SystemExit, match="none of auto, native, pure"):
        wheel_backend.get_requires_for_build_wheel()


@pytest.mark.parametrize(
    ("names", "tag"),
    [
        (["libc.so.6", "libm.so.6", "GLIBC_2.2.5", "GLIBC_2.17", "GLIBC_2.9"], "manylinux_2_17"),
        (["libc.so.6", "ld-linux-x86-64.so.2", "GLIBC_2.35"], "manylinux_2_35"),
        (["libstdc++.so.6", "libc.so.6", "GLIBC_2.17"], "linux"),
        (["libc.so"], "linux"),  # musl
    ],
    ids=str,
)
def test_the_tag_is_read_from_what_a_linux_library_needs(tmp_path, monkeypatch, names, tag):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sysconfig, "get_platform", lambda: "linux-x86_64")
    (tmp_path / "library.so").write_bytes(b"\0".join(name.encode() for name in ["", *names, ""]))
    found = wheel_backend.platform_tag(tmp_path / "library.so")
    assert found == f"{tag}_x86_64"


def test_a_library_of_the_cache_is_no_wheels_library():
    # It is linked to this system's libstdc++, which others have in other versions.
    found = wheel_backend.platform_tag(native.library().path)
    assert "manylinux" not in found and found.endswith(platform.machine().lower())


def test_the_source_tree_holds_no_prebuilt_library():
    assert not native.WHEEL_DIR.exists()
    assert native.WHEEL_DIR.parts[-4:] == wheel_backend.PREBUILT.parts


def test_the_backend_needs_setuptools_alone(repo):
    # pip builds in an environment that holds nothing else: what it imports of ours must not
    # import what is not there.
    program = (
        "import sys, setuptools.build_meta, setuptools.command.bdist_wheel, "
        "setuptools.command.build_py\n"
        "before = set(sys.modules)\n"
        "import wheel_backend\n"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(tops - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repo, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["bitnet_jax", "wheel_backend"]
