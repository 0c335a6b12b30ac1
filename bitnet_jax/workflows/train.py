"""Training runs: recipe and data in, a run folder with a packed model out.

The loop that quickstart uses, for `train start` (from scratch) and `train qat`
(from a checkpoint's float weights).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.compiler.kept import keep_xla
from bitnet_jax.core.errors import BadData, CannotCreate, ConfigError, UsageError
from bitnet_jax.core.memory import check_room_to_compile
from bitnet_jax.core.paths import atomic_file, make_folder, owned
from bitnet_jax.formats.checkpoint import (
    Checkpoint,
    Source,
    TokenizerFiles,
    checkpoint_of,
)
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.formats.tokenizer_files import to_files
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.families import FAMILIES, family_for, family_of, fresh_params
from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.transform import ternarize
from bitnet_jax.quant.rules import Rule
from bitnet_jax.stores.address import parse, require_local
from bitnet_jax.stores.store import Reach
from bitnet_jax.stores.table import bring
from bitnet_jax.train.checkpoint import list_steps
from bitnet_jax.train.checkpoint import resolve as resolve_checkpoint
from bitnet_jax.train.config import DataConfig, TrainConfig, dump_config, load_config
from bitnet_jax.train.corpus import TEXT_SUFFIXES, Corpus, python_corpus, read_files
from bitnet_jax.train.loop import TrainData, TrainResult, train
from bitnet_jax.train.signals import stop_on_signals
from bitnet_jax.train.tokenizer import TrainedTokenizer, encode_documents, train_tokenizer

MODEL_FILE = "model.bitnet"
RECEIPT_FILE = "receipt.json"


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs before its first step."""

    spec: ModelSpec
    params: dict[str, Any]
    data: TrainData
    tokenizer: TokenizerFiles
    corpus: Corpus
    rules: tuple[Rule, ...]
    source: Mapping[str, Any] | None = None


def train_start(
    config: str | os.PathLike,
    output: str | os.PathLike | None = None,
    resume_from: str | os.PathLike | None = None,
    offline: bool | None = None,
    keep_compiled: bool = False,
    progress: Any = None,
) -> dict[str, Any]:
    """Trains a model from scratch as the recipe says.

    Args:
      offline: fetch no text from a store; None: as HF_HUB_OFFLINE says.
      keep_compiled: let JAX keep what it compiles in this user's cache, from now on in this
        process (`compiler.kept.keep_xla`): a later run compiles the same programs in no time.

    Raises:
      ConfigError: the recipe is wrong, with file and line.
      CannotCreate: `output` holds something, and is not the run that is resumed.
      Resumable: stopped by SIGTERM, after a checkpoint.
    """
    recipe = load_config(Path(config))
    _check_start(output, resume_from)
    keep_xla(keep_compiled)
    prepared = prepare_scratch(recipe, Reach.of(offline, progress))
    return _run(recipe, prepared, output, resume_from, progress)


def train_qat(
    model: str | os.PathLike,
    config: str | os.PathLike,
    output: str | os.PathLike | None = None,
    precision: str = "1.58",
    resume_from: str | os.PathLike | None = None,
    offline: bool | None = None,
    keep_compiled: bool = False,
    progress: Any = None,
) -> dict[str, Any]:
    """Trains a checkpoint's float weights on, towards ternary (`lambda_steps` of the recipe).

    Args:
      keep_compiled: as `train_start` takes it.

    Raises:
      BadData: the checkpoint holds no float weights (``model.no_latent``), or no tokenizer.
    """
    if precision != "1.58":
        raise UsageError(
            "train.precision", f"precision {precision} cannot be trained towards", "known: 1.58"
        )
    recipe = load_config(Path(config))
    _check_start(output, resume_from)
    keep_xla(keep_compiled)
    prepared = prepare_checkpoint(recipe, model, Reach.of(offline, progress))
    return _run(recipe, prepared, output, resume_from, progress)


