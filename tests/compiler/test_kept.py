"""Executables kept on disk: found again, never stale, never trusted where others may write."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from bitnet_jax.compiler import kept
from bitnet_jax.compiler.compile import compile_function
from bitnet_jax.core.errors import PermissionDenied
from bitnet_jax.runtime import engine as engine_module
from bitnet_jax.runtime.engine import Engine
from bitnet_jax.runtime.sampling import SamplingParams
from tests.suites.families import ROWS

ROW = ROWS[0]
PROMPT = [5, 17, 300]


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
    # Of the sources, each byte counts.
    kept._sources.cache_clear()
    monkeypatch.setattr(kept, "_ROOT", folder)
    (folder / "a.py").write_text("x = 1")
    before = kept._sources()
    (folder / "a.py").write_text("x = 2")
    kept._sources.cache_clear()
    assert kept._sources() != before
    kept._sources.cache_clear()


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
