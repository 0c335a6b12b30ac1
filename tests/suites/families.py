"""The families under test, as a table: a row for each kind of decoder that must work.

What a row says is enough to convert, train and run it. `test_families.py` holds the laws that
every row keeps; other suites (bench, formats, serving, accelerators) take the same rows. To
add a family, add a row; to add a law, add a test over `ROWS`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitnet_jax.formats.checkpoint import Checkpoint, Source, checkpoint_of
from bitnet_jax.formats.create_tokenizer import make_tokenizer
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import families
from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.packed import Packed
from bitnet_jax.runtime.engine import Engine
from tests.thin import mostly_heavy
from tests.tiny import tiny_of, tiny_spec

ROOT = Path(__file__).parents[2]
MIXING = ROOT / "tests/plugins/mixing_decoder/mixing_decoder.py"
PAGE = ROOT / "docs/write-a-family.md"


def page_plugin(folder: Path) -> Path:
    """The plugin of docs/write-a-family.md: its block of Python, written into `folder`."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    path = folder / "my_family.py"
    path.write_text(block)
    return path


@dataclass(frozen=True)
class Row:
    """One family in one form.

    Attributes:
      spec: small, of a vocabulary that a tokenizer can be made for.
      plugin: the Python file that provides the family, ``page`` for that of the page, or None.
    """

    name: str
    spec: ModelSpec
    plugin: Path | str | None = None

    def file(self, folder: Path) -> Path | None:
        """The plugin's file; the page's is written into `folder`."""
        return page_plugin(folder) if self.plugin == "page" else self.plugin  # type: ignore

    @contextmanager
    def loaded(self, folder: Path) -> Iterator[families.Family]:
        """The family, known inside the block and forgotten after it."""
        before = dict(families._files)
        file = self.file(folder)
        try:
            if file is not None:
                families.load_plugin(file)
            yield families.family_for(self.spec)
        finally:
            families._files.clear()
            families._files.update(before)

    # What is costly is made once; the family must be `loaded`.
    @functools.cache  # noqa: B019 - a row lives as long as the process
    def params(self) -> dict[str, Any]:
        """Fresh float32 parameters."""
        return families.fresh_params(self.spec, 1)

    @functools.cache  # noqa: B019
    def packed(self) -> Packed:
        """The same, packed."""
        family = families.family_for(self.spec)
        example = np.zeros((1, 2), np.int32)
        return pack(family.forward(self.spec), self.params(), family.rules, example)

    @functools.cache  # noqa: B019
    def engine(self) -> Engine:
        """The packed model, ready to run; it keeps what it has compiled."""
        return Engine(self.spec, self.packed())

    def checkpoint(self) -> Checkpoint:
        """The packed model with its tokenizer and float weights, as training hands it on."""
        source = Source(Path("training"), "training", "latent")
        tokenizer = make_tokenizer(self.spec)
        return checkpoint_of(self.spec, self.packed().leaves, tokenizer, source, self.params())

    def tokens(self, batch: int = 2, length: int = 12) -> np.ndarray:
        """Ids of the vocabulary, int32 [batch, length]."""
        shape = (batch, length)
        return np.random.default_rng(7).integers(0, self.spec.vocab_size, shape, np.int32)


IDS: dict[str, Any] = {"vocab_size": 512, "bos_token_id": 256, "eos_token_ids": (257, 265)}


def _spec(**changes: Any) -> ModelSpec:
    return tiny_spec(**IDS | {"rope_theta": 10000.0} | changes)


def _mixing(**extra: Any) -> dict[str, Any]:
    return {
        "family": "mixing",
        "num_kv_heads": 4,
        "activation": "gelu",
        "sub_norms": False,
        "extra": {"norm_epsilon": 1e-5, "qkv_bias": True} | extra,
    }


def _of(family: str, extra: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    return tiny_of(family, **IDS | changes, extra=extra or {})


_LLAMA3 = {
    "rope_type": "llama3",
    "rope_factor": 8.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0,
    "rope_original_positions": 32,
}

ROWS = (
    Row("bitnet", _spec()),
    Row("bitnet, its own head", _spec(tie_embeddings=False)),
    Row("bitnet, SiLU and odd sizes", _spec(activation="silu", intermediate_size=52, num_layers=1)),
    Row("1bitLLM", _of("bitnet-1bitllm")),
    Row("llama", _of("llama")),
    Row(
        "llama, tied, biases, Llama 3.1's positions",
        _of("llama", {"attention_bias": True, "mlp_bias": True} | _LLAMA3, tie_embeddings=True),
    ),
    Row("llama, a norm in each linear", _of("llama", {"linear_norms": True})),
    Row("mistral", _of("mistral", {"sliding_window": 5})),
    Row("qwen2", _of("qwen2", {"sliding_window": 4, "layer_types": "fs"})),
    Row("qwen3", _of("qwen3", {"attention_bias": True}, head_dim=16)),
    Row("gemma", _of("gemma", head_dim=16)),
    Row(
        "gemma3",
        _of(
            "gemma3",
            {"sliding_window": 5, "layer_types": "ssf", "query_pre_attn_scalar": 9},
            head_dim=16,
            num_layers=3,
        ),
    ),
    Row("phi", _of("phi", num_kv_heads=4)),
    Row("phi3, fused in its files", _of("phi3", {"rotary_share": 0.5})),
    Row("smollm3", _of("smollm3", {"rope_layers": "rn"})),
    Row("mixing: a Flax Linen package", _spec(**_mixing()), MIXING),
    Row(
        "mixing, its own head, no bias",
        _spec(**_mixing(qkv_bias=False) | {"tie_embeddings": False, "head_dim": 6}),
        MIXING,
    ),
    Row(
        "the page's: plain JAX",
        _spec(family="distance", activation="gelu", sub_norms=False, num_kv_heads=4),
        "page",
    ),
)
# Of the families that share our blocks, those that have most parts; the others where time is no
# matter.
_LIGHT = {
    "bitnet",
    "bitnet, its own head",
    "bitnet, SiLU and odd sizes",
    "1bitLLM",
    "llama, a norm in each linear",
    "mixing: a Flax Linen package",
    "mixing, its own head, no bias",
    "the page's: plain JAX",
}
EVERY_ROW = pytest.mark.parametrize(
    "row", mostly_heavy(ROWS, _LIGHT, "name"), ids=lambda row: row.name
)
# For laws that take seconds: one row of each kind of function, the others where time is no matter.
EACH_KIND = pytest.mark.parametrize(
    "row",
    mostly_heavy(ROWS, {"bitnet", "mixing: a Flax Linen package", "the page's: plain JAX"}, "name"),
    ids=lambda row: row.name,
)
