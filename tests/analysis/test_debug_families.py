"""Every family, plugins too: its run with a cache agrees with the one without, op by op."""

from __future__ import annotations

import pytest

from bitnet_jax.analysis.debug import debug
from bitnet_jax.formats.save import save_checkpoint
from tests.suites.families import ROWS

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_prefill_and_decode_agree_with_the_whole_sequence(row, tmp_path):
    with row.loaded(tmp_path):
        save_checkpoint(row.checkpoint(), tmp_path / "m.bitnet")
        tokens = [int(token) for token in row.tokens()[0][:9]]
        record = debug(tmp_path / "m.bitnet", against="reference", input=tokens, decode=2)
    assert record["cache_divergences"] == [], record["cache_divergences"][:2]
    assert record["divergences"] == [] and record["not_finite"] is None
    assert record["op_count"] > 10
