"""`TrainConfig`: a recipe as data, and its YAML, read strictly.

An unknown, repeated or ill-typed key is an error that names file, line and column. Knows
what a recipe may say, not what is done with it.
"""

from __future__ import annotations

import dataclasses
import io
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitnet_jax.core import yaml_text
from bitnet_jax.core.errors import ConfigError, UsageError, did_you_mean, shown
from bitnet_jax.ir.spec import Extra, ModelSpec, Scalar
from bitnet_jax.models.families import family_of
from bitnet_jax.quant.rules import Rule

# Settings that are one of a few words.
CHOICES = {"forward": ("float32", "int8"), "optimizer.name": ("muon", "adamw")}


@dataclass(frozen=True)
class ModelConfig:
    """A model made from scratch: its family, sizes, and what else the family asks for.

    What a family leaves no choice in (`Family.values` with one value) is the family's, as
    long as the recipe does not say otherwise.
    """

    family: str = "bitnet"
    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 768
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    max_positions: int = 2048
    rope_theta: float = 10000.0
    extra: Mapping[str, Scalar] = Extra()

    def spec(self, bos_token_id: int, eos_token_ids: tuple[int, ...]) -> ModelSpec:
        """Returns the valid `ModelSpec`, with the tokenizer's special ids.

        Raises:
          BadData: the family is unknown (``model.unknown_family``), or refuses a value
            (``config.value``).
        """
        family = family_of(self.family)
        fields = {name: value for name, value in vars(self).items() if name != "family"}
        for field_ in dataclasses.fields(self):
            only = family.values.get(field_.name, ())
            if len(only) == 1 and fields.get(field_.name) == field_.default:
                fields[field_.name] = only[0]
        return family.spec(
            bos_token_id=bos_token_id,
            eos_token_ids=eos_token_ids,
            pad_token_id=eos_token_ids[0] if eos_token_ids else None,
            **fields,
        )


@dataclass(frozen=True)
class DataConfig:
    """Which text: the Python standard library's (no `paths`), or the user's files."""

    paths: tuple[str, ...] = ()
    text_key: str = "text"
    max_bytes: int = 16_000_000


@dataclass(frozen=True)
class OptimizerConfig:
    """What moves the weights, and how far.

    Attributes:
      name: ``muon`` (for the matrices; the rest is Adam's) or ``adamw``.
      learning_rate: peak, for the matrices that become ternary.
      embedding_learning_rate, vector_learning_rate: peak, for embedding and head, and
        for norm weights.
      momentum: Muon's.
      beta1, beta2, epsilon: Adam's.
      max_gradient_norm: gradients of a larger global norm are scaled down to it.
    """

    name: str = "muon"
    learning_rate: float = 0.02
    embedding_learning_rate: float = 0.02
    vector_learning_rate: float = 0.02
    momentum: float = 0.9
    beta1: float = 0.8
    beta2: float = 0.95
    epsilon: float = 1e-8
    max_gradient_norm: float = 1.0


@dataclass(frozen=True)
class Stage:
    """A stretch of the run, up to the share `until` of its steps.

    The learning rate goes linearly from `start` to `end` times its peak; the decay is
    decoupled, on matrices only.
    """

    until: float = 1.0
    start: float = 1.0
    end: float = 0.0
    weight_decay: float = 0.0


# What counts steps and draws batches has 32 bits; nobody trains for a year in one run.
MOST_WHOLE = 2**31 - 1
MOST = {"minutes": 366 * 24 * 60}


