from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from bitnet_jax.core import system


@pytest.fixture
def no_posix(monkeypatch):
    """The calls that Windows lacks, taken away."""
    for name in ("geteuid", "preadv", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)


def test_an_own_folder_has_no_stranger(tmp_path):
    tmp_path.chmod(0o755)
    assert system.foreign_owner(tmp_path) is None
    assert system.foreign_writers(tmp_path) is None
    tmp_path.chmod(0o775)
    assert system.foreign_writers(tmp_path) == 0o775


def test_without_owners_nobody_is_a_stranger(tmp_path, no_posix):
    tmp_path.chmod(0o777)  # what Windows says of every file
    assert system.foreign_owner(tmp_path) is None
    assert system.foreign_writers(tmp_path) is None


def test_cores_are_counted_either_way(no_posix):
    assert system.usable_cores() == os.cpu_count()


@pytest.mark.parametrize("positioned", [True, False])
def test_reads_at_an_offset(tmp_path, request, positioned):
    if not positioned:
        request.getfixturevalue("no_posix")
    (tmp_path / "file").write_bytes(b"0123456789")
    buffer = bytearray(4)
    with open(tmp_path / "file", "rb") as file:
        guard = threading.Lock()
        assert system.read_at(file.fileno(), memoryview(buffer), 3, guard) == 4
        assert buffer == b"3456"
        assert system.read_at(file.fileno(), memoryview(buffer), 8, guard) == 2
        assert system.read_at(file.fileno(), memoryview(buffer), 10, guard) == 0


def test_a_confined_process_opens_no_file(tmp_path):
    assert system.can_confine()
    program = (
        "import sys\nfrom bitnet_jax.core.system import confine\nconfine(1 << 30, 5)\n"
        f"try: open({str(tmp_path / 'new')!r}, 'w')\n"
        "except OSError as error: sys.stdout.write(type(error).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "OSError")
    assert not (tmp_path / "new").exists()
