"""A run that was whole survives those after it that were killed."""

from __future__ import annotations

from bitnet_jax.workflows.quickstart import RECEIPT_FILE, _fresh_folder


def test_a_whole_run_is_kept_through_two_killed_ones(tmp_path):
    folder = tmp_path / "quickstart"
    folder.mkdir()
    (folder / RECEIPT_FILE).write_text("whole")
    for _ in range(3):  # each is killed once it has begun to write
        _fresh_folder(folder, force=True)
        assert list(folder.iterdir()) == []
        (folder / "metrics.jsonl").write_text("cut")
        kept = tmp_path / "quickstart.previous"
        assert (kept / RECEIPT_FILE).read_text() == "whole"
