"""What families keep in GGUF files otherwise than Llama does, read from files of others."""

from __future__ import annotations

import numpy as np
import pytest

from bitnet_jax.core.errors import BadData, CannotCreate
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.models import rope
from tests.formats import gguf_edit as edit
from tests.formats import gguf_models as made
from tests.tiny import tiny_of


def opened_as_of_others(spec, encoding, folder):
    save_checkpoint(made.model(spec), folder / "m.gguf", encoding=encoding)
    return open_checkpoint(edit.without_ours(folder / "m.gguf", folder / "others.gguf"))


@pytest.mark.parametrize(
    ("rotated", "head_dim"), [(32, 64), (16, 64), (30, 44), (62, 78), (64, 64)]
)
def test_phi_turns_as_much_of_a_head_as_the_file_says(rotated, head_dim, tmp_path):
    """30 / 44 x 44 is less than 30 in floats."""
    sizes = {"head_dim": head_dim, "hidden_size": 2 * head_dim, "num_heads": 2, "num_kv_heads": 2}
    share = np.nextafter(rotated / head_dim, 1)
    spec = tiny_of("phi", **made.WIDE | sizes, activation="gelu_tanh",
                   extra={"rotary_share": float(share)})  # fmt: skip
    again = opened_as_of_others(spec, "f32", tmp_path)
    assert rope.rotated_of(again.spec) == rotated and again.spec.activation == "gelu_tanh"


@pytest.mark.parametrize(
    "value", [("u32", 0), ("u32", 65), ("f32", 32.0), ("string", "half")], ids=str
)
def test_phi_turns_no_other_number_of_elements(value, tmp_path):
    spec = tiny_of("phi", **made.WIDE, activation="gelu_tanh")
    save_checkpoint(made.model(spec), tmp_path / "m.gguf", encoding="f32")
    edit.value(tmp_path / "m.gguf", "phi2.rope.dimension_count", value)
    with pytest.raises(BadData, match="rope.dimension_count"):
        open_checkpoint(tmp_path / "m.gguf")


@pytest.mark.parametrize(("layers", "letters"), [(2, "r"), (4, "rrrn"), (9, "rrrn")])
def test_smollm3_has_no_positions_in_each_fourth_layer(layers, letters, tmp_path):
    spec = tiny_of("smollm3", **made.WIDE | {"num_layers": layers}, extra={})
    again = opened_as_of_others(spec, "f16", tmp_path)
    assert again.spec.extra["rope_layers"] == letters


@pytest.mark.parametrize("extra", [
    {"rope_layers": "rn"}, {"rope_layers": "r"}, {"attention_bias": True}, {"mlp_bias": True},
    made.LLAMA3,
], ids=str)  # fmt: skip
def test_smollm3_as_llama_cpp_cannot_have_it_is_refused(extra, tmp_path):
    spec = tiny_of("smollm3", **made.WIDE | {"num_layers": 4}, extra=extra)
    with pytest.raises(CannotCreate, match="this architecture"):
        save_checkpoint(made.model(spec), tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())
