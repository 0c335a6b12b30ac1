"""The 2B4T shape in this engine and in llama.cpp and transformers, taking turns in one run.

Makes the peers' models first, each as its own tools write it, with random weights: a GGUF file of
a Llama of this shape, every matrix TQ2_0 and the embedding Q6_K, by `gguf`; and a Llama of this
shape in dense bfloat16, by `transformers`. (llama.cpp has no BitNet 2B4T; the shapes of all
products are the same, sub-norms and the squared ReLU are left out, which costs the peers nothing.)

    python benchmarks/peers.py FOLDER model.bitnet [--rounds 8] [--skip-dense]
        [--skip-prefill] [--output results/peers.json]

Needs: pip install torch==2.13.0 transformers gguf, and llama.cpp built for this machine:
CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ternary_matmul import machine

import bitnet_jax as bj

HIDDEN, INNER, LAYERS, VOCABULARY = 2560, 6912, 30, 128_256
HEADS, KV_HEADS, WIDTH = 20, 5, 128


def gguf_file(path: Path) -> Path:
    """A Llama of the 2B4T shape in TQ2_0, its tied embedding in Q6_K."""
    import gguf

    if path.exists():
        return path
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    rng = np.random.default_rng(0)
    ones = np.ones(HIDDEN, np.float32)

    def quantized(name: str, rows: int, columns: int, kind: str) -> None:
        if kind == "TQ2_0":
            trits = rng.integers(-1, 2, (rows, columns)).astype(np.float32) / np.float32(50)
            packed = gguf.quants.quantize(trits, gguf.GGMLQuantizationType.TQ2_0)
        else:  # 210 bytes for 256 weights; any bits are legal but those of the half-float scale
            packed = rng.integers(0, 256, (rows, columns // 256, 210)).astype(np.uint8)
            packed[..., 208:] = np.frombuffer(np.float16(1e-4).tobytes(), np.uint8)
            packed = packed.reshape(rows, -1)
        kinds = gguf.GGMLQuantizationType
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=getattr(kinds, kind))

    quantized("token_embd", VOCABULARY, HIDDEN, "Q6_K")
    writer.add_tensor("output_norm.weight", ones)
    kv = KV_HEADS * WIDTH
    matrices = {
        "attn_q": (HIDDEN, HIDDEN), "attn_k": (kv, HIDDEN), "attn_v": (kv, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN),
        "ffn_down": (HIDDEN, INNER),
    }  # fmt: skip
    for layer in range(LAYERS):
        for name, (rows, columns) in matrices.items():
            quantized(f"blk.{layer}.{name}", rows, columns, "TQ2_0")
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", ones)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dense_folder(path: Path) -> Path:
    """A Llama of the 2B4T shape in dense bfloat16."""
    import torch
    import transformers

    if (path / "config.json").exists():
        return path
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=WIDTH,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
    )
    torch.set_default_dtype(torch.bfloat16)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(path)
    return path


def told(rows: list[dict]) -> None:
    for row in rows:
        speed = row["tokens_per_second"]
        print(
            f"{row['phase']:8} batch {row['batch']:2} {row['name'][-40:]:40} "
            f"{speed['median']:8.1f} tokens/s [{speed['low']:.1f}, {speed['high']:.1f}]  "
            f"{row['speedup']:.2f} of the first",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--skip-dense", action="store_true")
    parser.add_argument("--skip-prefill", action="store_true")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    peer = str(gguf_file(args.folder / "llama-tq2_0.gguf"))
    runs = {}
    for layout in ("t2.16x16", "t1.16x20"):
        asked = {"head": "int6", "layout": layout, "count": args.rounds}
        for name, more in {
            "decode": {"batch_sizes": (1, 8), "prompt_tokens": 16, "decode_tokens": 32},
            "prefill": {"batch_sizes": (1,), "prompt_tokens": 512, "decode_tokens": 2},
        }.items():
            if name == "prefill" and args.skip_prefill:
                continue
            found = bj.bench_compare(
                [peer, args.model], runtimes=["llama.cpp", "bitnet-jax"], **asked, **more
            )
            runs[f"{name}, {layout}, llama.cpp"] = found
            told([row for row in found["results"] if row["phase"] == name])
    if not args.skip_dense:
        dense = str(dense_folder(args.folder / "dense"))
        found = bj.bench_compare(
            [dense, args.model],
            runtimes=["transformers", "bitnet-jax"],
            head="int6",
            count=max(args.rounds // 2, 3),
            prompt_tokens=512,
            decode_tokens=8,
        )
        runs["dense"] = found
        told(found["results"])
    record = {
        "what": "2B4T shape, peers and this engine taking turns",
        "method": "benchmarks/peers.py",
        "machine": machine(),
        "runs": runs,
    }
    if args.output:
        text = json.dumps(record, indent=1)
        for place in (args.folder, Path(args.model).parent):  # where they lay is nobody's matter
            text = text.replace(f"{place}/", "")
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
