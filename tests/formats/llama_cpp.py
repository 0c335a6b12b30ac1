"""The real llama.cpp (the wheel `xllamacpp`), in a process of its own: what it makes of a file.

`python -m tests.formats.llama_cpp` reads a request from stdin, answers on the last line of
stdout: log-probabilities of the next token after each prompt, ids of each text.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# The token that is made to come next, so that the answer is a whole character: `A`.
_CHOSEN = 32


def ask(
    files: Sequence[Path],
    *,
    prompts: Sequence[Sequence[int]] = (),
    texts: Sequence[str] = (),
    special: bool = False,
    timeout: int = 240,
) -> list[dict[str, Any]]:
    """One answer for each file: `logprobs` [prompts, vocab], `tokens`; or `error`.

    Args:
      special: special tokens in a text are such.
    """
    request = {"files": [str(f) for f in files], "prompts": [list(p) for p in prompts]}
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(request | {"texts": list(texts), "special": special}),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    return [
        answer | {"logprobs": np.array(answer["logprobs"])} if "logprobs" in answer else answer
        for answer in answers
    ]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, float64."""
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def _serve(path: str) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 256, 1, False, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def _logprobs(server: Any, prompt: list[int], size: int) -> list[float]:
    done = server.handle_completions(
        {
            "prompt": prompt, "n_predict": 1, "n_probs": size, "temperature": 0.0,
            "cache_prompt": False, "logit_bias": [[_CHOSEN, 1000]],
        }
    )  # fmt: skip
    (token,) = done["choices"][0]["logprobs"]["content"]
    found = {row["id"]: row["logprob"] for row in token["top_logprobs"]}
    return [found[id_] for id_ in range(size)]


def _tokens(server: Any, text: str, special: bool) -> list[int]:
    request = urllib.request.Request(
        server.listening_address + "/tokenize",
        data=json.dumps({"content": text, "add_special": True, "parse_special": special}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)["tokens"]


def _answer(request: dict[str, Any], path: str) -> dict[str, Any]:
    try:
        server = _serve(path)
    except RuntimeError as error:
        return {"error": str(error)}
    answer = {"tokens": [_tokens(server, text, request["special"]) for text in request["texts"]]}
    if request["prompts"]:
        answer["logprobs"] = [_logprobs(server, p, 512) for p in request["prompts"]]
    return answer


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print("\n" + json.dumps([_answer(asked, path) for path in asked["files"]]), flush=True)
