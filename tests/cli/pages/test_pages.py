"""The pages of the built commands: real records, and every number on them is the record's."""

import pytest

from bitnet_cli.pages.architecture import diagram, place
from bitnet_cli.pages.training import course
from tests.report.reading import check_numbers, parse, record


def page_of(bitnet, tmp_path, *words):
    """Runs a command; returns (its envelope, its page), which hold the same record."""
    done = bitnet(*words, "--report", "page.html", "--force", "--json")
    root = parse((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert record(root) == done.envelope, done.err
    assert check_numbers(root, done.envelope["data"]) > 0
    return done.envelope, root


def titles(root):
    return [head.text for head in root.all("h2")]


@pytest.fixture
def tiny(bitnet):
    """Returns a function that makes a tiny model."""

    def make(name="tiny.hf", layers=2, *more):
        line = ["model", "create", "--shape", "tiny", "--layers", layers, "-o", name, *more]
        assert bitnet(*line).rc == 0
        return name

    return make


@pytest.mark.parametrize("layers", [1, 2, 80])
def test_inspect(bitnet, tiny, tmp_path, layers):
    envelope, root = page_of(bitnet, tmp_path, "model", "inspect", tiny(layers=layers))
    data = envelope["data"]
    by_layer = ["Zeros by layer", "Scale by layer"] if layers > 1 else []
    assert titles(root) == [
        "Where it will run",
        "Architecture",
        "Shares of −1, 0 and +1 in each matrix",
        *by_layer,
        "Ternary matrices",
        "Other parameters",
        "Architecture, as the file says",
        "Digest: equal in every format",
    ]
    names = {row["name"] for row in data["layers"]}
    assert names == {cell.text for cell in root.all("th", scope="row")} & names
    assert data["digest"]["trits"] in root.text
    held = {cell.text for cell in root.all("td")} & {"U8", "BF16", "bfloat16"}
    assert held == {"U8", "BF16"}  # what is stored, not the type that it stands for
    assert ("× 80" in root.text) == (layers == 80)
    shares = data["trits"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-12)


def test_the_shares_of_a_model_are_those_of_its_matrices(bitnet, tiny):
    data = bitnet("model", "inspect", tiny(), "--json").envelope["data"]
    ternary = [(r["trits"], r["shape"][0] * r["shape"][1]) for r in data["layers"] if "trits" in r]
    for name, share in data["trits"].items():
        expected = sum(trits[name] * size for trits, size in ternary)
        assert share == pytest.approx(expected / data["ternary_parameters"], rel=1e-12)
    assert all(row["bits_per_weight"] >= 2 for row in data["layers"] if "trits" in row)


def test_convert(bitnet, tiny, tmp_path):
    line = ["model", "convert", tiny(), "-o", "tiny.bitnet"]
    envelope, root = page_of(bitnet, tmp_path, *line)
    digest = envelope["data"]["digest_before"]["trits"]
    assert root.text.count(digest) >= 2 and "DIFFERENT" not in root.text
    assert titles(root) == ["Digests", "What was done", "Written"]


def test_convert_with_scales_that_changed():
    from bitnet_cli.pages.convert import page as sections

    digest = {"trits": "a" * 64, "trits_scales": "b" * 64}
    data = {
        "digest_before": digest,
        "digest_after": digest | {"trits_scales": "c" * 64},
        "scales_changed": [{"name": "q", "ulps": 3, "before": 0.5, "after": 0.25}],
        "max_logit_difference": None,
        "outputs": ["out"],
    }
    named = [section.title for section in sections(data)]
    assert named[-2:] == ["How far scales moved", "Scales that changed"]


def test_export_beside_another_runtime():
    from bitnet_cli.pages.export import page as sections

    digest = {"trits": "a" * 64, "trits_scales": "b" * 64}
    data = {
        "digest_before": digest, "digest_after": digest, "max_logit_difference": 0.5,
        "format": "onnx", "receipt": "m.onnx-receipt.json", "outputs": ["m.onnx"],
        "passes": [{"name": "onnx (size)", "max_logit_difference": 0.5}],
        "parity": {"holds": False},
    }  # fmt: skip
    told = str(sections(data))
    assert "Beside our engine" in told and "m.onnx-receipt.json" in told and "onnx (size)" in told


def test_validate_of_a_good_model_and_of_a_bad_one(bitnet, tiny, tmp_path):
    envelope, root = page_of(bitnet, tmp_path, "model", "validate", tiny())
    assert envelope["ok"] and "Nothing to mend." in root.text
    bad = tiny("bad.hf", 2, "--defect", "zero_mlp")
    envelope, root = page_of(bitnet, tmp_path, "model", "validate", bad)
    counts = envelope["data"]["counts"]
    assert counts["severity"]["error"] == 3 == counts["code"]["weights.all_zero"]["error"]
    assert titles(root) == ["Findings by code", "Findings"] and "✗ failed" in root.text
    assert bitnet("model", "validate", bad, "--output", "same.html").rc == 1
    assert (tmp_path / "same.html").read_bytes() == (tmp_path / "page.html").read_bytes()


def test_a_model_with_a_name_that_is_markup(bitnet, tiny, tmp_path):
    name = "<img src=x onerror=alert(1)>.hf"
    _, root = page_of(bitnet, tmp_path, "model", "inspect", tiny(name, 1))
    assert root.all("h1")[0].text == name and not root.all("img")


@pytest.mark.parametrize("words", [["model", "list-architectures"], ["dev", "check"]])
def test_a_command_without_a_page_of_its_own_has_one_too(bitnet, tmp_path, words):
    done = bitnet(*words, "--report", "page.html", "--json")
    root = parse((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert record(root) == done.envelope and root.all("h1")[0].text == f"bitnet {' '.join(words)}"


RECIPE = """
steps: 8
batch: 2
length: 8
warmup_steps: 2
eval_every: 3
eval_windows: 2
data: {paths: [a.txt, b.txt]}
model: {vocab_size: 272, hidden_size: 16, intermediate_size: 16, num_layers: 1, num_heads: 2,
        num_kv_heads: 2, head_dim: 8, max_positions: 64}
"""


def test_train(bitnet, tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(" ".join(f"{name} word {n}" for n in range(900)))
    (tmp_path / "r.yaml").write_text(RECIPE)
    line = ["train", "start", "-c", "r.yaml", "-o", "run", "--report", "page.html"]
    done = bitnet(*line)
    root = parse((tmp_path / "page.html").read_text(encoding="utf-8"))
    data = record(root)["data"]
    check_numbers(root, data)
    assert [row["step"] for row in data["curve"]] == list(range(1, 9))
    assert [row["step"] for row in data["heldout_curve"]] == [3, 6, 8]
    assert titles(root)[:2] == ["Loss", "Learning rate"] and "unigram entropy" in root.text
    assert "heldout_loss" in done.out and "curve" not in done.out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layers.3.mlp.up_proj", ("layers.", 3, "mlp.up_proj")),
        ("norm", ("norm", None, "")),
        ("blocks.12", ("blocks.", 12, "")),
        ("0.weight", ("", 0, "weight")),
        ("w2.layer1", ("w2.layer1", None, "")),
        ("layers." + "9" * 5000, ("layers.", int("9" * 18), "")),
    ],
)
def test_place(name, expected):
    assert place(name) == expected


def test_layers_that_are_alike_are_drawn_once():
    def row(name, ternary=False):
        return {"name": name, "shape": [4, 4], **({"trits": {"zero": 1}} if ternary else {})}

    alike = [row(f"layers.{n}.mlp.{k}", True) for n in (0, 1, 2) for k in ("up", "down")]
    other = [row("layers.3.mix")]
    blocks = diagram([row("embed"), *alike, *other, row("norm")]).fields["blocks"]
    assert [(b["name"], b.get("times")) for b in blocks] == [
        ("embed", None),
        ("layer", 3),
        ("layer", 1),
        ("norm", None),
    ]
    (mlp,) = blocks[1]["blocks"]
    assert [b["name"] for b in mlp["blocks"]] == ["up", "down"] and mlp["colour"] == "1"


def test_the_course_of_a_run_has_a_chart_for_what_moves():
    row = {"loss": 5.0, "loss_low": 4.0, "loss_high": 6.0, "lam": 1.0}
    curve = [{"step": n, "learning_rate": 0.1 * n, **row} for n in (1, 2)]
    charts = course({"curve": curve, "heldout_curve": [], "unigram_entropy": 6.0})
    assert [chart.title for chart in charts] == ["Loss", "Learning rate"]
    curve[1]["lam"] = 0.5
    assert len(course({"curve": curve})) == 3
    assert course({"curve": []}) == course({}) == []


def test_quickstart_record_to_page():
    from bitnet_cli.pages.training import quickstart

    digest = {"trits": "a" * 64, "trits_scales": "b" * 64}
    data = {
        "digest": {"training": digest, "file": digest, "kernel": digest},
        "heldout_loss": 2.0,
        "unigram_entropy": 5.0,
        "max_logit_difference": 0.0,
        "median_logit_difference": 0.0,
        "top1_agreement": 1.0,
        "decode_tokens_per_second": 10.0,
        "bits_per_weight": 2.0,
        "kernel": "avx2",
        "prompt": "def ",
        "text": "f",
    }
    named = [section.title for section in quickstart(data)]
    assert "Training, file and kernel hold the same weights" in named and "What it writes" in named
    data["digest"]["kernel"] = digest | {"trits": "c" * 64}
    named = [section.title for section in quickstart(data)]
    assert "Training, file and kernel DIFFER" in named


def test_diff_and_compare_and_debug(bitnet, tiny, tmp_path):
    one, other = tiny(), tiny("other.hf", 2, "--seed", "1")
    done = bitnet("model", "diff", one, other, "--report", "page.html", "--json")
    root = parse((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert done.rc == 1 and record(root) == done.envelope
    assert check_numbers(root, done.envelope["data"]) > 0
    assert titles(root) == ["Trits that changed", "tensor", "Digests"]
    assert bitnet("model", "diff", one, one).out.startswith("the same model")
    line = ["model", "compare", one, other, "--metrics", "size"]
    _, root = page_of(bitnet, tmp_path, *line)
    assert titles(root) == ["Trits that agree", "Size", "Tensors"]
    line = ["dev", "debug", one, "--against", other]
    done = bitnet(*line, "--report", "page.html", "--force", "--json")
    root = parse((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert done.rc == 1 and done.envelope["errors"][0]["code"] == "debug.diverges"
    assert record(root) == done.envelope and check_numbers(root, done.envelope["data"]) > 0
    assert "Mean size of each op's results, in prefill" in titles(root)
