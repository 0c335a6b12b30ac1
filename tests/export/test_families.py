"""A decoder of every family in ONNX Runtime."""

import onnx
import pytest

from bitnet_jax.export.measure import decoder_logits, session
from bitnet_jax.export.model import describe, write_model
from bitnet_jax.export.profiles import PROFILES
from bitnet_jax.models.families import FAMILIES
from bitnet_jax.runtime.model import Model
from bitnet_jax.workflows.parity import compare_logits
from tests.export.models import small_checkpoint, some_tokens
from tests.tiny import tiny_of


@pytest.mark.heavy
@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_what_our_engine_does(family, tmp_path):
    checkpoint = small_checkpoint(tmp_path, spec=tiny_of(family))
    path = tmp_path / "model.onnx"
    write_model(checkpoint, describe(checkpoint), PROFILES["portable"], path)
    onnx.checker.check_model(str(path), full_check=True)
    tokens = some_tokens(checkpoint.spec, 3, 17)
    logits = decoder_logits(session(path), checkpoint.spec, tokens, 9)
    assert compare_logits(Model(checkpoint).logits(tokens), logits).holds
