"""Small models for GGUF files, and the same files read by plain numpy, without our reader."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.formats.checkpoint import Checkpoint, Source, checkpoint_of
from bitnet_jax.formats.create_tokenizer import make_tokenizer
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.families import family_of
from bitnet_jax.models.gguf import Gguf
from bitnet_jax.models.names import expected
from bitnet_jax.quant.ternary import from_trits
from tests.tiny import tiny_of, tiny_spec

IDS: dict[str, Any] = {
    "vocab_size": 512, "bos_token_id": 256, "eos_token_ids": (257, 265), "max_positions": 256,
    "rope_theta": 10000.0,
}  # fmt: skip
# As small as blocks of 256 allow.
WIDE: dict[str, Any] = IDS | {
    "hidden_size": 256, "intermediate_size": 512, "num_heads": 4, "num_kv_heads": 2,
    "head_dim": 64,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_factor": 8.0, "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0, "rope_original_positions": 32,
}  # fmt: skip


def wide(layers: int = 1, **changes: Any) -> ModelSpec:
    """A BitNet of 256 columns."""
    return tiny_spec(**WIDE | {"num_layers": layers} | changes)


def wide_llama(layers: int = 1, extra: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    """A Llama of 256 columns."""
    return tiny_of("llama", **WIDE | {"num_layers": layers} | changes, extra=extra or {})


def gemma(family: str, extra: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    """A Gemma of 256 columns that llama.cpp can have."""
    own = {"query_pre_attn_scalar": 64} if family == "gemma3" else {}
    return tiny_of(
        family,
        **WIDE | {"activation": "gelu_tanh", "tie_embeddings": True} | changes,
        extra=own | (extra or {}),
    )


def model(
    spec: ModelSpec,
    *,
    awkward: bool = False,
    scale_kind: str = "tensor",
    group_size: int = 0,
    dtype: str = "float32",
    seed: int = 0,
) -> Checkpoint:
    """Random trits and floats; scales that a float16 holds, or (`awkward`) that it does not."""
    rng = np.random.default_rng(seed)
    params: dict[str, Any] = {}
    row = family_of(spec.family).gguf or Gguf(architecture="")
    for name, item in expected(spec).items():
        if item.ternary:
            out, width = item.shape
            shape = {"tensor": (), "row": (out,), "group": (out, width // (group_size or 1))}
            scale = rng.uniform(0.02, 0.06, shape[scale_kind])
            scale = np.float32(scale) if awkward else np.round(scale * 4096) / np.float32(4096)
            trits = rng.integers(-1, 2, item.shape).astype(np.int8)
            params[name] = from_trits(
                trits, np.asarray(scale, np.float32), scale_kind=scale_kind,
                group_size=group_size, dtype=dtype,
                scale_dtype="float32" if awkward else "float16",
            )  # fmt: skip
        elif len(item.shape) == 1:
            around = 0 if name.endswith("bias") else 1 - row.offset(name)
            params[name] = (around + 0.2 * rng.standard_normal(item.shape)).astype(dtype)
        else:
            params[name] = (0.02 * rng.standard_normal(item.shape)).astype(dtype)
    return checkpoint_of(
        spec, params, make_tokenizer(spec), Source(Path("memory"), "memory", "packed")
    )


def floats(checkpoint: Checkpoint) -> Checkpoint:
    """The same weights as plain floats: a model that quantizes no activation."""
    entries = {}
    for name, entry in checkpoint.entries.items():
        if entry.ternary:
            value = np.asarray(entry.read().dequantize())
            entry = dataclasses.replace(
                entry, ternary=False, dtype=str(value.dtype), read=lambda value=value: value
            )
        entries[name] = entry
    return dataclasses.replace(checkpoint, entries=entries)


# ------------------------------------------------------------- the file, read by itself
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 14: (256, 210), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 36: (128, 32),
}  # fmt: skip
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}  # fmt: skip


def raw_file(data: bytes) -> tuple[dict[str, Any], dict[str, tuple[int, tuple, np.ndarray]]]:
    """Keys, and tensors as (type, shape, bytes): the layout of the format's specification."""
    at = 24
    count, keys = struct.unpack_from("<QQ", data, 8)

    def take(form: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value

    def value(kind: int) -> Any:
        nonlocal at
        if kind == 8:
            size = take("Q")
            at += size
            return data[at - size : at].decode()
        if kind == 9:
            inner, length = take("I"), take("Q")
            return [value(inner) for _ in range(length)]
        return take(_NUMBERS[kind])

    metadata = {value(8): value(take("I")) for _ in range(keys)}
    rows = []
    for _ in range(count):
        name, rank = value(8), take("I")
        shape = tuple(take("Q") for _ in range(rank))[::-1]
        rows.append((name, shape, take("I"), take("Q")))
    start = at + -at % 32
    found = {}
    for name, shape, kind, offset in rows:
        block, size = _BLOCKS[kind]
        nbytes = int(np.prod(shape)) // block * size + 32 * (kind == 36)
        found[name] = kind, shape, np.frombuffer(data, np.uint8, nbytes, start + offset)
    return metadata, found


def raw_trits(kind: int, shape: tuple, data: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Trits and the one scale of a tensor, by the formulas of its type."""
    if kind == 36:
        pairs = data[:-32].reshape(-1, 1, 32) >> np.array([[6], [4], [2], [0]], np.uint8) & 3
        return pairs.reshape(shape).astype(int) - 1, data[-32:-28].copy().view("<f4")[0]
    if kind == 35:
        blocks = data.reshape(-1, 66)
        pairs = blocks[:, :64].reshape(-1, 2, 1, 32) >> np.array([[0], [2], [4], [6]]) & 3
        d = blocks[:, 64:].copy().view("<f2")
        return pairs.reshape(shape).astype(int) - 1, np.float32(d.max())
    if kind == 34:
        blocks = data.reshape(-1, 54)
        digits = [(blocks[:, :52].astype(int) * 3**n % 256 * 3 >> 8) - 1 for n in range(5)]
        parts = [np.concatenate([d[:, at:to] for d in digits[:most]], axis=1)
                 for at, to, most in ((0, 32, 5), (32, 48, 5), (48, 52, 4))]  # fmt: skip
        d = blocks[:, 52:].copy().view("<f2")
        return np.concatenate(parts, axis=1).reshape(shape), np.float32(d.max())
    width = {0: "<f4", 1: "<f2"}.get(kind)
    bits = data.view("<u2").astype("<u4") << 16 if width is None else data.view(width)
    values = (bits.view("<f4") if width is None else bits).astype("<f4").reshape(shape)
    return np.sign(values).astype(int), np.abs(values).max()


def raw_digests(data: bytes, names: dict[str, str]) -> tuple[str, str]:
    """Both digests straight from the bytes; `names` are the ternary tensors, ours to theirs."""
    _, tensors = raw_file(data)
    trits, scales = hashlib.sha256(b"bitnet-trits/1\n"), b""
    for name in sorted(names):
        kind, shape, blocks = tensors[names[name]]
        matrix, scale = raw_trits(kind, shape, blocks)
        outer = tensors.get(names[name].replace(".weight", ".scale"))
        scale = scale * (outer[2].copy().view("<f4")[0] if outer else np.float32(1))
        codes = (matrix.reshape(-1, 4) + 1).astype(np.uint8)
        trits.update(name.encode() + b"\0" + ",".join(map(str, shape)).encode() + b"\n")
        trits.update(bytes(codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6))
        scales += name.encode() + b"\0tensor\0\n" + np.float32(scale).tobytes()
    both = hashlib.sha256(b"bitnet-trits-scales/1\n" + trits.digest() + scales)
    return trits.hexdigest(), both.hexdigest()
