"""Every hostile file is refused with its code, in bounded memory, and nothing in it runs."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet_jax.containers.safetensors import open_safetensors
from bitnet_jax.core.errors import BadData, NoInput
from tests.hostile.files import FILES, one, safetensors_bytes


@pytest.mark.parametrize("name", FILES)
def test_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, code, words = FILES[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(BadData) as caught:
        open_safetensors(path)
    assert caught.value.code == code
    assert words in caught.value.message
    assert str(path) in caught.value.message
    assert len(caught.value.message) < 800
    assert not (tmp_path / "canary").exists()


def test_a_header_length_is_checked_before_memory_is_taken(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(safetensors_bytes(b"{}", length=90_000_000))
    tracemalloc.start()
    with pytest.raises(BadData):
        open_safetensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_fifo_a_device_and_a_directory_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero", tmp_path):
        with pytest.raises(BadData) as caught:
            open_safetensors(path)
        assert caught.value.code == "file.not_regular"


def test_a_missing_file_is_no_input(tmp_path):
    with pytest.raises(NoInput):
        open_safetensors(tmp_path / "none")


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_mutation_gives_a_value_or_a_typed_error(data, tmp_path):
    raw = bytearray(one(dtype="F32", shape=(2, 2), offsets=(0, 16), data=bytes(range(16))))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 3))
    path = tmp_path / "m"
    path.write_bytes(bytes(raw[: len(raw) - cut]))
    try:
        file = open_safetensors(path)
    except BadData:
        return
    for name in file.tensors:
        assert isinstance(file.read(name), np.ndarray)
