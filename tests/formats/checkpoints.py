"""Small `transformers` directories made by hand, without our writer."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy

from bitnet_jax.formats.shapes import shape
from bitnet_jax.models.names import expected

TINY = shape("tiny", layers=1)
BF16 = ml_dtypes.bfloat16

OLD = {"rope_theta": 10000.0, "torch_dtype": "bfloat16"}
NEW = {
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "dtype": "bfloat16",
}


def config(spec=TINY, quantization=None, **changes) -> dict:
    """A config.json of `spec`, spelled new unless `changes` hold OLD."""
    base = {
        "architectures": ["BitNetForCausalLM"],
        "model_type": "bitnet",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "max_position_embeddings": 256,
        "hidden_act": "relu2",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": spec.tie_embeddings,
        "bos_token_id": spec.bos_token_id,
        "eos_token_id": spec.eos_token_ids[0],
        **(NEW if "rope_theta" not in changes else {}),
        **changes,
    }
    if quantization is not None:
        base["quantization_config"] = {"quant_method": "bitnet", **quantization}
    return base


ONLINE = {"linear_class": "autobitlinear", "quantization_mode": "online"}
AUTO = {"linear_class": "autobitlinear", "quantization_mode": "offline"}
BIT = {"linear_class": "bitlinear", "quantization_mode": "offline"}


def trits_of(shape_, rng) -> np.ndarray:
    return rng.integers(-1, 2, shape_).astype(np.int8)


def hf_pack(trits: np.ndarray) -> np.ndarray:
    """As transformers' pack_weights: rows beyond the matrix are zero bits."""
    rows = -(-trits.shape[0] // 4)
    codes = np.zeros((4 * rows, trits.shape[1]), np.uint8)
    codes[: len(trits)] = trits + 1
    return sum(codes[i * rows : (i + 1) * rows] << (2 * i) for i in range(4)).astype(np.uint8)


def tensors(spec=TINY, form="auto", dtype=BF16, seed=0):
    """(HF tensors, {canonical: trits}, {canonical: scale}) of a random model.

    form: auto, bit (packed), master (normal weights), dequantized ({-c, 0, c}).
    """
    rng = np.random.default_rng(seed)
    out, trits, scales = {}, {}, {}
    for name, item in expected(spec).items():
        if not item.ternary:
            out[item.huggingface] = rng.standard_normal(item.shape).astype(dtype)
            continue
        t = trits_of(item.shape, rng)
        s = np.float32(rng.uniform(0.5, 2)).astype(BF16).astype(np.float32)
        if form == "master":
            w = (rng.standard_normal(item.shape) * 0.02).astype(dtype)
            s = np.float32(np.abs(w.astype(np.float64)).mean())
            t = np.clip(np.rint(w.astype(np.float32) / s), -1, 1).astype(np.int8)
            out[item.huggingface] = w
        elif form == "dequantized":
            out[item.huggingface] = (t * s).astype(dtype)
        else:
            out[item.huggingface] = hf_pack(t)
            stored = s if form == "auto" else np.float32(1) / s
            out[item.huggingface + "_scale"] = np.array([stored]).astype(dtype)
            if form == "bit":
                s = np.float32(1) / np.float32(np.array(stored).astype(dtype))
        trits[name], scales[name] = t, s
    return out, trits, scales


def write(folder: Path, data: dict, conf: dict, shards: int = 1) -> Path:
    """Writes the directory, in `shards` files."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(conf))
    if shards == 1:
        safetensors.numpy.save_file(data, folder / "model.safetensors", {"format": "pt"})
        return folder
    names = sorted(data)
    weight_map = {}
    for n in range(shards):
        file = f"model-{n + 1:05}-of-{shards:05}.safetensors"
        part = names[n::shards]
        safetensors.numpy.save_file({k: data[k] for k in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
