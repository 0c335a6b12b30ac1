"""New files: what is written is there, in one call or many."""

import os

import numpy as np
import pytest

from bitnet_jax.core.writing import PIECE, new_file


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, 3 * PIECE + 5])
def test_all_of_it_is_written_in_pieces(tmp_path, size, monkeypatch):
    data = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    with new_file(tmp_path / "a") as stream:
        stream.write(b"head")
        assert stream.write(data) == size
        stream.write(data.tobytes())
        stream.seek(0)
        stream.write(b"HEAD")
    assert (tmp_path / "a").read_bytes() == b"HEAD" + 2 * data.tobytes()


def test_what_is_there_stays(tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        new_file(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"mine"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_an_error(tmp_path):
    with (
        pytest.raises(OSError),
        new_file(tmp_path / "a", lambda *_: os.open("/dev/full", os.O_WRONLY)) as stream,
    ):
        stream.write(bytes(PIECE * 2))
