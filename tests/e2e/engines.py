"""The engines that models are loaded into, asked with a file: logits, or why it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.formats.llama_cpp import ask

PROMPT = [int(t) for t in np.random.default_rng(7).integers(0, 250, 11)]


def log_softmax(logits: Any) -> np.ndarray:
    x = np.asarray(logits, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def transformers(path: Path, dtype: str = "float32") -> np.ndarray | str:
    """Log-probabilities at each position, float64 [length, vocab]; or the error's words."""
    import torch
    from transformers import AutoModelForCausalLM

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(path)}
    if path.is_file():
        where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        if path.suffix != ".gguf":
            where = {"pretrained_model_name_or_path": str(path)}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=getattr(torch, dtype), local_files_only=True
        ).eval()
        with torch.no_grad():
            logits = model(torch.tensor([PROMPT])).logits[0].float().numpy()
    # Whatever it says: that it refuses is what is asked.
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    return log_softmax(logits)


def llama_cpp(paths: list[Path]) -> list[np.ndarray | str]:
    """The same of each file by the real llama.cpp, of the last position alone: [1, vocab]."""
    answers = ask(paths, prompts=[PROMPT])
    return [a["error"] if "error" in a else log_softmax(a["logprobs"]) for a in answers]


def onnxruntime(path: Path) -> str | None:
    """Why ONNX Runtime does not take the file; None where it does."""
    import onnxruntime as ort

    try:
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    return None