@dataclass(frozen=True)
class TrainConfig:
    """A recipe. Just one of `steps` and `minutes` is set.

    Attributes:
      minutes: the budget, compilation included; the number of steps is fixed from the
        step time measured at the start.
      batch, length: windows per step, and tokens per window.
      warmup_steps: over which the learning rate rises from 0.
      lambda_steps: over which λ rises from 0 to 1; 0: ternary from the first step.
      forward: how the products of the forward are computed at λ = 1: ``float32`` or
        ``int8``. Both are exact, so the loss is the same in every bit.
      eval_windows: held-out windows of `length` that the loss is measured on.
      eval_every, checkpoint_every: in steps; 0: only at the end.
      keep_checkpoints: older ones are deleted.
      rules: which parameters are quantized, first match wins; none: the family's.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 8
    length: int = 256
    seed: int = 0
    warmup_steps: int = 20
    lambda_steps: int = 0
    forward: str = "float32"
    eval_windows: int = 128
    eval_every: int = 0
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    stages: tuple[Stage, ...] = (Stage(),)
    rules: tuple[Rule, ...] = ()

    def validate(self) -> TrainConfig:
        """Returns self, or raises `ConfigError` (code ``train.config_value``)."""
        if (self.steps is None) == (self.minutes is None):
            raise _bad("just one of `steps` and `minutes` must be set")
        for name in ("steps", "minutes", "batch", "length", "eval_windows", "keep_checkpoints"):
            value, most = getattr(self, name), MOST.get(name, MOST_WHOLE)
            if value is not None and not 0 < value <= most:
                raise _bad(f"`{name}` is {shown(value)}; it must be above 0, and at most {most}")
        for name in ("seed", "warmup_steps", "lambda_steps", "eval_every", "checkpoint_every"):
            if not 0 <= getattr(self, name) <= MOST_WHOLE:
                value = shown(getattr(self, name))
                raise _bad(f"`{name}` is {value}; it must be from 0 to {MOST_WHOLE}")
        chosen = {"forward": self.forward, "optimizer.name": self.optimizer.name}
        for name, value in chosen.items():
            if value not in CHOICES[name]:
                raise _bad(f"`{name}` is {value!r}", did_you_mean(value, CHOICES[name]))
        if self.steps is not None and self.lambda_steps > self.steps:
            raise _bad(
                f"`lambda_steps` is {self.lambda_steps} of {self.steps} steps: λ would not "
                "reach 1, and the packed model is that of λ = 1"
            )
        ends = [stage.until for stage in self.stages]
        if not ends or ends != sorted(set(ends)) or ends[0] <= 0 or ends[-1] != 1.0:
            raise _bad(f"the stages end at {ends}; they must ascend from above 0 to 1.0")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, as the YAML has it; `from_dict` inverts it."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: Any, name: str = "config") -> TrainConfig:
        """Returns the valid config in plain data (of `name`, for messages)."""
        config = _build(cls, data, name, "")
        try:
            return config.validate()
        except ConfigError as error:
            raise _bad(f"`{name}`: {error.message}", error.hint) from error


def load_config(path: str | Path) -> TrainConfig:
    """Returns the recipe in a YAML file.

    Raises:
      NoInput, PermissionDenied, IOFailure: it cannot be read.
      ConfigError: it is no YAML, or not a recipe; the message names file, line and column.
    """
    text = yaml_text.read_text(Path(path), what="recipe", code="train.config_yaml")
    return parse_config(text, str(path))


def load_rules(path: str | Path) -> tuple[Rule, ...]:
    """Returns the `rules` of a recipe, which need not be one that can be trained by.

    It may say nothing of `steps` and `minutes`; all that it says is checked.

    Raises:
      NoInput, PermissionDenied, IOFailure, ConfigError: as `load_config`.
    """
    text = yaml_text.read_text(Path(path), what="recipe", code="train.config_yaml")
    data = yaml_text.parse(text, str(path), code="train.config_yaml")
    config = _build(TrainConfig, {} if data is None else data, str(path), "")
    if config.steps is None and config.minutes is None:
        config = dataclasses.replace(config, steps=MOST_WHOLE)
    try:
        return config.validate().rules
    except ConfigError as error:
        raise _bad(f"`{path}`: {error.message}", error.hint) from error


def parse_config(text: str, name: str = "config") -> TrainConfig:
    """As `load_config`, from text; `name` stands for the file in messages."""
    data = yaml_text.parse(text, name, code="train.config_yaml")
    return TrainConfig.from_dict({} if data is None else data, name)


def dump_config(config: TrainConfig) -> str:
    """Returns the recipe as YAML; `parse_config` inverts it."""
    from ruamel.yaml import YAML

    stream = io.StringIO()
    YAML().dump({k: v for k, v in config.to_dict().items() if v is not None}, stream)
    return stream.getvalue()


def _bad(message: str, hint: str | None = None) -> ConfigError:
    return ConfigError("train.config_value", message, hint)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _build(cls: type, data: Any, name: str, path: str) -> Any:
    """Makes the dataclass `cls` of a mapping, checking keys and types."""
    if not isinstance(data, dict):
        raise _bad(f"`{name}`: {path or 'the recipe'} must be a mapping of settings")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in data.items():
        where = yaml_text.place_of(data, key, name)
        if key not in hints:
            raise ConfigError(
                "train.config_key",
                f"`{where}`: unknown setting `{path}{key}`",
                did_you_mean(str(key), hints),
            )
        values[key] = _convert(hints[key], value, name, where, f"{path}{key}")
    for field_ in dataclasses.fields(cls):
        needed = field_.default is field_.default_factory is dataclasses.MISSING
        if needed and field_.name not in values:
            raise _bad(f"`{name}`: {path or 'the recipe'} lacks `{field_.name}`")
    return cls(**values)


def _convert(wanted: Any, value: Any, name: str, where: str, path: str) -> Any:
    options = typing.get_args(wanted)
    if type(None) in options:
        if value is None:
            return None
        wanted, options = options[0], typing.get_args(options[0])
    if dataclasses.is_dataclass(wanted):
        try:
            return _build(typing.cast(type, wanted), value, name, f"{path}.")
        except UsageError as error:  # a rule's own check
            raise _bad(f"`{where}`: `{path}`: {error.message}", error.hint) from error
    if typing.get_origin(wanted) is tuple:
        if not isinstance(value, list | tuple):
            raise _bad(f"`{where}`: `{path}` must be a list")
        return tuple(_convert(options[0], item, name, where, path) for item in value)
    if typing.get_origin(wanted) is Mapping:
        if not isinstance(value, dict) or not all(
            isinstance(v, options[1]) for v in value.values()
        ):
            raise _bad(f"`{where}`: `{path}` must be a mapping of names to single values")
        return Extra({str(key): item for key, item in value.items()})
    # A bool is an int to Python, and never a number in a recipe.
    kinds: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,)}
    accepted = kinds[wanted]
    if not isinstance(value, accepted) or isinstance(value, bool):
        kind = {int: "a whole number", float: "a number", str: "text"}[wanted]
        raise _bad(f"`{where}`: `{path}` is {value!r}; it must be {kind}")
    # YAML has .nan and .inf, and 1e999 is the latter: no setting means either.
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad(f"`{where}`: `{path}` is {float(value)}; it must be a finite number")
    return wanted(value)
