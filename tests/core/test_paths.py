"""One output, all of it or none: killed at any moment, written by two, in odd places."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from bitnet_jax.core import locks, paths
from bitnet_jax.core.errors import (
    BitnetError,
    CannotCreate,
    IOFailure,
    NoInput,
    Resumable,
    UsageError,
)

# A process that writes file or folder `new` over `old` again and again, until it is killed.
WRITER = """
import sys
from pathlib import Path
from bitnet_jax.core import paths
place, kind = Path(sys.argv[1]), sys.argv[2]
number = 0
while True:
    number += 1
    content = str(number).encode() * 5000
    if kind == "file":
        with paths.atomic_file(place / "out") as stream:
            for piece in range(0, len(content), 1000):
                stream.write(content[piece : piece + 1000])
    else:
        if kind == "two renames":
            paths._exchange = lambda one, other: False
        with paths.atomic_directory(place / "out", force=True) as folder:
            for name in ("a", "b", "c"):
                (folder / name).write_bytes(content)
    print(number, flush=True)
"""


def whole(place, kind) -> bool:
    """What stands there is one of the versions, whole."""
    files = [place / "out"] if kind == "file" else sorted((place / "out").iterdir())
    contents = {file.read_bytes() for file in files}
    assert len(contents) == 1 and len(files) in (1, 3)
    content = contents.pop()
    width = len(content) // 5000
    return width > 0 and content == content[:width] * 5000


def hidden(place) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("kind", ["file", "folder", "two renames"])
def test_killed_at_random_moments_leaves_old_or_new_and_the_next_run_tidies_up(kind, tmp_path):
    luck, left, aside = random.Random(kind), 0, 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path, kind], stdout=subprocess.PIPE
        )
        process.stdout.readline()  # once it is at work
        time.sleep(luck.uniform(0, 0.05))
        process.kill()
        process.communicate()
        left += bool(hidden(tmp_path))
        if kind == "two renames" and not (tmp_path / "out").exists():
            aside += 1
            continue  # what was moved aside is put back by the next writer
        assert whole(tmp_path, kind)
    assert left, "no kill met a writer at work: the test shows nothing"
    if kind == "file":
        with paths.atomic_file(tmp_path / "out") as stream:
            stream.write(b"1" * 5000)
    else:
        with paths.atomic_directory(tmp_path / "out", force=True) as folder:
            (folder / "a").write_bytes(b"1" * 5000)
    assert whole(tmp_path, "file" if kind == "file" else "folder") and hidden(tmp_path) == []


def test_killed_between_two_renames_the_old_folder_is_put_back(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old")
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from bitnet_jax.core import paths\n"
        "paths._exchange = lambda one, other: False\n"
        "replace, seen = os.replace, []\n"
        "def kill(one, other):\n"
        "    replace(one, other)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = kill\n"
        "with paths.atomic_directory(Path(sys.argv[1]) / 'out', force=True) as folder:\n"
        "    (folder / 'a').write_text('new')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path])
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    with pytest.raises(CannotCreate), paths.atomic_directory(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "a").read_text() == "old" and hidden(tmp_path) == []


def _hold(path, started, ended):
    with paths.atomic_file(path) as stream:
        stream.write(b"his")
        started.set()
        ended.wait(60)


@pytest.fixture
def other_writer(tmp_path):
    """Another process that has `out` half written."""
    context = multiprocessing.get_context("spawn")
    started, ended = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "out", started, ended))
    process.start()
    assert started.wait(60)
    yield ended
    ended.set()
    process.join(60)
    assert process.exitcode == 0
    assert (tmp_path / "out").read_bytes() == b"his" and hidden(tmp_path) == []


def test_two_writers_of_one_output(other_writer, tmp_path):
    with pytest.raises(Resumable) as caught, paths.atomic_file(tmp_path / "out"):
        pass
    assert caught.value.code == "io.busy" and "out" in caught.value.message
    os.symlink(tmp_path / "out", tmp_path / "link")
    with pytest.raises(Resumable), paths.atomic_file(tmp_path / "link"):
        pass


def test_what_a_living_writer_has_is_never_removed(other_writer, tmp_path):
    before = hidden(tmp_path)
    assert len(before) == 2
    with paths.atomic_file(tmp_path / "another") as stream:
        stream.write(b"mine")
    assert hidden(tmp_path) == before


def test_litter_of_other_outputs_is_removed_and_strangers_files_are_not(tmp_path):
    dead = paths._temporary(tmp_path / "gone")
    dead.mkdir()
    (dead / "a").write_text("x")
    paths._temporary(tmp_path / "also").write_text("x")
    (tmp_path / f".bitnet-{'0' * 12}.lock").write_text("")
    strangers = [".bitnet", ".bitnet-x.tmp", ".a.0123456789ab.tmp", f".bitnet-{'0' * 12}.old"]
    for name in strangers:
        (tmp_path / name).write_text("his")
    with paths.atomic_file(tmp_path / "out") as stream:
        stream.write(b"x")
    assert hidden(tmp_path) == sorted(strangers)


def test_a_link_in_the_place_of_litter_is_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "a").write_text("x")
    (tmp_path / "w").mkdir()
    os.symlink(tmp_path / "precious", paths._temporary(tmp_path / "w" / "out"))
    with paths.atomic_file(tmp_path / "w" / "out") as stream:
        stream.write(b"x")
    assert hidden(tmp_path / "w") == [] and (tmp_path / "precious" / "a").exists()


def test_a_lock_whose_file_was_removed_meanwhile_is_not_believed(tmp_path, monkeypatch):
    take, taken = locks._take, []

    def slow(fd):
        if not taken:
            os.unlink(tmp_path / "l")  # its holder ends just now
        taken.append(fd)
        return take(fd)

    monkeypatch.setattr(locks, "_take", slow)
    with locks.lock(tmp_path / "l"):
        assert len(taken) == 2 and (tmp_path / "l").exists()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def none(fd):
        raise locks.NoLocks(95, "none")

    monkeypatch.setattr(locks, "_take", none)
    litter = paths._temporary(tmp_path / "out")
    litter.write_text("")
    with paths.atomic_file(tmp_path / "out") as stream:
        stream.write(b"x")
    assert "has no locks" in caplog.text and litter.exists()


def test_many_threads_write_one_file_and_one_at_a_time_wins(tmp_path):
    codes = []

    def write(number):
        try:
            with paths.atomic_file(tmp_path / "out") as stream:
                stream.write(str(number).encode() * 1000)
            codes.append("")
        except BitnetError as error:
            codes.append(error.code)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) <= {"", "io.busy"} and "" in codes
    assert len((tmp_path / "out").read_bytes()) == 1000 and hidden(tmp_path) == []


# ------------------------------------------------------------------------------- modes


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
def test_a_new_file_and_folder_have_the_umask_and_replaced_ones_their_old_mode(mask, tmp_path):
    before = os.umask(mask)
    try:
        for _ in range(2):
            with paths.atomic_file(tmp_path / "f") as stream:
                stream.write(b"x")
            with paths.atomic_directory(tmp_path / "d", force=True) as folder:
                (folder / "a").write_text("x")
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("f", "d", "d/a")]
        assert modes == [0o666 & ~mask, 0o777 & ~mask, 0o666 & ~mask]
        (tmp_path / "f").chmod(0o640)
        (tmp_path / "d").chmod(0o711)
        with paths.atomic_file(tmp_path / "f") as stream:
            stream.write(b"x")
        with paths.atomic_directory(tmp_path / "d", force=True):
            pass
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("f", "d")]
        assert modes == [0o640, 0o711]
    finally:
        os.umask(before)


def test_a_link_is_kept_and_its_target_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "f").write_text("old")
    (tmp_path / "there" / "d").mkdir()
    for name in ("f", "d", "new"):
        os.symlink(f"there/{name}", tmp_path / name)
    for name in ("f", "new"):
        with paths.atomic_file(tmp_path / name) as stream:
            stream.write(b"new")
    with paths.atomic_directory(tmp_path / "d", force=True) as folder:
        (folder / "a").write_text("new")
    assert all((tmp_path / name).is_symlink() for name in ("f", "d", "new"))
    assert (tmp_path / "there" / "f").read_text() == (tmp_path / "there" / "new").read_text()
    assert (tmp_path / "there" / "d" / "a").read_text() == "new"
    assert hidden(tmp_path) == [] and hidden(tmp_path / "there") == []


# ------------------------------------------------------------------------ what is refused


def _socket(path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


PLACES = {
    "FIFO": (os.mkfifo, CannotCreate, "io.not_file"),
    "socket": (_socket, CannotCreate, "io.not_file"),
    "device": (lambda p: os.symlink("/dev/null", p), CannotCreate, "io.not_file"),
    "full device": (lambda p: os.symlink("/dev/full", p), CannotCreate, "io.not_file"),
    "folder": (os.mkdir, CannotCreate, "io.not_file"),
    "loop of links": (lambda p: os.symlink(p, p), IOFailure, "io.failed"),
    "link to nowhere": (lambda p: os.symlink("no/where", p), NoInput, "io.not_found"),
}


@pytest.mark.parametrize("name", PLACES)
def test_what_cannot_be_replaced_by_a_file(name, tmp_path):
    make, error, code = PLACES[name]
    make(tmp_path / "out")
    before = os.lstat(tmp_path / "out")
    null = os.stat("/dev/null")
    with pytest.raises(error) as caught, paths.atomic_file(tmp_path / "out") as stream:
        stream.write(b"x")
    assert caught.value.code == code
    assert os.lstat(tmp_path / "out") == before and hidden(tmp_path) == []
    assert os.stat("/dev/null").st_mode == null.st_mode


def test_a_file_that_came_meanwhile_is_not_replaced_without_force(tmp_path):
    with pytest.raises(CannotCreate) as caught:
        with paths.atomic_file(tmp_path / "out", force=False) as stream:
            stream.write(b"mine")
            (tmp_path / "out").write_text("his")
    assert caught.value.code == "io.exists"
    assert (tmp_path / "out").read_text() == "his" and hidden(tmp_path) == []


@pytest.mark.parametrize(("name", "word"), [("a\0b", "NUL"), ("a\ud800b", "surrogate")])
def test_a_name_that_no_file_can_have(name, word, tmp_path):
    for write in (
        lambda path: paths.check_output(path, force=True),
        lambda path: paths.atomic_file(path).__enter__(),
        lambda path: paths.atomic_directory(path).__enter__(),
        paths.make_folder,
    ):
        with pytest.raises(UsageError, match=word) as caught:
            write(tmp_path / name)
        assert caught.value.code == "io.name"


def test_a_name_that_is_not_utf_8_and_one_as_long_as_may_be(tmp_path):
    for name in (b"mod\xe8le", b"a" * 255):
        path = tmp_path / os.fsdecode(name)
        with paths.atomic_file(path) as stream:
            stream.write(b"x")
        assert name in os.listdir(os.fsencode(tmp_path))
    assert hidden(tmp_path) == []


def _full(path):
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        with paths.atomic_file(path) as stream:
            stream.write(b"x" * 100_000)
    except IOFailure as error:
        os._exit(0 if error.code == "io.disk_full" else 2)
    os._exit(3)


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "out").write_text("old")
    process = multiprocessing.get_context("spawn").Process(target=_full, args=(tmp_path / "out",))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert (tmp_path / "out").read_text() == "old" and hidden(tmp_path) == []


AS_NOBODY = """
import os, sys
from pathlib import Path
from bitnet_jax.core import paths
from bitnet_jax.core.errors import PermissionDenied
if os.geteuid() == 0:  # what only root could read has been read
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for name in sys.argv[2:]:
    path = Path(sys.argv[1]) / name
    for write in (lambda: paths.check_output(path, force=True),
                  lambda: paths.atomic_file(path).__enter__()):
        try:
            write()
        except PermissionDenied as error:
            assert error.code == "io.permission" and error.exit_code == 77, error
        else:
            raise SystemExit(f"{name} was written")
"""


def test_what_may_not_be_written(tmp_path):
    """As another user where this one is root, who may write everything."""
    (tmp_path / "f").write_text("mine")
    (tmp_path / "f").chmod(0o444)
    (tmp_path / "d").mkdir(mode=0o555)
    tmp_path.chmod(0o777)
    for folder in (tmp_path, *tmp_path.parents):
        if os.geteuid() == 0 and folder != folder.parent:
            folder.chmod(folder.stat().st_mode | 0o011)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, tmp_path, "f", "d/new"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "f").read_text() == "mine" and hidden(tmp_path) == []
