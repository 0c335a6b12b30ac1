"""`HuggingFace`: how a family's `config.json` is spelled, both ways.

What every `transformers` config shares (token ids, dtype, `quantization_config`) is read and
written by `formats`; here stands what tells one family from another. Knows no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.parameter import field_of

_WRONG = "is this the right config for these weights?"


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Any = _Required()


@dataclass(frozen=True)
class ConfigKey:
    """One key of a `config.json` that is a field of the spec.

    Attributes:
      name: in the config.
      field: of `ModelSpec`; `extra.x` is the family's own ``x``.
      default: what it means that the key is absent; without one it must be there.
    """

    name: str
    field: str
    default: Any = REQUIRED


@dataclass(frozen=True)
class HuggingFace:
    """A family's `config.json`.

    Attributes:
      architecture: the one in ``architectures``.
      model_type: ``model_type``.
      read: ``(config, where) -> fields of the spec``, less the token ids; those of `extra`
        stand under ``extra``. Raises `BadData` that begins with `where`.
      write: ``(spec, old) -> keys of the config``; `old` asks for the spelling of
        transformers 4, where it differs.
      in_transformers: `transformers` itself has this architecture.
      auto_map: what the released config names; written into models made up for tests only.
      masters: the architecture itself quantizes float masters at each forward: its config has
        no `quantization_config`, and its floats are not what is computed with.
      released: how its released ternary checkpoints are stored: a linear class of transformers,
        packed, or ``latent``, as masters.
      linear_norms: its linears may have norms of their own (`linear_norms.py`).
    """

    architecture: str
    model_type: str
    read: Callable[[Mapping[str, Any], str], dict[str, Any]]
    write: Callable[[ModelSpec, bool], dict[str, Any]]
    in_transformers: bool = False
    auto_map: Mapping[str, str] = field(default_factory=dict)
    masters: bool = False
    released: str = "autobitlinear"
    linear_norms: bool = False

    @classmethod
    def of_keys(
        cls,
        architecture: str,
        model_type: str,
        keys: tuple[ConfigKey, ...],
        fixed: Mapping[str, Any] | None = None,
    ) -> HuggingFace:
        """A config that is a table: each key a field of the spec.

        Args:
          fixed: keys that are written as they stand; a config that has another value there
            means a model that this family is not (``config.unsupported``).
        """
        fixed = dict(fixed or {})

        def read(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
            for name, value in fixed.items():
                if raw.get(name, value) != value:
                    raise BadData(
                        "config.unsupported",
                        f"{where}: {name} is {shown(raw[name])}; `{architecture}` has "
                        f"{value!r} here",
                        None,
                    )
            return _read(keys, raw, where)

        def write(spec: ModelSpec, old: bool) -> dict[str, Any]:
            del old  # no name in the table ever had another spelling
            return fixed | {key.name: field_of(spec, key.field) for key in keys}

        return cls(architecture, model_type, read, write)


def _read(keys: tuple[ConfigKey, ...], raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key in keys:
        value = raw.get(key.name, key.default)
        if value is REQUIRED:
            raise BadData("config.value", f"{where}: {key.name} is missing", _WRONG)
        home = extra if key.field.startswith("extra.") else fields
        home[key.field.removeprefix("extra.")] = value
    return fields | {"extra": extra} if extra else fields
