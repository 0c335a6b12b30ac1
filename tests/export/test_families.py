"""Every family's decoder in ONNX Runtime, its rows padded: positions, windows and gates of each."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.export.measure import row_logits, session
from bitnet_jax.export.model import describe, write_model
from bitnet_jax.export.profiles import PROFILES
from bitnet_jax.models.cache import KVCache
from bitnet_jax.models.families import family_for
from bitnet_jax.runtime.model import Model
from bitnet_jax.workflows.parity import TINY_LIMIT, compare_logits
from tests.suites.families import ROWS

pytestmark = pytest.mark.heavy

# Those whose layers differ in what a rule must know: windows, scaled and partial rotary embedding,
# layers without one, gates, norms. The others share theirs with these or with test_decoder.py.
NAMES = ("1bitLLM", "llama, tied", "mistral", "qwen2", "gemma3", "phi3", "smollm3")
OURS = [row for row in ROWS if row.name.startswith(NAMES)]


@pytest.mark.parametrize("row", OURS, ids=lambda row: row.name)
def test_a_family_computes_in_onnx_runtime_what_it_computes_here(row, tmp_path):
    """Longer than any window, so that what it hides would show."""
    checkpoint = row.checkpoint()
    assert family_for(row.spec).cache == KVCache.empty
    write_model(checkpoint, describe(checkpoint), PROFILES["portable"], tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    ours, running = Model(checkpoint), session(tmp_path / "m.onnx")
    rows = [ids[:n] for ids, n in zip(row.tokens(3, 13), (13, 4, 9), strict=True)]
    alone = np.concatenate([ours.logits(ids[None])[0] for ids in rows])
    parity = compare_logits(alone, np.concatenate(row_logits(running, row.spec, rows, 6)))
    assert parity.holds and parity.max_logit_difference <= TINY_LIMIT


def test_a_cache_that_is_no_kv_cache_is_refused(tmp_path):
    row = next(row for row in ROWS if row.name.startswith("mixing: "))
    with row.loaded(tmp_path):
        checkpoint = row.checkpoint()
        if family_for(row.spec).cache == KVCache.empty:
            pytest.fail("this family has the common cache now: take another")
        with pytest.raises(UsageError) as caught:
            write_model(checkpoint, describe(checkpoint), PROFILES["portable"], tmp_path / "m.onnx")
    assert caught.value.code == "export.cache"
