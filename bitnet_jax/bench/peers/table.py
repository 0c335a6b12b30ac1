"""The runtimes that `bench compare` can measure, as a table: which are here, what each reads.

Imports none of them: that happens in a process of its own (`child`).
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from bitnet_jax.core.errors import Unavailable, UsageError, did_you_mean

OURS = "bitnet-jax"
GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True)
class Runtime:
    """One row.

    Attributes:
      module: the file in this folder that runs it: `open_model(path, threads) -> Runner`.
      packages: what must be importable.
      install: the line that brings them.
      kinds: the kinds of model that it reads.
    """

    module: str
    packages: tuple[str, ...]
    install: str
    kinds: tuple[str, ...]


RUNTIMES: dict[str, Runtime] = {
    OURS: Runtime("ours", (), "", ("bitnet", "huggingface", "safetensors", "address")),
    "transformers": Runtime(
        "transformers",
        ("transformers", "torch"),
        "pip install transformers torch",
        ("huggingface",),
    ),
    # A wheel that was built elsewhere does not use this processor: no fair peer.
    "llama.cpp": Runtime(
        "llama_cpp",
        ("llama_cpp",),
        "CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python",
        ("gguf",),
    ),
    "onnxruntime": Runtime("onnxruntime", ("onnxruntime",), "pip install onnxruntime", ("onnx",)),
}


def runtime(name: str) -> Runtime:
    """Returns a row whose packages are here.

    Raises:
      UsageError: there is no such row (``bench.runtime_unknown``).
      Unavailable: a package is missing (``bench.runtime_missing``).
    """
    if name not in RUNTIMES:
        raise UsageError(
            "bench.runtime_unknown", f"there is no runtime `{name}`", did_you_mean(name, RUNTIMES)
        )
    row = RUNTIMES[name]
    missing = [package for package in row.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise Unavailable(
            "bench.runtime_missing",
            f"runtime `{name}` was asked for, and {', '.join(missing)} is not installed",
            row.install,
        )
    return row


def kind_of(model: str | os.PathLike) -> str:
    """What kind of model a name stands for, as far as choosing a runtime takes."""
    path = Path(model)
    if path.is_dir():
        return "huggingface"
    if not path.is_file():
        return "address"  # of a store, or an id: what cannot be found is told by who opens it
    with path.open("rb") as stream:
        if stream.read(len(GGUF_MAGIC)) == GGUF_MAGIC:
            return "gguf"
    # An ONNX file has no magic number; nothing else here is called so.
    return "onnx" if path.suffix.lower() == ".onnx" else "bitnet"


def pairs(models: list[str], names: list[str]) -> list[tuple[str, str]]:
    """Returns (model, runtime) for each pair that can run, in the order of the models.

    Raises:
      UsageError: a model or a runtime has no partner (``bench.no_partner``).
    """
    rows = {name: runtime(name) for name in dict.fromkeys(names)}
    found = [
        (model, name)
        for model in dict.fromkeys(models)
        for name, row in rows.items()
        if kind_of(model) in row.kinds
    ]
    for what, alone in (
        ("model", [m for m in models if m not in {pair[0] for pair in found}]),
        ("runtime", [n for n in rows if n not in {pair[1] for pair in found}]),
    ):
        if alone:
            reads = "; ".join(f"{name}: {', '.join(row.kinds)}" for name, row in rows.items())
            raise UsageError(
                "bench.no_partner",
                f"{what} `{alone[0]}` has no {'runtime' if what == 'model' else 'model'} among "
                f"those named that goes with it (what each reads: {reads})",
                "name a runtime that reads it: --runtimes " + ",".join(RUNTIMES),
            )
    return found
