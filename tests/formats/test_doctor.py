"""Each planted defect is found, a healthy model has none, and each finding has a fix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bitnet_jax.formats.create import DEFECTS, create, save_created
from bitnet_jax.formats.doctor import blocking, constant_rows, examine, examine_path, trit_counts
from bitnet_jax.quant.ternary import from_trits

# defect -> (code, tensors that the findings name)
MLP = {f"layers.0.mlp.{part}_proj" for part in ("gate", "up", "down")}
NORMS = {f"layers.{n}.{part}" for n in (0, 1) for part in ("self_attn.attn_sub_norm",
                                                         "mlp.ffn_sub_norm")}  # fmt: skip
FIRST_NORM = {"layers.0.self_attn.attn_sub_norm"}
FOUND = {
    ("zero_mlp", "huggingface"): ("weights.all_zero", MLP),
    ("zero_mlp", "bitnet"): ("weights.all_zero", MLP),
    ("inverted_scale", "huggingface"): ("scale.inverted", {"layers.0.mlp.down_proj"}),
    ("inverted_scale", "bitnet"): ("scale.inverted", {"layers.0.mlp.down_proj"}),
    ("missing_subnorm", "huggingface"): ("model.missing_sub_norm", FIRST_NORM),
    ("missing_subnorm", "bitnet"): ("model.missing_sub_norm", FIRST_NORM),
    ("f16_subnorm", "huggingface"): ("norm.float16", NORMS),
    ("f16_subnorm", "bitnet"): ("norm.float16", NORMS),
    ("nan", "huggingface"): ("weights.not_finite", {"norm"}),
    ("nan", "bitnet"): ("weights.not_finite", {"norm"}),
    ("no_zeros", "huggingface"): ("weights.histogram", {"layers.0.mlp.up_proj"}),
    ("no_zeros", "bitnet"): ("weights.histogram", {"layers.0.mlp.up_proj"}),
}


def test_every_defect_is_in_the_table():
    assert {defect for defect, _ in FOUND} == set(DEFECTS)


@pytest.mark.parametrize("case", FOUND, ids=" ".join)
def test_a_planted_defect_is_found(case, tmp_path):
    defect, format_ = case
    code, names = FOUND[case]
    path = tmp_path / "m"
    save_created(create("tiny", defect=defect), path, format=format_)
    findings = examine_path(path)
    assert {f.code for f in findings} == {code}
    assert {f.tensor for f in findings} == names
    assert all(f.severity == "error" and f.fix for f in findings)
    assert blocking(findings) == findings and not blocking(findings, allow=(code,))


def test_a_zero_mlp_in_a_master_is_not_taken_for_an_inverted_scale(tmp_path):
    save_created(create("tiny", defect="zero_mlp"), tmp_path / "m", encoding="master")
    assert {f.code for f in examine_path(tmp_path / "m")} == {"weights.all_zero"}


@pytest.mark.parametrize("encoding", ["packed", "master"])
@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_model_has_no_findings(encoding, seed, tmp_path):
    save_created(create("tiny", seed=seed), tmp_path / "m", encoding=encoding)
    assert examine_path(tmp_path / "m") == ()


def changed(name, tensor=None, **changes):
    """The tiny model with one tensor replaced, or its scale multiplied."""
    model = create("tiny")
    entry = model.entries[name]
    value = entry.read() if tensor is None else tensor
    value = replace(value, **changes) if changes else value
    return replace(model, entries={**model.entries, name: replace(entry, read=lambda: value)})


def codes(findings):
    return {(f.code, f.severity, f.tensor) for f in findings}


NAME = "layers.1.mlp.up_proj"


def made(trits):
    return from_trits(trits.astype(np.int8), np.float32(1.5), dtype="bfloat16")


def test_signs_without_zeros_are_an_error():
    signs = np.random.default_rng(0).choice([-1, 1], (128, 64))
    assert ("weights.histogram", "error", NAME) in codes(examine(changed(NAME, made(signs))))


def test_an_unusual_histogram_is_a_warning():
    lean = np.random.default_rng(0).choice([-1, 0, 1], (128, 64), p=[0.1, 0.3, 0.6])
    found = examine(changed(NAME, made(lean)))
    assert codes(found) == {("weights.histogram", "warning", NAME)}
    assert not blocking(found)


def test_constant_rows_are_counted():
    trits = np.random.default_rng(0).integers(-1, 2, (128, 64))
    trits[3], trits[17], trits[127] = 0, 1, -1
    found = examine(changed(NAME, made(trits)))
    assert codes(found) == {("weights.constant_rows", "warning", NAME)}
    assert found[0].message.startswith("3 rows")


@pytest.mark.parametrize("size", [(16, 16), (17, 18), (5, 3), (33, 64)])
def test_counts_do_not_see_padding(size):
    trits = np.random.default_rng(1).integers(-1, 2, size)
    trits[0] = 0
    tensor = made(trits)
    assert trit_counts(tensor) == tuple((trits == code).sum() for code in (-1, 0, 1))
    assert constant_rows(tensor) >= 1


def test_a_whole_model_read_the_wrong_way_round():
    model = create("tiny")
    entries = dict(model.entries)
    for name, entry in model.entries.items():
        if entry.ternary:
            value = replace(entry.read(), scale=np.float32(1 / 0.016))  # 1/mean of normal masters
            entries[name] = replace(entry, read=lambda value=value: value)
    found = examine(replace(model, entries=entries))
    assert {f.code for f in found} == {"scale.inverted"} and len(found) == 14


def test_a_wide_spread_of_scales_around_one_is_no_fault():
    model = create("tiny")
    entries = dict(model.entries)
    names = [name for name, entry in model.entries.items() if entry.ternary]
    for name, scale in zip(names, np.geomspace(0.5, 2.5, len(names)), strict=True):
        value = replace(model.entries[name].read(), scale=np.float32(scale))
        entries[name] = replace(entries[name], read=lambda value=value: value)
    assert examine(replace(model, entries=entries)) == ()


def test_floats_that_are_no_numbers():
    model = create("tiny")
    value = model.read("norm")
    value[3] = np.nan
    found = examine(changed("norm", value))
    assert codes(found) == {("weights.not_finite", "error", "norm")}


def test_a_digest_that_is_not_the_tensors(tmp_path):
    model = create("tiny")
    wrong = {"trits": "00", "trits_scales": model.digest().trits_scales}
    source = replace(model.source, detail={"digests": wrong})
    assert {f.code for f in examine(replace(model, source=source))} == {"digest.mismatch"}


def test_a_tokenizer_of_another_model():
    model = replace(create("tiny"), tokenizer=create("tiny", vocab_size=1024).tokenizer)
    assert {f.code for f in examine(model)} == {"tokenizer.vocabulary"}
    broken = replace(model.tokenizer, tokenizer_json=b"{}")
    found = examine(replace(model, tokenizer=broken))
    assert codes(found) == {("tokenizer.invalid", "warning", None)}


def test_one_flipped_bit_is_a_finding_that_names_the_tensor(tmp_path):
    path = tmp_path / "m.bitnet"
    save_created(create("tiny"), path, format="bitnet")
    raw = bytearray(path.read_bytes())
    raw[-300] ^= 4  # in the scales or the file before them
    path.write_bytes(raw)
    findings = examine_path(path)
    assert findings and findings[0].code == "bitnet.checksum" and findings[0].tensor
