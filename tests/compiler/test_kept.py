"""Executables kept on disk: found again, never stale, never trusted where others may write."""

import contextlib
import os
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from bitnet_jax.compiler import kept
from bitnet_jax.compiler.compile import compile_function
from bitnet_jax.core.errors import PermissionDenied, Resumable
from bitnet_jax.runtime import engine as engine_module
from bitnet_jax.runtime.engine import Engine
from bitnet_jax.runtime.sampling import SamplingParams
from tests.suites.families import ROWS

ROW = ROWS[0]
PROMPT = [5, 17, 300]


@pytest.fixture(autouse=True)
def _without_jaxs_own_cache():
    """What JAX took from it cannot be kept."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    jax.clear_caches()
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    # The kernels stay where they are: only what is compiled from here on goes elsewhere.
    monkeypatch.setattr(kept, "cache_dir", lambda name: _made(tmp_path / name))
    return tmp_path / "executables"


def _made(path):
    path.mkdir(mode=0o700, exist_ok=True)
    return path


@pytest.fixture
def compiles(monkeypatch):
    """Counts what is compiled."""
    counted = []

    def counting(*args, **kwargs):
        counted.append(args)
        return compile_function(*args, **kwargs)

    monkeypatch.setattr(engine_module, "compile_function", counting)
    return counted


def engine():
    return Engine(ROW.spec, ROW.packed(), keep_compiled=True)


def generated(made, **params):
    return list(made.generate(PROMPT, SamplingParams(max_tokens=6, **params)))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_second_start_compiles_nothing_and_says_the_same(folder, compiles, temperature):
    tokens = np.asarray([PROMPT])
    first = engine()
    said, logits = generated(first, temperature=temperature), first.logits(tokens)
    assert len(compiles) == 4 and len(list(folder.iterdir())) == 4
    assert not first.receipt().kept
    second = engine()
    assert generated(second, temperature=temperature) == said
    np.testing.assert_array_equal(second.logits(tokens), logits)
    assert len(compiles) == 4
    assert second.receipt() == replace(first.receipt(), kept=True)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_a_damaged_entry_is_removed_and_compiled_again(folder, compiles, caplog, damage):
    said = generated(engine())
    count = len(compiles)
    victim = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    whole = victim.read_bytes()
    victim.write_bytes({"flipped": content, "cut": content[:-9], "emptied": b""}[damage])
    assert generated(engine()) == said
    assert len(compiles) == count + 1
    assert victim.name in caplog.text and "cannot be read" in caplog.text
    assert len(victim.read_bytes()) == pytest.approx(len(whole), rel=0.1)  # written again


def test_what_decides_a_program_decides_its_entry(folder, monkeypatch):
    made = []

    def entry(asked="twice", shape=(4,)):
        args = (np.ones(shape, np.float32), {"b": np.ones(2, np.int32)})

        def make():
            made.append(asked)
            return compile_function(lambda a, b: a * 2, *args)

        known = set(folder.iterdir()) if folder.exists() else set()
        executable = kept.compiled_once(asked, make, args, 0)
        np.testing.assert_array_equal(executable(*args), np.full(shape, 2, np.float32))
        return bool(set(folder.iterdir()) - known)

    assert entry() and not entry()
    assert entry("thrice") and entry(shape=(5,))
    for name, value in (
        ("_sources", lambda: "edited"),
        ("versions", lambda: {"jax": "another"}),
        ("processor_features", lambda: "fewer"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(kept, name, value)
            assert entry() and not entry()
    with jax.debug_nans(True):
        assert entry()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert entry() and len(made) == 8


def test_of_the_sources_each_byte_counts_and_none_may_be_younger_than_the_process(
    tmp_path, monkeypatch, folder, compiles, caplog
):
    try:
        monkeypatch.setattr(kept, "_ROOT", tmp_path)
        (tmp_path / "a.py").write_text("x = 1")
        kept._sources.cache_clear()
        before = kept._sources()
        (tmp_path / "a.py").write_text("x = 2")
        kept._sources.cache_clear()
        assert kept._sources() != before
        kept._edited.cache_clear()
        generated(engine())
        assert "sources of bitnet-jax have changed" in caplog.text and not folder.exists()
    finally:
        kept._sources.cache_clear()
        kept._edited.cache_clear()


def test_whatever_the_umask_the_next_start_takes_it(folder, compiles):
    before = os.umask(0o002)
    try:
        generated(engine())
    finally:
        os.umask(before)
    count = len(compiles)
    generated(engine())
    assert len(compiles) == count


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "fault", [OSError(28, "No space left on device"), NotImplementedError("constants"), None]
)
def test_what_cannot_be_kept_runs_all_the_same(folder, monkeypatch, caplog, fault):
    said = generated(engine())
    for path in folder.iterdir():
        path.unlink()
    if fault is None:  # another process writes every one of them now

        @contextlib.contextmanager
        def writing(path):
            raise Resumable("io.busy", "another process is writing it")
            yield

        monkeypatch.setattr(kept, "atomic_file", writing)
    else:

        def fails(compiled):
            raise fault

        monkeypatch.setattr(kept.serialize_executable, "serialize", fails)
    assert generated(engine()) == said
    assert not list(folder.iterdir())
    assert ("is not kept" in caplog.text) == (fault is not None)


def test_the_key_is_the_same_in_every_process():
    """Of a model with two bfloat16 matrices: a set of names would have an order of its own."""
    code = (
        "import jax; from bitnet_jax.passes.packed import Packed; import numpy as np;"
        "p = Packed.of({n: np.ones(2) for n in 'abcdef'}, 'fedcba');"
        "print(jax.tree_util.tree_structure(p))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in "123"
    }
    assert len(found) == 1


def test_where_no_cache_can_be_written_nothing_is_kept(monkeypatch, compiles, caplog):
    from bitnet_jax.core.caches import cache_dir

    monkeypatch.setattr(kept, "cache_dir", cache_dir)
    monkeypatch.setattr("bitnet_jax.core.caches._usable", _unusable)  # the kernels are open already
    generated(engine())
    generated(engine())
    assert len(compiles) == 6
    assert "no compiled program is kept: cannot write" in caplog.text


def _unusable(path):
    raise PermissionDenied("io.permission", f"cannot write into `{path}`")


def test_a_program_that_others_may_write_is_not_run(folder, compiles, caplog):
    generated(engine())
    count = len(compiles)
    for path in folder.iterdir():
        path.chmod(0o666)
    generated(engine())
    assert len(compiles) == 2 * count
    assert "others may write" in caplog.text
    assert all(path.stat().st_mode & 0o022 == 0 for path in folder.iterdir())  # written again
    folder.chmod(0o777)
    caplog.clear()
    generated(engine())
    assert len(compiles) == 3 * count
    assert "no compiled program is kept: others may write" in " ".join(caplog.text.split())


def test_where_jax_has_a_cache_that_one_is_used(folder, tmp_path, compiles):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    generated(engine())
    generated(engine())
    assert len(compiles) == 6 and not folder.exists()


def test_the_oldest_go(folder, monkeypatch):
    monkeypatch.setattr(kept, "_MOST", 2)
    generated(engine())
    assert len(list(folder.iterdir())) == 2


def test_a_plugins_programs_are_not_kept(folder, tmp_path):
    row = next(row for row in ROWS if row.plugin is not None)
    with row.loaded(tmp_path):
        made = Engine(row.spec, row.packed(), keep_compiled=True)
        generated(made)
    assert not folder.exists()
