from __future__ import annotations

import subprocess
import sys

from tests import skip_ledger


def test_a_listed_reason_within_its_count_passes():
    counts, complaints = skip_ledger.judge(["this CPU has no amx"] * 2, {"this CPU has no *": 2})
    assert counts == {"this CPU has no amx": 2}
    assert complaints == []


def test_one_skip_more_than_listed_is_a_complaint():
    reasons = ["this CPU has no amx"] * 2 + ["this CPU has no avx2"]
    _, complaints = skip_ledger.judge(reasons, {"this CPU has no *": 2})
    assert complaints == ["3 skipped for `this CPU has no *`, skips.toml allows 2"]


def test_an_unlisted_reason_is_a_complaint():
    _, complaints = skip_ledger.judge(["later"], {"this CPU has no *": 2})
    assert complaints == ["1 skipped for what skips.toml does not list: later"]


def test_a_run_with_an_unlisted_skip_fails_and_says_so(tmp_path, repo):
    (tmp_path / "conftest.py").write_text(
        "from tests.skip_ledger import pytest_sessionfinish, pytest_terminal_summary\n"
    )
    (tmp_path / "test_it.py").write_text("import pytest\ndef test_x(): pytest.skip('because')\n")
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {repo}\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "does not list: because" in run.stdout
