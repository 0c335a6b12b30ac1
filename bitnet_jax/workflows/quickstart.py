"""The main job, end to end: text, tokenizer, training, packing, proof, export, generation.

Every step is the function that its own command calls; nothing here computes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.analysis.inspect import stored_bits
from bitnet_jax.compiler.kept import keep_xla
from bitnet_jax.core.errors import CannotCreate, CheckFailed
from bitnet_jax.core.paths import atomic_file, make_folder, owned, resolve_target
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.runtime.model import Model, load
from bitnet_jax.stores.address import require_local
from bitnet_jax.train.config import TrainConfig, parse_config
from bitnet_jax.train.data import heldout_windows
from bitnet_jax.workflows.parity import Parity, compare_logits
from bitnet_jax.workflows.receipt import prove
from bitnet_jax.workflows.train import (
    MODEL_FILE,
    RECEIPT_FILE,
    fit,
    packed_checkpoint,
    prepare_scratch,
)

# Held-out windows whose logits are compared; short rows, for the median's sake
# (docs/decisions/0002: one flipped code reaches the rest of its row).
PARITY_ROWS, PARITY_LENGTH = 16, 64
SAMPLE_TOKENS = 96
PROMPT = "def "


def recipe(minutes: float | None = None, seed: int = 0) -> TrainConfig:
    """The quickstart's recipe, for a budget of `minutes` of training.

    Raises:
      ConfigError: `minutes` or `seed` is what no recipe may say (``train.config_value``).
    """
    text = (resources.files("bitnet_jax.workflows") / "quickstart.yaml").read_text("utf-8")
    config = parse_config(text, "quickstart.yaml")
    minutes = config.minutes if minutes is None else minutes
    return replace(config, minutes=minutes, seed=seed).validate()


def quickstart(
    output: str | os.PathLike = "quickstart",
    minutes: float | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Any = None,
    config: TrainConfig | None = None,
    keep_compiled: bool = False,
) -> dict[str, Any]:
    """Makes a small ternary language model from this machine's own text, and proves it.

    Args:
      output: folder for the run, the packed model and the Hugging Face directory.
      minutes: budget of the training alone; the recipe's if None.
      config: a recipe to use instead of the built-in one (tests).
      keep_compiled: as `train_start` takes it.

    Raises:
      CannotCreate: `output` or ``<output>.previous`` exists, and `force` is false; or is
        nothing that quickstart made. With `force`, the earlier run is kept as the latter
        until the new one is whole.
      CheckFailed: the receipt does not hold.
      Resumable: stopped by SIGTERM.
    """
    require_local(output, "quickstart's folder", "write to a local folder")
    chosen = config or recipe(minutes, seed)
    keep_xla(keep_compiled)
    make_folder(Path(output).absolute().parent)
    with owned(Path(output)):
        earlier = _fresh_folder(Path(output), force)
        record = _quickstart(Path(output), chosen, seed, progress)
        if earlier is not None:
            shutil.rmtree(earlier, ignore_errors=True)
        return record


def _quickstart(folder: Path, chosen: TrainConfig, seed: int, progress: Any) -> dict[str, Any]:
    started = time.monotonic()
    with _task(progress, "reading this machine's text, training the tokenizer"):
        prepared = prepare_scratch(chosen)
    result = fit(chosen, prepared, run_dir=folder, progress=progress)
    params = result.state.params

    with _task(progress, "packing"):
        file = folder / MODEL_FILE
        save_checkpoint(packed_checkpoint(params, prepared), file, format="bitnet", force=True)
        model = load(file)
    with _task(progress, "proving: training = file = kernel"):
        rows = heldout_windows(prepared.data.heldout, PARITY_LENGTH, PARITY_ROWS)[:, :-1]
        receipt = prove(params, prepared.spec, file, model, rows)
    with _task(progress, "writing the Hugging Face directory, reading it back"):
        directory = folder / "huggingface"
        exported = _export(file, directory, receipt.file)
        in_transformers = _check_transformers(directory, model, rows)
    with _task(progress, "generating"):
        # Greedy text of so small a model runs in circles; drawn text shows what it knows.
        draw: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "seed": seed}
        model.generate(PROMPT, max_tokens=8, **draw)  # compiles
        sample = model.generate(PROMPT, max_tokens=SAMPLE_TOKENS, **draw)

    packed = model.packed.ternary().values()
    weights = sum(int(np.prod(tensor.shape)) for tensor in packed)
    record = {
        **receipt.to_json(),
        **result.record(),
        "parameters": sum(int(np.prod(v.shape)) for v in params.values()),
        "ternary_parameters": weights,
        "bits_per_weight": stored_bits(open_checkpoint(file)),
        "file_bytes": file.stat().st_size,
        "decode_tokens_per_second": sample.decode_tokens_per_second,
        "kernel": sample.kernel,
        "kernel_reason": sample.kernel_reason,
        "prompt": PROMPT,
        "text": sample.text,
        "transformers": in_transformers,
        "corpus": prepared.corpus.report(),
        "files": [str(file), *exported],
        "seconds_total": time.monotonic() - started,
    }
    with atomic_file(folder / RECEIPT_FILE) as stream:
        stream.write(json.dumps({"schema": "bitnet/1", **record}, indent=2).encode() + b"\n")
    record["files"].append(str(folder / RECEIPT_FILE))
    receipt.require()
    return record


def _export(file: Path, directory: Path, wanted: Any) -> list[str]:
    saved = save_checkpoint(open_checkpoint(file), directory, format="huggingface", force=True)
    found = open_checkpoint(directory).digest()
    if found != wanted:
        raise CheckFailed(
            "receipt.huggingface",
            f"`{directory}` reads back as {found.trits[:16]}, the model is {wanted.trits[:16]}",
            "this is a bug: please report it",
        )
    return [str(path) for path in saved.outputs]


def _check_transformers(directory: Path, model: Model, tokens: np.ndarray) -> dict[str, Any] | None:
    """Logits of the exported directory in `transformers`; None where it is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("transformers", "torch")):
        return None
    # Its quantizers are compiled at first use otherwise: half a minute, and needs a compiler.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        reference = theirs(torch.as_tensor(np.asarray(tokens, np.int64))).logits.numpy()
    parity: Parity = compare_logits(reference, model.logits(tokens))
    return {
        "max_logit_difference": parity.max_logit_difference,
        "median_logit_difference": parity.median_logit_difference,
        "top1_agreement": parity.top1_agreement,
    }


