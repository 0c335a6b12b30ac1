"""`debug` finds the op where a fault was planted, in prefill and in decode."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.analysis.debug import debug
from bitnet_jax.core.errors import BadData, NoInput, UsageError
from bitnet_jax.formats.create import create
from bitnet_jax.formats.save import save_checkpoint
from tests.analysis.planted import FAULTS, changed, right, variant, written_anew

TOKENS = [7, 3, 100, 5, 9, 250, 1]


# One of each sort in the light suite; all of them in the heavy one: a second each.
LIGHT = {
    "one trit flipped", "another theta", "sub-norm behind the projection", "logits scaled",
    "key and value swapped in the function", "cache written one too far, in decode",
}  # fmt: skip
EACH = [pytest.param(name, marks=() if name in LIGHT else pytest.mark.heavy) for name in FAULTS]


def run(subject=None, **options):
    return debug(subject or right(), input=TOKENS, decode=2, **options)


def first(record, phase):
    found = [row for row in record["divergences"] if row["phase"] == phase]
    return found[0]["op"] if found else ""


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", EACH)
def test_a_planted_fault_is_found_at_its_op(name):
    fault = FAULTS[name]
    record = run(against=fault.make())
    for phase in ("prefill", "decode"):
        assert first(record, phase) == (fault.op if phase in fault.phases else ""), phase
    if fault.op:
        assert record["first_divergence"]["op"] == fault.op


def test_there_are_faults_enough_of_every_sort():
    assert len(FAULTS) >= 30 and sum(f.phases == ("decode",) for f in FAULTS.values()) >= 4


@pytest.mark.parametrize("name", [n for n, f in FAULTS.items() if f.phases == ("decode",)])
def test_a_fault_of_decode_alone_shows_without_a_second_model(name):
    record = run(FAULTS[name].make())
    assert record["divergences"] == []
    found = [row for row in record["cache_divergences"]]
    assert found and {row["phase"] for row in found} == {"decode"}
    layer = FAULTS[name].op.split(".")[1]
    assert found[0]["op"].startswith(f"layers.{layer}.self_attn")
    assert record["first_divergence"] == found[0]


def test_the_same_function_written_anew_does_not_diverge():
    record = run(against=written_anew())
    assert record["first_divergence"] is None
    assert record["divergences"] == record["cache_divergences"] == record["settings_differ"] == []


def test_one_unit_in_the_last_place_is_told_where_it_is_asked_for():
    fault = FAULTS["scale off by one in its last bit"]
    record = run(against=fault.make(), tolerance=0.0)
    assert first(record, "prefill") == "layers.0.mlp.gate_proj:ternary_matmul"
    # each op is judged on the same inputs: nothing after it is to blame
    assert {row["op"] for row in record["divergences"]} == {first(record, "prefill")}


@pytest.mark.parametrize(
    "kernel", ["reference", *(pytest.param(k, marks=pytest.mark.heavy) for k in ("xla", "native"))]
)
def test_another_kernel_gives_the_same(kernel):
    record = run(against=kernel)
    assert record["first_divergence"] is None and record["against"].endswith(f"({kernel})")


def test_settings_that_differ_are_told_beside_the_figures():
    record = run(against=FAULTS["another theta"].make())
    row = record["settings_differ"][0]
    assert (row["setting"], row["first"], row["second"]) == ("theta", 500000.0, 10000.0)
    assert record["first_divergence"]["settings"] == {"theta": [500000.0, 10000.0]}


def test_the_first_op_that_is_no_number():
    subject = variant(**changed("layers.1.mlp.ffn_sub_norm", lambda w: w.at[3].set(jnp.nan)))
    record = run(subject)
    assert record["not_finite"]["op"] == "layers.1.mlp.ffn_sub_norm:rms_norm"
    assert record["not_finite"]["nan"] == 5 and record["not_finite"]["absmax"] is not None
    assert record["cache_divergences"] == []  # NaN in the same places is the same


def test_figures_of_an_op_are_those_of_its_values():
    record = run()
    row = next(r for r in record["ops"] if r["op"] == "embed_tokens:gather")
    table = np.asarray(right().packed.leaves["embed_tokens"]).astype(np.float64)
    rows = table[TOKENS[:5]]
    assert row["shape"] == [1, 5, 64]
    for name, value in (("min", rows.min()), ("mean", rows.mean()), ("max", rows.max())):
        assert row[name] == pytest.approx(value, rel=1e-12)
    assert row["absmean"] == pytest.approx(np.abs(rows).mean())
    phases = [(r["phase"], r["position"]) for r in record["ops"] if r["op"] == row["op"]]
    assert phases == [("prefill", 0), ("decode", 5), ("decode", 6)]


def test_the_next_token_is_the_engine_s(tmp_path):
    from bitnet_jax.runtime.model import load

    save_checkpoint(create("tiny"), tmp_path / "m.bitnet")
    record = debug(tmp_path / "m.bitnet", input=TOKENS)
    logits = load(tmp_path / "m.bitnet").logits([TOKENS])
    assert record["next_token"] == int(logits[0, -1].argmax())


def test_input_from_a_file(tmp_path):
    save_checkpoint(create("tiny"), tmp_path / "m.bitnet")
    path = tmp_path / "in.json"
    path.write_text(json.dumps({"text": "Hello there, all of you", "decode": 1}))
    record = debug(tmp_path / "m.bitnet", input=path)
    assert record["text"] == "Hello there, all of you" and record["decode"] == 1
    path.write_text(json.dumps([[1, 2, 3]]))
    assert debug(tmp_path / "m.bitnet", input=path)["tokens"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "debug.input"),
        ('"text"', "debug.input"),
        ('{"tokens": [1], "text": "a"}', "debug.input"),
        ('{"tokens": [1.5]}', "debug.input"),
        ('{"tokens": [true]}', "debug.input"),
        ('{"tokens": [1], "decode": -1}', "debug.input"),
        ('{"tokens": [99999]}', "tokens.vocabulary"),
        ('{"tokens": [-1]}', "tokens.vocabulary"),
        ('{"words": [1]}', "debug.input"),
    ],
)
def test_an_input_that_is_wrong(tmp_path, text, code):
    (tmp_path / "in.json").write_text(text)
    with pytest.raises(BadData) as caught:
        debug(right(), input=tmp_path / "in.json")
    assert caught.value.code == code


def test_no_input_no_tokens_and_no_tokenizer(tmp_path):
    with pytest.raises(NoInput):
        debug(right(), input=tmp_path / "none.json")
    with pytest.raises(UsageError):
        debug(right(), input=[])
    (tmp_path / "in.json").write_text('{"text": "a"}')
    with pytest.raises(UsageError, match="tokenizer"):
        debug(right(), input=tmp_path / "in.json")
