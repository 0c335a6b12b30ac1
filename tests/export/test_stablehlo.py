"""StableHLO programs of whole decoders, run by jax alone: our logits, step by step too."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.export import decoder
from bitnet_jax.export.stablehlo import write_folder
from bitnet_jax.export.stablehlo_run import open_stablehlo
from bitnet_jax.models.families import family_of
from bitnet_jax.runtime.model import Model
from bitnet_jax.workflows.parity import compare_logits
from tests.export.models import small_checkpoint
from tests.tiny import tiny_of, tiny_spec

pytestmark = pytest.mark.heavy


def check(checkpoint, path, encoding=None):
    write_folder(checkpoint, path, encoding)
    programs = open_stablehlo(path)
    tokens = np.random.default_rng(0).integers(0, checkpoint.spec.vocab_size, (3, 6))
    wanted = Model(checkpoint).logits(tokens)
    # A cache with room, so that entries beyond what was written are seen not to count.
    parity = compare_logits(wanted, programs.logits(tokens, 4, 9))
    assert parity.holds, parity
    return programs, tokens, wanted


def test_logits_are_ours_whatever_the_sizes(tmp_path):
    made = small_checkpoint(tmp_path, num_layers=1)
    programs, tokens, wanted = check(made, tmp_path / "m.stablehlo")
    one = programs.logits(tokens[:1], 6, 6)  # another batch, another length, a full cache
    assert compare_logits(wanted[:1], one).holds


def test_the_dense_packing_and_a_scale_for_each_group(tmp_path):
    made = small_checkpoint(tmp_path, "group-32", num_layers=1)
    check(made, tmp_path / "groups.stablehlo")
    check(small_checkpoint(tmp_path, num_layers=1), tmp_path / "dense.stablehlo", "packed-1.6")


def test_another_family(tmp_path):
    changes = {"family": "llama", "activation": "silu", "sub_norms": False, "num_layers": 1}
    changes["extra"] = tiny_of("llama").extra
    check(small_checkpoint(tmp_path, dtype=ml_dtypes.bfloat16, **changes), tmp_path / "m.stablehlo")


def test_a_family_whose_norms_take_sums_of_their_own(tmp_path):
    check(small_checkpoint(tmp_path, spec=tiny_of("phi")), tmp_path / "m.stablehlo")


def test_the_same_model_gives_the_same_bytes_in_any_process(tmp_path):
    write_folder(small_checkpoint(tmp_path, num_layers=1), tmp_path / "a.stablehlo")
    code = (
        "import sys; from pathlib import Path\n"
        "from bitnet_jax.export.stablehlo import write_folder\n"
        "from bitnet_jax.formats.open import open_checkpoint\n"
        "write_folder(open_checkpoint(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    weights = tmp_path / "a.stablehlo" / "weights.bitnet"
    given = [str(weights), str(tmp_path / "b.stablehlo")]
    subprocess.run([sys.executable, "-c", code, *given], check=True, cwd=tmp_path)
    for file in (tmp_path / "a.stablehlo").iterdir():
        assert file.read_bytes() == (tmp_path / "b.stablehlo" / file.name).read_bytes(), file.name


def test_the_page_generates_with_jax_and_safetensors_alone(tmp_path, repo):
    checkpoint = small_checkpoint(tmp_path, num_layers=1)
    write_folder(checkpoint, tmp_path / "model.stablehlo")
    page = (repo / "docs/formats/stablehlo.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code += '\nimport sys\nassert "bitnet_jax" not in sys.modules\n'
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    greedy = Model(checkpoint).generate([1, 2, 3], max_tokens=4)
    assert json.loads(done.stdout) == [1, 2, 3, *greedy.tokens] and len(greedy.tokens) == 4


def test_a_family_with_a_cache_of_its_own_is_refused(monkeypatch):
    spec = tiny_spec()
    own = dataclasses.replace(family_of(spec.family), cache=lambda *_: None)
    monkeypatch.setattr(decoder, "family_for", lambda _: own)
    with pytest.raises(UsageError) as caught:
        decoder.in_place_function(spec)
    assert caught.value.code == "export.cache"
