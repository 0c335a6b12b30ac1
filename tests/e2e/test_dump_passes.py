"""--dump-passes on real commands: a run's programs, from the trace to the packed step."""

from __future__ import annotations

import json

import pytest

from tests.e2e.terminal import here

RECIPE = """\
steps: 3
batch: 2
length: 16
lambda_steps: 2
eval_windows: 2
data: {{paths: [{text}]}}
model: {{vocab_size: 300, hidden_size: 64, intermediate_size: 64, num_layers: 1, num_heads: 2,
  num_kv_heads: 1, head_dim: 32}}
"""


def programs(folder):
    index = json.loads((folder / "index.json").read_text())
    for entry in index["programs"]:
        texts = [(folder / entry["folder"] / stage["file"]) for stage in entry["stages"]]
        assert all(path.is_file() for path in texts)
        yield entry["function"], [stage["passes"] for stage in entry["stages"]], texts


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("trained")
    words = "the quick brown fox jumps over the lazy dog and the cat sat on the mat ".split()
    for number in range(40):
        text = " ".join(words[(i * (number + 1)) % len(words)] for i in range(200))
        (place / f"{number}.txt").write_text(text)
    (place / "recipe.yaml").write_text(RECIPE.format(text=place))
    run, dump = place / "run", place / "dump"
    done = here(
        "train", "start", "-c", place / "recipe.yaml", "-o", run, "--dump-passes", dump, "--json"
    )
    assert done.rc == 0, done.err
    return run, dump


@pytest.mark.heavy
def test_a_training_run_writes_both_steps_the_evaluation_and_what_was_packed(trained):
    found = [(function, passes) for function, passes, _ in programs(trained[1])]
    qat = [[], ["quantize_linears"]]
    assert found == [*[("forward", qat)] * 3, ("forward", [[]])]


def test_only_the_warm_ups_step_has_lambda_as_an_input(trained):
    counts = [paths[-1].read_text().count("\n  input ") for _, _, paths in programs(trained[1])]
    assert counts == [2, 1, 1, 1]


SERVING = """
    pack_weights inline_calls fuse_linears fuse_attention dense_products kernel_forms
""".split()


def test_generating_writes_the_packed_programs_and_refuses_to_mix(trained, tmp_path):
    line = ("generate", trained[0] / "model.bitnet", "the cat", "-n", "2", "--dump-passes")
    assert here(*line, tmp_path / "dump").rc == 0
    found = list(programs(tmp_path / "dump"))
    assert found and all(passes[-1] == SERVING for _, passes, _ in found)
    assert all("fused_linears" in paths[-1].read_text() for _, _, paths in found)
    again = here(*line, tmp_path / "dump")
    assert again.rc == 73 and again.code == "dump.exists"