def prepare_scratch(recipe: TrainConfig, reach: Reach | None = None) -> Prepared:
    """Corpus, tokenizer trained on it, and fresh parameters.

    Raises:
      BadData: the family is unknown, or refuses the recipe's model; before anything is read.
    """
    check_room_to_compile()
    family_for(recipe.model.spec(0, ()))  # the ids are the tokenizer's, and not known yet
    corpus = read_corpus(recipe.data, reach)
    tokenizer = train_tokenizer(
        (document.text for document in corpus.train),
        recipe.model.vocab_size,
        recipe.model.max_positions,
    )
    spec = recipe.model.spec(tokenizer.bos_id, (tokenizer.eos_id, tokenizer.turn_end_id))
    data = TrainData(
        *(
            tokenizer.encode_documents([document.text for document in part])
            for part in (corpus.train, corpus.heldout)
        )
    )
    _check_fits(recipe, spec)
    params = fresh_params(spec, recipe.seed)
    return Prepared(spec, params, data, tokenizer_files(tokenizer), corpus, rules_of(recipe, spec))


def prepare_checkpoint(recipe: TrainConfig, model: str | os.PathLike, reach: Reach) -> Prepared:
    """Corpus encoded by the checkpoint's own tokenizer, and its latent weights."""
    check_room_to_compile()
    checkpoint = open_checkpoint(model, offline=reach.offline, progress=reach.progress)
    params = {name: np.asarray(v, np.float32) for name, v in checkpoint.latent().items()}
    files = _tokenizer_of(checkpoint)
    spec = checkpoint.spec
    corpus = read_corpus(recipe.data, reach)
    if not spec.eos_token_ids:
        raise BadData(
            "model.no_eos",
            f"`{checkpoint.source.path}` names no end-of-text token to put between documents",
            "set eos_token_id in its config.json",
        )
    eos = spec.eos_token_ids[0]
    bos = spec.bos_token_id if spec.bos_token_id is not None else eos
    data = TrainData(
        *(
            encode_documents(files.tokenizer_json, [d.text for d in part], bos, eos)
            for part in (corpus.train, corpus.heldout)
        )
    )
    _check_fits(recipe, spec)
    source = checkpoint.source.to_json()
    return Prepared(spec, params, data, files, corpus, rules_of(recipe, spec), source)


def rules_of(recipe: TrainConfig, spec: ModelSpec) -> tuple[Rule, ...]:
    """What becomes ternary: as the recipe says, or as the family does."""
    return recipe.rules or family_of(spec.family).rules


def _tokenizer_of(checkpoint: Checkpoint) -> TokenizerFiles:
    if checkpoint.tokenizer is None:
        raise BadData(
            "model.no_tokenizer",
            f"`{checkpoint.source.path}` holds no tokenizer; its text cannot be encoded",
            "put tokenizer.json beside the model",
        )
    return checkpoint.tokenizer


def read_corpus(data: DataConfig, reach: Reach | None = None) -> Corpus:
    """The user's files, or the Python library's own text where none are named."""
    if data.paths:
        return read_files(
            [_local(path, reach or Reach.of(None)) for path in data.paths], data.text_key
        )
    return python_corpus(data.max_bytes)


def _local(path: str, reach: Reach) -> str | Path:
    """The path of text that may lie in a store: fetched, unless it was."""
    address = parse(path)
    if address is None:
        return path
    return bring(address, lambda name: name.endswith(TEXT_SUFFIXES), reach)


def tokenizer_files(tokenizer: TrainedTokenizer) -> TokenizerFiles:
    """A trained tokenizer as a checkpoint's files."""
    return TokenizerFiles(
        tokenizer.json, tokenizer.config, tokenizer.chat_template, tokenizer.generation
    )


def fit(
    recipe: TrainConfig,
    prepared: Prepared,
    *,
    run_dir: Path | None = None,
    resume_from: Path | None = None,
    progress: Any = None,
    begun: Callable[[], None] = lambda: None,
) -> TrainResult:
    """Runs the loop with the transform as the model function."""
    family = family_for(prepared.spec)
    qat = ternarize(family.forward(prepared.spec), prepared.rules, "qat", forward=recipe.forward)

    def model_fn(params: Any, tokens: Any, lam: Any) -> Any:
        return qat(params, tokens, lam=lam)

    with stop_on_signals() as stop:
        return train(
            model_fn,
            prepared.params,
            prepared.data,
            recipe,
            run_dir=run_dir,
            resume_from=resume_from,
            spec=prepared.spec.to_json(),
            rules=[_plain(rule) for rule in prepared.rules],
            progress=progress,
            stop=stop,
            begun=begun,
        )


def _plain(rule: Rule) -> dict[str, Any]:
    """A rule as JSON has it, so that what is read again is equal."""
    return {**asdict(rule), "stack": list(rule.stack)}


