"""Every command line that this program promises, word for word, as data.

A line stays here for good: scripts are written from it. The registry tells which of their
commands are built; `WAITING` lists those that are refused all the same, for what they read.
"""

from __future__ import annotations

LINES = {
    "model": (
        "bitnet model convert --input model.safetensors --output model.bitnet --format bitnet",
        "bitnet model convert --input model.onnx --output model.hf --format huggingface",
        "bitnet model convert --input a.hf b.hf c.hf --output-dir converted",
        "bitnet model convert --manifest models.txt",
        "bitnet model export --input model.bitnet --output model.onnx --optimize-for inference",
        "bitnet model export --input model.bitnet --output model.onnx --optimize-for portable",
        "bitnet model export --input model.bitnet --output model.onnx --optimize-for size",
        "bitnet model export --input model.bitnet --output model.onnx --optimize-for accuracy",
        "bitnet model validate --input model.bitnet --check-weights --check-quantization",
        "bitnet model validate --input model.bitnet --receipt receipt.json --source model.hf",
        "bitnet model inspect --input model.bitnet --show-layers --show-parameters --export-json",
        "bitnet model compare --model1 original.hf --model2 quantized.bitnet "
        "--metrics accuracy,size,speed",
        "bitnet model create --shape bitnet-2b-4t --seed 0 --output random.hf",
        "bitnet model create --shape bitnet-2b-4t --layers 2 --defect nan -o random.hf",
        "bitnet model list-architectures",
        "bitnet model edit model.bitnet --output edited.bitnet --set general.name=Tiny",
        "bitnet model diff before.bitnet after.bitnet",
        "bitnet model publish model.hf hf://me/my-model",
        "bitnet model analyze --model model.hf",
        "bitnet model quantize --input model.hf --output model.bitnet",
    ),
    "quant": (
        "bitnet quant analyze --model model.hf --precision 1.58 --export-metrics metrics.json",
        "bitnet quant convert --input model.hf --output model.bitnet --precision 1.58 "
        "--qat-config config.yaml",
        "bitnet quant convert --input model.hf --output model.bitnet --precision 4",
        "bitnet quant convert --input model.hf --output model.bitnet --precision 6",
        "bitnet quant convert --input model.hf --output model.bitnet --precision 8",
        "bitnet quant convert --input a.hf b.hf --output-dir packed",
        "bitnet quant validate --model quantized.bitnet --reference original.hf --tolerance 0.03",
        "bitnet quant validate --model q.bitnet --reference o.hf --metric ppl",
        "bitnet quant validate --model q.bitnet --reference o.hf --metric kl",
        "bitnet quant validate --model q.bitnet --reference o.hf --metric logits",
        "bitnet quant validate --model q.bitnet --reference o.hf --metric top1",
        "bitnet quant train --config training.yaml --model-path model.hf --output-dir ./outputs",
        "bitnet quant optimize --model model.bitnet --dataset data.jsonl --optimize-for accuracy",
        "bitnet quant optimize --model model.bitnet --optimize-for size",
        "bitnet quant optimize --model model.bitnet --optimize-for speed",
    ),
    "bench": (
        "bitnet bench run --model model.bitnet --device auto --batch-sizes 1,4,8,16",
        "bitnet bench run --model a.bitnet b.bitnet --output-dir results",
        "bitnet bench compare --models model1.bitnet,model2.hf --metrics latency,throughput,memory",
        "bitnet bench profile --model model.bitnet --input-shape 512 --profile-memory "
        "--profile-gpu",
        "bitnet bench profile --model model.bitnet --input-shape 4x512",
        "bitnet bench validate --quick",
        "bitnet bench validate --comprehensive --output validation-report.html",
        "bitnet bench regression --baseline baseline.json --current-results results.json",
        "bitnet bench eval model.bitnet --tasks arc_easy,piqa",
    ),
    "serve": (
        "bitnet serve start --model model.bitnet --port 8080 --workers 4",
        "bitnet serve start --model model.bitnet --engines 2",
        "bitnet serve test --endpoint http://localhost:8080 --test-data test.jsonl",
        "bitnet serve batch --model model.bitnet --input batch_input.jsonl --output results.jsonl",
        "bitnet serve monitor --endpoint http://localhost:8080 --metrics latency,throughput,memory",
        "bitnet serve monitor --endpoint http://localhost:8080 --once --json",
        "bitnet serve chat --model model.bitnet",
        "bitnet serve generate --model model.bitnet --prompt hello",
        "bitnet chat model.bitnet",
        "bitnet generate model.bitnet hello",
    ),
    "train": (
        "bitnet train start --config training.yaml --resume-from checkpoint.pth",
        "bitnet train validate --config training.yaml --dry-run",
        "bitnet train validate --config training.yaml --dry-run --target v5e-64",
        "bitnet train monitor --run-id train_123 --metrics-port 6006",
        "bitnet train qat --model model.hf --precision 1.58 --config qat_config.yaml",
        "bitnet train sweep --config sweep.yaml --optimizer hyperopt --trials 50",
        "bitnet train sweep --config sweep.yaml --sampler tpe",
        "bitnet train sweep --config sweep.yaml --sampler random",
        "bitnet train sweep --config sweep.yaml --sampler grid",
        "bitnet train sweep --config sweep.yaml --sampler cmaes",
        "bitnet train list",
        "bitnet train resume train_123",
        "bitnet train export train_123 --format huggingface --output model.hf",
        "bitnet train launch --nproc 2 --config training.yaml",
        "bitnet train tokenize model.hf --input texts --output tokens",
    ),
    "dev": (
        "bitnet dev check --environment",
        "bitnet dev info",
        "bitnet dev init --template transformer --precision 1.58",
        "bitnet dev debug --model model.bitnet --input debug_input.json --verbose",
        "bitnet dev test --integration --devices cpu,metal,mlx",
        "bitnet dev test --devices cpu --require tpu",
        "bitnet dev validate --model model.bitnet --comprehensive --output report.html",
        "bitnet dev config",
        "bitnet dev profile",
        "bitnet dev workspace",
        "bitnet dev completion bash",
        "bitnet dev lsp",
        "bitnet dev build --output kernels",
        "bitnet dev install serve",
        "bitnet dev update --check",
    ),
    "": ("bitnet quickstart",),
}

# Lines of built commands whose input cannot be read yet.
WAITING = (
    "bitnet model convert --input model.onnx --output model.hf --format huggingface",
    "bitnet train start --config training.yaml --resume-from checkpoint.pth",
)

# Not commands, and promised as well.
PAGES = ("bitnet", "bitnet help exit-codes", "bitnet help digest", *(f"bitnet {g}" for g in LINES))
