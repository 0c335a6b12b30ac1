"""Each defect that `model create` can plant is found, named, and stops a conversion."""

from __future__ import annotations

import json
import shutil

import pytest

from bitnet_jax.formats.create import DEFECTS
from tests.e2e.terminal import Folder, here, spawn
from tests.thin import mostly_heavy

MLP = {f"layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")}
NORMS = {"layers.0.self_attn.attn_sub_norm", "layers.0.mlp.ffn_sub_norm"}

# defect -> (code, the tensors it is about, whether --allow passes it, words of the fix)
FOUND = {
    "zero_mlp": ("weights.all_zero", MLP, True, "another revision"),
    "inverted_scale": ("scale.inverted", {"layers.0.mlp.down_proj"}, True, "linear_class"),
    "missing_subnorm": (
        "model.missing_sub_norm", {"layers.0.self_attn.attn_sub_norm"}, False, "original"),
    "f16_subnorm": ("norm.float16", NORMS, True, "bfloat16 original"),
    "nan": ("weights.not_finite", {"norm"}, True, "original dtype"),
    "no_zeros": ("weights.histogram", {"layers.0.mlp.up_proj"}, True, "absmean"),
}  # fmt: skip

PACKED = [(defect, "packed") for defect in FOUND]
NOT_IN_MASTER = {"inverted_scale", "no_zeros"}
MASTER = [(defect, "master") for defect in FOUND if defect not in NOT_IN_MASTER]
CASES = mostly_heavy([*PACKED, *MASTER], [*PACKED, MASTER[0]])


def test_every_defect_that_can_be_planted_is_here():
    assert FOUND.keys() == DEFECTS.keys()


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def broken(request, tmp_path_factory):
    """A model of the real layers with a cut vocabulary, with one defect."""
    defect, encoding = request.param
    path = tmp_path_factory.mktemp("broken") / "m.hf"
    made = here(
        "model", "create", "--shape", "bitnet-2b-4t", "--layers", "1", "--vocab-size", "512",
        "--defect", defect, "--encoding", encoding, "--output", path, "--json",
    )  # fmt: skip
    assert made.data["defects"] == [defect]
    yield defect, path
    shutil.rmtree(path)


@pytest.mark.sampled(3)
def test_validate_finds_it_and_says_the_mend(broken):
    defect, path = broken
    code, tensors, _, fix = FOUND[defect]
    folder = Folder(path)
    ended = here("model", "validate", path, "--json").refused(1, "model.validate_failed")
    errors = [f for f in ended.envelope["data"]["findings"] if f["severity"] == "error"]
    assert {finding["code"] for finding in errors} == {code}
    assert {finding["tensor"] for finding in errors} == tensors
    assert all(fix in finding["fix"] for finding in errors)
    page = here("model", "validate", path)
    assert page.rc == 1 and code in page.out and code in page.err
    folder.check_untouched()


@pytest.mark.sampled(3)
def test_convert_stops_and_writes_nothing_unless_it_is_allowed(broken, tmp_path, monkeypatch):
    defect, path = broken
    code, tensors, passes, fix = FOUND[defect]
    monkeypatch.chdir(tmp_path)
    folder = Folder(tmp_path)
    ended = here("model", "convert", path, "-o", "out.bitnet").refused(65, code)
    assert fix in ended.hint and ended.out == ""
    assert any(tensor in ended.err or tensor + ".weight" in ended.err for tensor in tensors)
    assert (f"--allow {code}" in ended.hint) == passes
    folder.check_untouched()
    allowed = here("model", "convert", path, "-o", "out.bitnet", "--allow", code, "--json")
    if not passes:
        allowed.refused(2, "convert.allow")
        folder.check_untouched()
        return
    data = allowed.data
    assert data["allowed"] == [code]
    assert {f["tensor"] for f in data["findings"] if f["code"] == code} == tensors
    receipt = json.loads((tmp_path / "out.receipt.json").read_text())
    assert receipt["allowed"] == [code] and receipt["findings"] == data["findings"]
    # The defect travels with the model, and is found there too.
    again = here("model", "validate", "out.bitnet", "--json").envelope["data"]["findings"]
    assert {f["tensor"] for f in again if f["code"] == code} == tensors


def test_another_code_does_not_allow_it(broken, tmp_path):
    defect, path = broken
    code = FOUND[defect][0]
    other = next(row[0] for row in FOUND.values() if row[2] and row[0] != code)
    ended = here("model", "convert", path, "-o", tmp_path / "x.bitnet", "--allow", other)
    ended.refused(65, code)
    assert list(tmp_path.iterdir()) == []


def test_as_real_processes(tmp_path):
    def run(*argv):
        return spawn("model", *argv, cwd=tmp_path)

    created = run("create", "tiny", "-o", "m.hf", "--defect", "zero_mlp")
    assert created.rc == 0 and "zero_mlp" in created.out
    assert run("validate", "m.hf").rc == 1
    run("convert", "m.hf", "-o", "x.bitnet").refused(65, "weights.all_zero")
    assert not (tmp_path / "x.bitnet").exists()
