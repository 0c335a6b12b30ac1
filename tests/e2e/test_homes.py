"""No HOME, a HOME that may not be written, a HOME that is a file: nothing breaks."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.e2e.terminal import Ended


@pytest.fixture
def homes(tmp_path):
    """Kinds of homes: what HOME is (None: not set), and what was run before the program."""
    sealed = tmp_path / "sealed"
    sealed.mkdir(mode=0o500)
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    yield {
        "a home that may not be written": str(sealed),
        "a home that is a file": str(tmp_path / "file"),
        "a home that is not there": "/proc/none",
    }
    sealed.chmod(0o700)


KINDS = ["a home that may not be written", "a home that is a file", "a home that is not there"]


def run(tmp_path, home, *argv, **env):
    """Runs `bitnet` with a home, and no other place that it was told of."""
    ours = ("BITNET_CACHE_DIR", "BITNET_CONFIG_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HOME")
    given = {k: v for k, v in os.environ.items() if k not in ours}
    given |= {"TMPDIR": str(tmp_path / "tmp"), "BITNET_NO_COMPILE": "1", **env}
    given |= {} if home is None else {"HOME": home}
    # Root writes where no one may, unless it gives that power up.
    line = [sys.executable, "-m", "bitnet_cli", *argv]
    if os.geteuid() == 0 and shutil.which("setpriv"):
        line = ["setpriv", "--bounding-set=-all", *line]
    done = subprocess.run(
        line, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=240,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_read_and_a_profile_is_refused_with_what_to_do(tmp_path, homes, kind):
    home = homes[kind]
    assert run(tmp_path, home, "dev", "config", "--json").data["settings"] == []
    assert run(tmp_path, home, "dev", "profile", "--json").data["profiles"] == []
    made = run(tmp_path, home, "dev", "profile", "create", "p")
    assert made.rc in (66, 77) and "BITNET_CONFIG_DIR" in made.hint
    assert made.code in ("io.not_found", "io.permission")
    there = {"BITNET_CONFIG_DIR": str(tmp_path / "config")}
    assert run(tmp_path, home, "dev", "profile", "create", "p", **there).rc == 0
    assert not list((tmp_path / "tmp").iterdir())


# What looks for kernels has them in the cache.
CACHING = ("dev", "check")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_written_and_where_the_cache_went_is_said_once(tmp_path, homes, kind):
    argv = ("model", "create", "tiny", "-l", "1", "-o", "m.bitnet")
    assert run(tmp_path, homes[kind], *argv).rc == 0
    ended = run(tmp_path, homes[kind], *CACHING)
    folder = tmp_path / "tmp" / f"bitnet-jax-{os.geteuid()}"
    assert ended.err.count(f"using {folder} until BITNET_CACHE_DIR names a folder") == 1
    assert folder.stat().st_mode & 0o077 == 0
    assert run(tmp_path, homes[kind], "model", "validate", "m.bitnet", "--json").data


def test_without_home_the_system_knows_one_or_nothing_is_littered(tmp_path, homes):
    ended = run(tmp_path, None, "dev", "config", "--json")
    assert ended.rc == 0 and not (tmp_path / "~").exists()


def test_a_cache_that_was_chosen_must_be_usable(tmp_path, homes):
    chosen = {"BITNET_CACHE_DIR": homes["a home that is a file"]}
    ended = run(tmp_path, str(tmp_path), *CACHING, **chosen)
    # Nothing stands in for a folder that was chosen: the kernels do without, and that is said.
    assert ended.rc == 0 and "cannot create the cache folder" in ended.err
    assert "runs as `xla`" in ended.err and not list((tmp_path / "tmp").iterdir())


def test_a_folder_that_another_prepared_is_not_used(tmp_path, homes):
    (tmp_path / "tmp" / f"bitnet-jax-{os.geteuid()}").mkdir(mode=0o777)
    (tmp_path / "tmp" / f"bitnet-jax-{os.geteuid()}").chmod(0o777)
    ended = run(tmp_path, homes["a home that is a file"], *CACHING)
    assert "is not a folder of this user's alone" in ended.err and "runs as `xla`" in ended.err