def packed_checkpoint(params: Any, prepared: Prepared) -> Checkpoint:
    """The trained parameters, packed by the very function that the training forward used."""
    family = family_for(prepared.spec)
    example = np.zeros((1, 2), np.int32)
    packed = pack(family.forward(prepared.spec), dict(params), prepared.rules, example)
    return checkpoint_of(
        prepared.spec,
        packed.leaves,
        prepared.tokenizer,
        Source(Path("training"), "training", "latent"),
        latent=params,
    )


def _run(
    recipe: TrainConfig,
    prepared: Prepared,
    output: str | os.PathLike | None,
    resume_from: str | os.PathLike | None,
    progress: Any,
) -> dict[str, Any]:
    if prepared.spec.family not in FAMILIES or recipe.rules:
        # What rules from elsewhere make of its function is met here, not when the training is over.
        packed_checkpoint(prepared.params, prepared)
    run_dir = _run_folder(output, resume_from)
    with owned(run_dir):  # a second run in it would take the first one's steps for its own
        _check_start(run_dir, resume_from)
        return _run_in(run_dir, recipe, prepared, resume_from, progress)


def _run_in(
    run_dir: Path,
    recipe: TrainConfig,
    prepared: Prepared,
    resume_from: str | os.PathLike | None,
    progress: Any,
) -> dict[str, Any]:
    def begun() -> None:
        # Not before: a start that is refused, or killed before its first step, leaves its folder
        # free for the next one, and the run that it would have resumed with its own recipe.
        with atomic_file(run_dir / "config.yaml") as stream:
            stream.write(dump_config(recipe).encode())
        # Beside the checkpoints, which hold no tokenizer: each of them is a model with it.
        for name, data in to_files(prepared.tokenizer).items():
            with atomic_file(run_dir / name) as stream:
                stream.write(data)

    resume = None if resume_from is None else Path(resume_from)
    result = fit(
        recipe, prepared, run_dir=run_dir, resume_from=resume, progress=progress, begun=begun
    )
    checkpoint = packed_checkpoint(result.state.params, prepared)
    saved = save_checkpoint(checkpoint, run_dir / MODEL_FILE, format="bitnet", force=True)
    record = {
        "run_id": run_dir.name,
        "run_dir": str(run_dir),
        **result.record(),
        "model": str(saved.path),
        "digest": open_checkpoint(saved.path).digest().to_json(),
        "corpus": prepared.corpus.report(),
        **({"source": dict(prepared.source)} if prepared.source else {}),
    }
    with atomic_file(run_dir / RECEIPT_FILE) as stream:
        stream.write(json.dumps({"schema": "bitnet/1", **record}, indent=2).encode() + b"\n")
    return record


def _run_of(path: Path) -> Path:
    """The run that `path` is, or whose checkpoint or checkpoints folder it is."""
    if (path / "checkpoints").is_dir():
        return path
    for parent in (path, path.parent):
        if parent.name == "checkpoints":
            return parent.parent
    return path


def _check_fits(recipe: TrainConfig, spec: ModelSpec) -> None:
    if recipe.length > spec.max_positions:
        raise ConfigError(
            "train.config_value",
            f"`length` is {recipe.length}; the model's context is {spec.max_positions}",
            "train on shorter windows, or give the model a longer context",
        )


def _check_start(output: str | os.PathLike | None, resume_from: str | os.PathLike | None) -> None:
    """Refuses in a second what would be refused after minutes of tokenizing."""
    hint = "train into a local folder; `bitnet model convert` writes its model to a store"
    require_local(output, "a run's folder", hint)
    require_local(resume_from, "the run that is resumed", "copy it to this machine")
    if resume_from is not None:
        resolve_checkpoint(Path(resume_from))
        if output is not None and _same(Path(output), _run_of(Path(resume_from).absolute())):
            return
    if output is not None:
        path = Path(output)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            other = "choose another --output-dir"
            goes_on = resume_from is None and list_steps(path / "checkpoints")
            raise CannotCreate(
                "train.run_exists",
                f"`{path}` exists",
                f"go on with it: --resume-from {path}; or {other}" if goes_on else other,
            )


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _run_folder(output: str | os.PathLike | None, resume_from: str | os.PathLike | None) -> Path:
    """The run's folder, made: `output`, the run that is resumed, or a new one in `runs`."""
    if output is None and resume_from is not None:
        return _run_of(Path(resume_from).absolute())
    path = Path(output) if output is not None else Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    make_folder(path)
    return path