def _fresh_folder(folder: Path, force: bool) -> Path | None:
    """Makes `folder` empty; returns the earlier run that may go once the new one is whole."""
    folder = resolve_target(folder)  # a link stays one; what it leads to is replaced
    previous = _previous(folder)
    used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    for path, there in ((folder, used), (previous, os.path.lexists(previous))):
        if there and not force:
            raise CannotCreate(
                "io.exists", f"`{path}` exists", "choose another --output, or pass --force"
            )
        if there:
            _check_ours(path)
    if used:
        # It stands beside the new one until that is whole: an interrupted run loses nothing. Nor
        # does the one after it: what was interrupted does not take a whole one's place.
        if previous.exists() and not (folder / RECEIPT_FILE).exists():
            shutil.rmtree(folder)
        else:
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
    make_folder(folder)
    # Looked at now: what is put there while the new one is made is not ours.
    return previous if previous.exists() else None


def _check_ours(folder: Path) -> None:
    """--force replaces an earlier quickstart, never somebody's folder."""
    ours = any((folder / name).is_file() for name in (RECEIPT_FILE, "metrics.jsonl"))
    if not ours or folder.is_symlink():  # what a link leads to is somebody's, and stays there
        raise CannotCreate(
            "quickstart.not_ours",
            f"`{folder}` was not made by quickstart; it is left alone",
            "choose another --output",
        )


def _previous(folder: Path) -> Path:
    return folder.with_name(folder.name + ".previous")


@contextlib.contextmanager
def _task(progress: Any, label: str) -> Iterator[None]:
    if progress is None:
        yield
        return
    with progress.task(label, 1, "step") as task:
        yield
        task.update(1)
