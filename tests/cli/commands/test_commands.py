"""Each command: what it asks of the library, what it returns, what people see."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from bitnet_cli import registry
from bitnet_cli.options import FORMATS, EngineArgs
from bitnet_cli.progress import Progress
from bitnet_jax.bench.regression import bench_regression
from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.report.page import report_page
from tests.bench.records import compare_record, profile_record, run_record, validate_record
from tests.workflows import quant_records

ROOT = Path(__file__).parents[3]
DIGEST = {"trits": "aa" * 32, "trits_scales": "bb" * 32}
LAYER = {
    "name": "layers.0.mlp.up_proj",
    "shape": [64, 32],
    "dtype": "uint8",
    "trits": {"minus": 0.25, "zero": 0.5, "plus": 0.25},
    "scale": 0.02,
}
NORM = {"name": "norm", "shape": [32], "dtype": "bfloat16", "trits": None, "scale": None}

RECORDS = {
    "quickstart": {
        "digest": {"training": DIGEST, "file": DIGEST, "kernel": DIGEST},
        "heldout_loss": 2.5,
        "unigram_entropy": 5.0,
        "max_logit_difference": 1e-6,
        "median_logit_difference": 1e-7,
        "top1_agreement": 1.0,
        "decode_tokens_per_second": 1234.5,
        "bits_per_weight": 2.0,
        "files": ["quickstart/model.bitnet"],
        "file_bytes": 1_234_567,
        "tokens": 358_400,
        "prompt": "def ",
        "text": "f(x):\n    return x",
        "kernel": "avx2",
        "kernel_reason": "the best that this processor has",
        "transformers": None,
    },
    "convert": {
        "digest_before": DIGEST,
        "digest_after": DIGEST,
        "scales_changed": [],
        "max_logit_difference": None,
        "outputs": ["model.bitnet"],
    },
    "converted": None,
    "compare": {
        "model1": "a",
        "model2": "b",
        "table": [
            {"measure": "KL", "first": None, "second": None, "compared": 0.5, "unit": "nats"}
        ],
        "tensors": [{"name": "q", "shape": [2, 2], "trits": 4, "agreement": 0.75}],
        "words": [{"part": "spec", "name": "eos_token_ids", "what": "value"}],
        "not_compared": [{"what": "perplexity", "why": "no tokenizer"}],
        "size": [{"file_bytes": 3, "memory_bytes": 4}, {"file_bytes": 5, "memory_bytes": 6}],
    },
    "diff": {
        "equal": True,
        "differences": [],
        "counts": {},
        "stored": [{"name": "format", "first": "huggingface", "second": "bitnet"}],
        "digest": {"first": DIGEST, "second": DIGEST},
    },
    "edit": {
        "changes": [{"key": "general.name", "before": None, "after": "Tiny"}],
        "digest_before": DIGEST,
        "digest_after": DIGEST,
        "outputs": ["named.bitnet"],
    },
    "publish": {
        "repo": "hf://me/my-model",
        "changes": [{"file": "config.json", "what": "same", "before": 3, "after": 3}],
        "published": False,
        "commit": "c" * 40,
        "left_out": [],
    },
    "debug": {
        "tokens": [1, 2],
        "token_count": 2,
        "decode": 1,
        "op_count": 1,
        "against": None,
        "next_token": 5,
        "not_finite": None,
        "first_divergence": None,
        "divergences": [],
        "cache_divergences": [],
        "settings_differ": [],
        "ops": [{"phase": "prefill", "position": 0, "op": "norm:rms_norm", "absmean": 0.5}],
    },
    "export_model": {
        "source": {"path": "model.bitnet"},
        "source_format": "bitnet",
        "format": "onnx",
        "encoding": "inference",
        "exact": False,
        "digest_before": DIGEST,
        "digest_after": DIGEST,
        "scales_changed": [],
        "max_logit_difference": 0.0297,
        "parity": {"median_logit_difference": 0.0169, "top1_agreement": 0.96, "holds": False},
        "runtime": "onnxruntime 1.32.0",
        "passes": [
            {"name": "pack_weights", "max_logit_difference": 0.0},
            {"name": "onnx (inference)", "max_logit_difference": 0.0297},
        ],
        "findings": [],
        "allowed": [],
        "outputs": ["model.onnx", "model.onnx.data"],
    },
    "inspect": {
        "digest": DIGEST,
        "architecture": "bitnet",
        "parameters": 2048,
        "ternary_parameters": 2016,
        "bits_per_weight": 2.03,
        "runs_in": [{"runtime": "llama.cpp", "how": "refused", "reason": "no such type"}],
        "layers": [LAYER, NORM],
    },
    "validate": {"findings": []},
    "create": {"outputs": ["tiny.hf"], "digest": DIGEST},
    "list_architectures": {"architectures": [{"name": "bitnet-2b-4t", "layers": 30}]},
    "train_start": {"run_id": "r1", "step": 10, "loss": 2.0, "checkpoint": "runs/r1/10"},
    "train_qat": {"run_id": "r2", "step": 10, "loss": 2.0, "checkpoint": "runs/r2/10"},
    "environment": {"versions": {"jax": "0.10"}, "devices": [{"kind": "cpu"}], "missing": []},
    "build_kernels": {"files": ["kernels/libbitnet.so"]},
    "bench_run": run_record(),
    "bench_compare": compare_record(),
    "quant_analyze": quant_records.analyze_record(),
    "quant_convert": quant_records.convert_record(),
    "quant_converted": None,
    "quant_validate": quant_records.validate_record(),
    "bench_profile": profile_record(),
    "bench_validate": {**validate_record(), "passed": True, "failed": []},
    "bench_regression": {
        name: value
        for name, value in bench_regression(run_record(), run_record(20.2)).items()
        if name != "warnings"
    },
}


NO_RECEIPT = {
    "receipt": None,
    "source": None,
    "probe": True,
    "text": None,
    "calibration": None,
    "jobs": None,
}


class FakeModel:
    """What `api.load` returns: says back what it was told."""

    def __init__(self):
        self.calls = []

    def _reply(self, text, stream):
        if stream is not None:
            for word in text.split(" "):
                stream(word)
        return {
            "text": text,
            "tokens": [1, 2, 3],
            "decode_tokens_per_second": 12.5,
            "kernel": "reference",
        }

    def generate(self, prompt, *, stream, **options):
        self.calls.append((prompt, options))
        return self._reply(f"after {prompt}", stream)

    def chat(self, messages, *, stream, **options):
        self.calls.append(([dict(message) for message in messages], options))
        return self._reply(f"heard {messages[-1]['content']}", stream)


@pytest.fixture
def model():
    return FakeModel()


@pytest.fixture
def api(fake_api, model):
    return fake_api(**RECORDS, load=lambda path, **reach: model, report_page=report_page)


EXAMPLES = [
    pytest.param(example, id=example)
    for command in registry.built()
    for example in registry.load(command)[0].EXAMPLES
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_runs(bitnet, api, example):
    argv = shlex.split(example)[1:]
    done = bitnet(*argv)
    assert done.rc == 0, done.err


@pytest.mark.parametrize("name", ["start", "qat"])
def test_the_recipes_of_the_examples_exist(name):
    module, _ = registry.load(registry.find("train", name))
    recipes = [word for e in module.EXAMPLES for word in e.split() if word.endswith(".yaml")]
    assert recipes and all((ROOT / recipe).is_file() for recipe in recipes)
    assert "docs/training.md" in module.DETAILS


def test_what_training_resumes_from_is_what_works(bitnet):
    page = " ".join(bitnet("train", "start", "--help").out.split())
    assert ".pth" not in page and "a run's folder, its checkpoints folder" in page


def said(calls, name):
    """Returns the keyword arguments of a call, less the progress and `offline` (below)."""
    args, kwargs = calls[name]
    assert kwargs.pop("offline", None) is None
    kwargs.pop("say", None)
    if "progress" in kwargs:
        assert isinstance(kwargs.pop("progress"), Progress)
    return args, kwargs


@pytest.mark.parametrize(
    ("line", "name", "args", "kwargs"),
    [
        (
            "quickstart --minutes 0.5 --seed 3 -o q",
            "quickstart",
            (),
            {"output": "q", "minutes": 0.5, "seed": 3, "force": False, "keep_compiled": True},
        ),
        (
            "quickstart",
            "quickstart",
            (),
            {
                "output": "quickstart",
                "minutes": None,
                "seed": 0,
                "force": False,
                "keep_compiled": True,
            },
        ),
        (
            "model convert --input model.safetensors --output model.bitnet --format bitnet",
            "convert",
            (),
            {
                "source": "model.safetensors",
                "output": "model.bitnet",
                "format": "bitnet",
                "encoding": None,
                "allow": (),
                "probe": True,
                "strict": False,
                "jobs": None,
                "force": False,
            },
        ),
        (
            "model convert a -o b --encoding packed --allow x.y,z --allow w --force --no-probe "
            "--strict --jobs 3",
            "convert",
            (),
            {
                "source": "a",
                "output": "b",
                "format": None,
                "encoding": "packed",
                "allow": ("x.y", "z", "w"),
                "probe": False,
                "strict": True,
                "jobs": 3,
                "force": True,
            },
        ),
        ("model inspect --input model.bitnet", "inspect", ("model.bitnet",), {}),
        ("model diff a b", "diff", ("a", "b"), {}),
        (
            "model compare --model1 a --model2 b --metrics accuracy,size --tokens 64",
            "compare",
            ("a", "b"),
            {
                "metrics": ("accuracy", "size"),
                "text": None,
                "tokens": 64,
                "count": None,
                "device": "auto",
                "plugins": (),
            },
        ),
        (
            "model edit m -o n --set general.name=A=B --set x=1 -u y --chat-template t.jinja -F",
            "edit",
            ("m", "n"),
            {
                "entries": {"general.name": "A=B", "x": "1"},
                "remove": ("y",),
                "chat_template": "t.jinja",
                "force": True,
            },
        ),
        (
            "dev debug m -i in.json -A n --decode 2 -T 0.5",
            "debug",
            ("m",),
            {"against": "n", "input": "in.json", "decode": 2, "tolerance": 0.5, "device": "auto"},
        ),
        (
            "model validate m",
            "validate",
            ("m",),
            {"check_weights": True, "check_quantization": True, **NO_RECEIPT},
        ),
        (
            "model validate -i m --check-weights",
            "validate",
            ("m",),
            {"check_weights": True, "check_quantization": False, **NO_RECEIPT},
        ),
        (
            "model validate m --receipt r.json --source s --no-probe --jobs 2",
            "validate",
            ("m",),
            {
                "check_weights": False,
                "check_quantization": False,
                "receipt": "r.json",
                "source": "s",
                "probe": False,
                "text": None,
                "calibration": None,
                "jobs": 2,
            },
        ),
        (
            "model create --shape s -o o --layers 2 --seed 5 --defect a --defect b",
            "create",
            (),
            {
                "shape": "s",
                "output": "o",
                "format": None,
                "encoding": None,
                "layers": 2,
                "vocab_size": None,
                "seed": 5,
                "defects": ("a", "b"),
                "force": False,
            },
        ),
        ("model list-architectures", "list_architectures", (), {}),
        (
            "model export --input m --output m.onnx --optimize-for inference --allow x.y --force",
            "export_model",
            (),
            {
                "source": "m",
                "output": "m.onnx",
                "optimize_for": "inference",
                "allow": ("x.y",),
                "probe": True,
                "force": True,
            },
        ),
        (
            "train start --config training.yaml --resume-from runs/first",
            "train_start",
            (),
            {
                "config": "training.yaml",
                "output": None,
                "resume_from": "runs/first",
                "keep_compiled": True,
            },
        ),
        (
            "quant train --config t.yaml --model-path model.hf --output-dir ./outputs",
            "train_qat",
            (),
            {
                "model": "model.hf",
                "config": "t.yaml",
                "output": "./outputs",
                "precision": "1.58",
                "resume_from": None,
                "keep_compiled": True,
            },
        ),
        (
            "bench run --model model.bitnet --device auto --batch-sizes 1,4,8,16",
            "bench_run",
            ("model.bitnet",),
            {
                "device": "auto",
                "batch_sizes": (1, 4, 8, 16),
                "prompt_tokens": None,
                "decode_tokens": None,
                "count": None,
                "head": None,
                "kv": "float32",
                "layout": None,
                "threads": None,
                "probe_bytes": None,
            },
        ),
        (
            "bench run m -d cpu -b 2 --prompt-tokens 8 --decode-tokens 9 -n 3 --probe-mib 64",
            "bench_run",
            ("m",),
            {
                "device": "cpu",
                "batch_sizes": (2,),
                "prompt_tokens": 8,
                "decode_tokens": 9,
                "count": 3,
                "head": None,
                "kv": "float32",
                "layout": None,
                "threads": None,
                "probe_bytes": 64 << 20,
            },
        ),
        (
            "bench compare --models model1.bitnet,model2.hf --metrics latency,memory -n 4",
            "bench_compare",
            (("model1.bitnet", "model2.hf"),),
            {
                "runtimes": ("bitnet-jax",),
                "metrics": ("latency", "memory"),
                "batch_sizes": (1,),
                "prompt_tokens": 128,
                "decode_tokens": 32,
                "count": 4,
                "device": "auto",
                "head": None,
                "kv": "float32",
                "layout": None,
                "threads": None,
                "plugins": (),
            },
        ),
        (
            "bench profile --model model.bitnet --input-shape 4x512 --profile-memory --trace t",
            "bench_profile",
            ("model.bitnet",),
            {
                "input_shape": "4x512",
                "profile_memory": True,
                "profile_gpu": False,
                "trace_to": "t",
                "force": False,
                "device": "auto",
                "head": None,
                "kv": "float32",
                "layout": None,
                "threads": None,
            },
        ),
        (
            "bench validate --quick",
            "bench_validate",
            (),
            {"quick": True, "comprehensive": False, "device": "auto"},
        ),
        (
            "bench regression --baseline baseline.json --current-results results.json",
            "bench_regression",
            ("baseline.json", "results.json"),
            {},
        ),
        ("dev check --environment", "environment", (), {}),
        ("dev build --output DIR", "build_kernels", (), {"output": "DIR", "force": False}),
    ],
)
def test_what_is_asked_of_the_library_and_the_record_returned(
    bitnet, api, line, name, args, kwargs
):
    done = bitnet(*line.split(), "--json")
    assert done.rc == 0
    assert said(api, name) == (args, kwargs)
    assert done.envelope["data"] == RECORDS[name]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("model convert a -o b", "convert"),
        ("model create --shape s -o o", "create"),
        ("model export m -o m.onnx", "export_model"),
        ("model inspect m", "inspect"),
        ("model validate m", "validate"),
        ("bench run m", "bench_run"),
        ("bench compare a b", "bench_compare"),
        ("bench profile m", "bench_profile"),
        ("serve generate m hello", "load"),
        ("serve chat m hello", "load"),
        ("train qat -m m -c c", "train_qat"),
        ("train start -c c", "train_start"),
    ],
)
def test_offline_reaches_the_library_from_every_command_that_takes_a_model(bitnet, api, line, name):
    assert bitnet(*line.split(), "--offline").rc == 0
    assert api[name][1]["offline"] is True
    assert isinstance(api[name][1]["progress"], Progress)
    assert bitnet(*line.split()).rc == 0
    assert api[name][1]["offline"] is None  # as the environment says


def test_quickstart_says_whether_the_three_are_one_model_and_what_is_next(bitnet, api, monkeypatch):
    monkeypatch.setattr("sys.argv", [".venv/bin/bitnet"])
    monkeypatch.setenv("PATH", "")
    page = bitnet("quickstart").out
    assert "same weights              yes" in page
    assert "  .venv/bin/bitnet model inspect quickstart/model.bitnet\n" in page


def test_quickstart_shows_what_was_made_and_how(bitnet, api, fake_api):
    page = bitnet("quickstart").out
    for words in (
        "358,400 tokens",
        "avx2: the best that this processor has",
        "quickstart/model.bitnet, 1,234,567 bytes",
        "not installed: not checked",
        "after `def `\n  def f(x):\n      return x\n",
    ):
        assert words in page
    check = {"max_logit_difference": 2e-6, "top1_agreement": 1.0}
    fake_api(quickstart={**RECORDS["quickstart"], "transformers": check})
    page = bitnet("quickstart").out
    assert "reads the exported model: max logit difference 2e-06, top1 agreement 1" in page
    help_page = " ".join(bitnet("quickstart", "--help").out.split())
    assert "this machine's Python standard library" in help_page


def test_a_format_that_does_not_exist_is_told_with_those_that_do(bitnet, api):
    for line in ("model convert a -o b", "model create --shape s -o b"):
        wrong = bitnet(*line.split(), "--format", "ggml", "--json")
        assert wrong.rc == 2 and "known: bitnet, huggingface" in wrong.envelope["errors"][0]["hint"]


def test_the_formats_offered_are_those_that_are_written():
    from bitnet_jax.formats import save

    assert tuple(save.FORMATS) == FORMATS


def test_convert_shows_the_digests_and_the_scales_that_changed(bitnet, fake_api):
    changed = {"name": "q", "ulps": 3}
    other = {**DIGEST, "trits_scales": "cc" * 32}
    record = {**RECORDS["convert"], "digest_after": other, "scales_changed": [changed]}
    fake_api(convert=record)
    page = bitnet("model", "convert", "a", "-o", "b").out
    assert f"{DIGEST['trits']} (equal)" in page and "(DIFFERENT)" in page
    assert "ulps" in page


def test_export_shows_what_each_step_changed_and_that_nothing_was_measured(bitnet, fake_api, api):
    page = bitnet("model", "export", "m", "-o", "m.onnx").out
    assert "onnx (inference)" in page and "0.0297" in page and "onnxruntime 1.32.0" in page
    record = {**RECORDS["export_model"], "max_logit_difference": None, "runtime": None}
    fake_api(export_model=record, report_page=report_page)
    assert "not measured" in bitnet("model", "export", "m", "-o", "m.onnx").out


def test_inspect_shows_what_is_asked_and_keeps_the_whole_record(bitnet, api):
    summary = bitnet("model", "inspect", "m").out
    assert "architecture" in summary and "llama.cpp" in summary and "up_proj" not in summary
    layers = bitnet("model", "inspect", "m", "--show-layers").out
    assert "trits.zero" in layers and "0.25" in layers and "\nnorm" not in layers
    everything = bitnet("model", "inspect", "m", "--show-layers", "--show-parameters").out
    assert "\nnorm" in everything and "bfloat16" in everything
    assert len(bitnet("model", "inspect", "m", "--json").envelope["data"]["layers"]) == 2
    printed = bitnet("model", "inspect", "m", "--show-layers", "--export-json").out
    assert json.loads(printed) == RECORDS["inspect"]
    assert bitnet("model", "inspect", "m", "--emit", "csv").out.startswith("name,shape,")


def test_inspect_takes_runs_in_as_a_mapping_too(bitnet, fake_api):
    fake_api(inspect={**RECORDS["inspect"], "runs_in": {"us": {"how": "exactly"}, "x": "refused"}})
    page = bitnet("model", "inspect", "m").out
    assert "exactly" in page and "refused" in page


def test_validate_exits_with_one_for_an_error_only(bitnet, fake_api):
    finding = {"code": "weights.nan", "severity": "warning", "tensor": "q", "fix": "do x"}
    fake_api(validate={"findings": [finding]})
    done = bitnet("model", "validate", "m")
    assert done.rc == 0 and "do x" in done.out
    fake_api(validate={"findings": [finding, {**finding, "severity": "error"}]})
    done = bitnet("model", "validate", "m", "--json")
    assert done.rc == done.envelope["exit_code"] == 1 and not done.envelope["ok"]
    assert len(done.envelope["data"]["findings"]) == 2
    assert "weights.nan" in done.envelope["errors"][0]["message"]


def test_a_library_error_reaches_the_envelope(bitnet, fake_api):
    def refuse(path, **reach):
        raise BadData("model.lfs_pointer", "`m` is a Git LFS pointer", "git lfs pull")

    fake_api(inspect=refuse)
    done = bitnet("model", "inspect", "m", "--json")
    assert done.rc == 65
    assert done.envelope["errors"] == [
        {
            "code": "model.lfs_pointer",
            "message": "`m` is a Git LFS pointer",
            "hint": "git lfs pull",
        }
    ]


def test_a_library_warning_is_said_and_kept(bitnet, fake_api):
    fake_api(inspect={**RECORDS["inspect"], "warnings": ["odd scale"]})
    assert "warning: odd scale" in bitnet("model", "inspect", "m").err
    assert bitnet("model", "inspect", "m", "--json").envelope["warnings"] == ["odd scale"]


# ------------------------------------------------------------------------------ generate


def test_generate_streams_the_text_and_talks_elsewhere(bitnet, api, model):
    done = bitnet("generate", "m", "--temperature", "0", "a prompt", "--stop", "x", "-n", "5")
    assert done.out == "afteraprompt\n"  # the pieces as they came
    assert "3 tokens, 12.5 tokens/s, kernel reference" in done.err
    assert model.calls == [
        (
            "a prompt",
            {
                "max_tokens": 5,
                "temperature": 0.0,
                "top_k": 0,
                "top_p": 1.0,
                "min_p": 0.0,
                "seed": 0,
                "stop": ("x",),
            },
        )
    ]


def test_generate_ends_the_line_of_text_before_it_tells_how_fast_it_was(bitnet, api):
    screen = bitnet("generate", "m", "a prompt", terminal=True).screen
    assert screen.startswith("afteraprompt\n3 tokens, 12.5 tokens/s")
    assert screen.endswith("kernel reference\n")


def test_generate_gives_the_record_to_machines(bitnet, api):
    done = bitnet("serve", "generate", "-m", "m", "--prompt", "p", "--json")
    assert done.envelope["command"] == "serve generate"
    assert done.envelope["data"]["text"] == "after p"
    lines = bitnet("generate", "m", "p", "--emit", "jsonl").out.splitlines()
    assert [json.loads(line).get("text") for line in lines[:-1]] == ["after", "p"]


def test_generate_reads_the_prompt_from_stdin(bitnet, api, model):
    bitnet("generate", "m", "-", stdin="from a pipe\n")
    assert model.calls[0][0] == "from a pipe\n"


@pytest.mark.parametrize(
    "wrong",
    ["--temperature -1", "--temperature nan", "--top-p 2", "--top-p 0", "--max-tokens 0", "-s -1"],
)
def test_generate_refuses_a_value_that_means_nothing(bitnet, api, wrong):
    option, value = wrong.split()
    assert bitnet("generate", "m", "p", f"{option}={value}").rc == 2


# ---------------------------------------------------------------------------------- chat


def test_chat_takes_each_line_of_a_pipe_as_a_turn(bitnet, api, model):
    done = bitnet("chat", "m", "--system", "be brief", stdin="one\n\n/reset\ntwo\n/exit\nnever\n")
    assert done.rc == 0
    assert done.out == "heardone\nheardtwo\n"
    first, second = (call[0] for call in model.calls)
    assert first == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
    ]
    assert [m["content"] for m in second] == ["be brief", "two"]


def test_chat_remembers_the_talk_and_returns_it(bitnet, api, model):
    done = bitnet("chat", "m", "--json", stdin="one\ntwo\n")
    assert [m["content"] for m in model.calls[1][0]] == ["one", "heard one", "two"]
    assert len(done.envelope["data"]["messages"]) == 4
    assert [reply["text"] for reply in done.envelope["data"]["replies"]] == [
        "heard one",
        "heard two",
    ]


def test_chat_with_a_prompt_is_one_turn(bitnet, api):
    assert bitnet("chat", "m", "hello").out == "heardhello\n"


def test_chat_with_the_prompt_reset_ends(bitnet, api, model):
    done = bitnet("chat", "m", "--prompt", "/reset", "--json")
    assert done.rc == 0 and model.calls == []
    assert done.envelope["data"] == {"messages": [], "replies": []}


def test_chat_prompts_a_person_and_not_with_no_input(bitnet, api):
    done = bitnet("chat", "m", terminal=True, stdin="hi\n")
    assert done.err.count("you> ") == 2 and "you>" not in done.out
    assert bitnet("chat", "m", "--no-input", terminal=True, stdin="hi\n").rc == 2


def test_chat_whose_context_is_full_keeps_what_was_said(bitnet, api, model, monkeypatch):
    heard = model.chat

    def chat(messages, **options):
        if len(messages) > 4:
            raise UsageError("tokens.context_length", "the context is full")
        return heard(messages, **options)

    monkeypatch.setattr(model, "chat", chat)
    done = bitnet("chat", "m", "--json", stdin="one\ntwo\nthree\nfour\n")
    assert done.rc == 2 and done.envelope["errors"][0]["code"] == "tokens.context_length"
    said = [message["content"] for message in done.envelope["data"]["messages"]]
    assert said == ["one", "heard one", "two", "heard two"]
    assert [reply["text"] for reply in done.envelope["data"]["replies"]] == said[1::2]
    assert bitnet("chat", "m", stdin="one\ntwo\nthree\n").out == "heardone\nheardtwo\n"


def test_records_may_be_objects(bitnet, fake_api):
    from dataclasses import dataclass

    @dataclass
    class Record:
        findings: tuple

    fake_api(validate=Record(findings=()))
    assert bitnet("model", "validate", "m", "--json").envelope["data"] == {"findings": []}


def test_how_a_model_is_held_is_what_the_library_knows():
    from bitnet_jax.quant.cache_rows import CACHES
    from bitnet_jax.quant.layouts import LAYOUTS_OF
    from bitnet_jax.runtime.resident import HEADS

    fields = {field.name: field for field in dataclasses.fields(EngineArgs)}
    assert fields["head"].metadata["choices"] == HEADS
    assert fields["layout"].metadata["choices"] == tuple(LAYOUTS_OF["ternary"])
    assert fields["kv"].metadata["choices"] == tuple(CACHES)
