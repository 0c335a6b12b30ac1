"""The faults that conversions of ternary models had, each by its name: none passes in silence.

A fault is planted where a wrong writer or reader would make it: the output is read back with one
thing otherwise. The conversion must end with the code that names it, and leave nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from bitnet_jax.core.errors import BitnetError
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.quant.ternary import from_trits
from bitnet_jax.workflows import convert as workflow
from bitnet_jax.workflows.convert import convert
from bitnet_jax.workflows.create import create


@dataclass(frozen=True)
class Trap:
    """A fault, the exit code and the error that must name it."""

    plant: Callable[[Checkpoint], Checkpoint]
    code: str
    exit_code: int = 65


def of_spec(**changes: Any) -> Callable[[Checkpoint], Checkpoint]:
    return lambda checkpoint: replace(checkpoint, spec=replace(checkpoint.spec, **changes))


def of_tokenizer(change: Callable[[dict], object]) -> Callable[[Checkpoint], Checkpoint]:
    def changed(checkpoint: Checkpoint) -> Checkpoint:
        raw = json.loads(checkpoint.tokenizer.tokenizer_json)
        change(raw)
        files = replace(checkpoint.tokenizer, tokenizer_json=json.dumps(raw).encode())
        return replace(checkpoint, tokenizer=files)

    return changed


def of_files(**changes: Any) -> Callable[[Checkpoint], Checkpoint]:
    return lambda c: replace(c, tokenizer=replace(c.tokenizer, **changes))


def of_tensors(ending: str, change: Callable[[Any], Any]) -> Callable[[Checkpoint], Checkpoint]:
    def changed(checkpoint: Checkpoint) -> Checkpoint:
        entries = {
            name: entry
            if not name.endswith(ending)
            else replace(entry, read=lambda entry=entry: change(entry.read()), parts=None)
            for name, entry in checkpoint.entries.items()
        }
        return replace(checkpoint, entries=entries)

    return changed


def without(ending: str) -> Callable[[Checkpoint], Checkpoint]:
    return lambda c: replace(
        c, entries={name: e for name, e in c.entries.items() if not name.endswith(ending)}
    )


def of_trits(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any], Any]:
    def changed(tensor: Any) -> Any:
        new = from_trits(change(tensor.trits()), tensor.scale, dtype=tensor.dtype)
        return replace(tensor, codes=new.codes)

    return changed


def interleaved(trits: np.ndarray) -> np.ndarray:
    """Rows of a head as the other rotary form has them: halves become pairs."""
    heads = trits.reshape(-1, 2, 8, trits.shape[1])  # 16 rows to a head
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(trits.shape)


def other_layout(trits: np.ndarray) -> np.ndarray:
    """Blocks of 128 values that are read as if they were blocks of 64."""
    flat = trits.reshape(-1, 4, 32)
    return np.ascontiguousarray(flat[:, [0, 2, 1, 3]]).reshape(trits.shape)


def no_digits_apart(raw: dict) -> None:
    raw["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True,
                            "trim_offsets": True}  # fmt: skip


def words_exchanged(raw: dict) -> None:
    words = raw["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]


TRAPS: dict[str, Trap] = {
    "squared ReLU becomes SiLU": Trap(of_spec(activation="silu"), "contract.activation"),
    "the epsilon is another one": Trap(of_spec(rms_norm_eps=1e-6), "contract.rms_norm_eps"),
    "theta falls back to 10000": Trap(of_spec(rope_theta=10000.0), "contract.rotary"),
    "a head is found though it is tied": Trap(
        of_spec(tie_embeddings=False), "contract.tied_embedding"
    ),
    "the end of a turn is forgotten": Trap(of_spec(eos_token_ids=(257,)), "contract.end_tokens"),
    "the beginning token is forgotten": Trap(of_spec(bos_token_id=None), "contract.bos_token_id"),
    "the context is cut": Trap(of_spec(max_positions=128), "contract.max_positions"),
    "the sub-norms are dropped": Trap(without("attn_sub_norm"), "contract.norms"),
    "the chat template is lost": Trap(of_files(chat_template=None), "contract.chat_template"),
    "the end ids of the generation config are lost": Trap(
        of_files(generation={}, config={}), "contract.end_tokens"
    ),
    "the pre-tokenizer is another one": Trap(
        of_tokenizer(no_digits_apart), "contract.pre_tokenizer"
    ),
    "two words of the vocabulary change places": Trap(
        of_tokenizer(words_exchanged), "contract.tokenizer_round_trip"
    ),
    "the tokenizer is lost": Trap(lambda c: replace(c, tokenizer=None), "contract.end_tokens"),
    "query rows are permuted for another rotary form": Trap(
        of_tensors("q_proj", of_trits(interleaved)), "convert.trits_changed", 70
    ),
    "blocks of 128 are read as blocks of 64": Trap(
        of_tensors("up_proj", of_trits(other_layout)), "convert.trits_changed", 70
    ),
    "a matrix is all zeros": Trap(
        of_tensors("down_proj", of_trits(np.zeros_like)), "convert.trits_changed", 70
    ),
    "every non-zero weight has the sign only, none is zero": Trap(
        of_tensors("up_proj", of_trits(lambda t: np.where(t == 0, 1, t).astype(np.int8))),
        "convert.trits_changed", 70,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "m.hf"
    create(shape="tiny", layers=1, output=path)
    return path


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.parametrize("output", ["m.bitnet", "m.hf"])
def test_it_ends_with_the_code_that_names_it_and_leaves_nothing(
    name, output, source, tmp_path, monkeypatch
):
    trap, opened = TRAPS[name], workflow.open_checkpoint

    def reopened(path, **options):
        checkpoint = opened(path, **options)
        return trap.plant(checkpoint) if ".bitnet-" in str(path) else checkpoint

    monkeypatch.setattr(workflow, "open_checkpoint", reopened)
    with pytest.raises(BitnetError) as caught:
        convert(source, tmp_path / output, probe=False)
    assert (caught.value.code, caught.value.exit_code) == (trap.code, trap.exit_code)
    assert list(tmp_path.iterdir()) == []


def test_a_scale_that_divides_and_one_that_multiplies_are_one_model(source, tmp_path):
    """`bitlinear` stores 1/s, `autobitlinear` s; the one read for the other is refused."""
    first = convert(source, tmp_path / "a.hf", encoding="bitlinear", probe=False)
    second = convert(tmp_path / "a.hf", tmp_path / "b.hf", encoding="autobitlinear", probe=False)
    assert first["digest_before"] == second["digest_after"]
    assert first["scales_changed"] == second["scales_changed"] == []
    name = "a.hf/config.json"
    config = json.loads((tmp_path / name).read_text())
    assert config["quantization_config"]["linear_class"] == "bitlinear"
    config["quantization_config"]["linear_class"] = "autobitlinear"
    (tmp_path / name).write_text(json.dumps(config))
    with pytest.raises(BitnetError) as caught:
        convert(tmp_path / "a.hf", tmp_path / "c.bitnet", probe=False)
    assert caught.value.code == "huggingface.scale_mismatch"


@pytest.mark.parametrize("change", ["a float", "a program"])
def test_what_only_running_it_shows_is_shown_by_the_probe(change, source, tmp_path, monkeypatch):
    """Weights and statements are the same, and it computes something else."""
    from bitnet_jax.workflows import probe

    class Wrong(probe.Stepwise):
        """The output's run: it reads a norm otherwise, or takes another base for its angles."""

        def __post_init__(self):
            self.is_output = self.like is not None
            if self.is_output and change == "a program":
                spec = replace(self.checkpoint.spec, rope_theta=10.0)
                self.checkpoint = replace(self.checkpoint, spec=spec)
            super().__post_init__()

        def _fetch(self, name):
            super()._fetch(name)
            if self.is_output and change == "a float" and name.endswith("ffn_sub_norm"):
                [var] = [v for v, (tensor, _) in self._leaves.items() if tensor == name]
                self._values[var] = np.asarray(self._values[var]) * np.float32(1.01)

    monkeypatch.setattr(probe, "Stepwise", Wrong)
    with pytest.raises(BitnetError) as caught:
        convert(source, tmp_path / "m.bitnet")
    assert (caught.value.code, caught.value.exit_code) == ("contract.logits", 65)
    assert ("ffn_sub_norm" in caught.value.message) == (change == "a float")
    assert list(tmp_path.iterdir()) == []
