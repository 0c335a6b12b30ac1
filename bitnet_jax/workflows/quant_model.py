"""A float model ready to be quantized: its function, its parameters, the rules.

What `quant analyze` and `quant convert` begin with. Knows no text and no output.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.core.errors import BadData, UsageError, did_you_mean
from bitnet_jax.core.memory import check_room_to_compile
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.ir.program import Program, trace
from bitnet_jax.models.families import family_for
from bitnet_jax.models.names import expected
from bitnet_jax.passes.pack import check_single
from bitnet_jax.passes.plan import Plan, make_plan
from bitnet_jax.quant.finite import require_finite
from bitnet_jax.quant.rules import Rule
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.train.config import load_rules

# what --precision says -> the kind of weight
PRECISIONS = {"1.58": "ternary", "4": "int4", "6": "int6", "8": "int8"}


@dataclass(frozen=True)
class FloatModel:
    """A model whose weights are floats, under rules.

    Attributes:
      forward: ``forward(params, tokens) -> logits``, of parameters in the file's own dtypes.
      plan: what the rules make of each parameter.
    """

    checkpoint: Checkpoint
    forward: Callable[..., Any]
    rules: tuple[Rule, ...]
    plan: Plan

    def names(self) -> list[str]:
        """The parameters that the rules take, as the model has them."""
        return [name for name in self.checkpoint.entries if self.plan.rule(name) is not None]

    def params(self) -> dict[str, Any]:
        """Reads every parameter onto the device, in the dtype that the file has.

        Raises:
          BadData: one holds NaN or infinity (``weights.not_finite``).
        """
        return {name: self.read(name) for name in self.checkpoint.entries}

    def read(self, name: str) -> Any:
        """Reads one parameter onto the device.

        Raises:
          BadData: as `params`.
        """
        array = np.asarray(self.checkpoint.read(name))
        require_finite(name, array)
        # A device has no float64.
        return jnp.asarray(array.astype(np.float32) if array.itemsize > 4 else array)

    def rules_json(self) -> list[dict[str, Any]]:
        """The rules, as records hold them."""
        return [{**asdict(rule), "stack": list(rule.stack)} for rule in self.rules]


def float_model(
    checkpoint: Checkpoint, precision: str = "1.58", recipe: str | os.PathLike | None = None
) -> FloatModel:
    """Looks at a checkpoint as something to quantize; reads no tensor.

    Args:
      precision: a key of `PRECISIONS`: what the rules' ternary parameters become. A rule that
        says another kind keeps it. Without a recipe's rules 4, 6 and 8 bits have a scale a row.
      recipe: a YAML file whose `rules` say which parameters; the family's if None, or if it
        has none.

    Raises:
      BadData: it is quantized already (``quant.already``), or a rule takes what files hold as
        floats (``quant.not_a_linear``), or half of a parameter's uses (``checkpoint.names``).
      UsageError: `precision` is unknown (``quant.precision``); a rule took nothing, and what
        else `make_plan` raises; they keep everything (``quant.nothing``).
      ConfigError: the recipe is wrong.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            "quant.precision",
            f"precision {precision!r} is unknown",
            did_you_mean(str(precision), PRECISIONS),
        )
    return ruled_model(checkpoint, _rules(family_for(checkpoint.spec).rules, precision, recipe))


def ruled_model(checkpoint: Checkpoint, rules: tuple[Rule, ...]) -> FloatModel:
    """As `float_model`, under these very rules.

    Raises:
      BadData, UsageError: as `float_model`.
    """
    _refuse_quantized(checkpoint)
    check_room_to_compile()
    spec = checkpoint.spec
    run = family_for(spec).forward(spec)

    def forward(params: Any, tokens: Any) -> Any:
        # Weights stay as narrow as the file has them; each is widened where it is used.
        return run({name: value.astype(jnp.float32) for name, value in params.items()}, tokens)

    plan = make_plan(_traced(forward, checkpoint), rules)
    wanted = expected(spec)
    for name in checkpoint.entries:
        if plan.rule(name) is None:
            continue
        if not wanted[name].ternary:
            raise BadData(
                "quant.not_a_linear",
                f"a rule quantizes `{name}`, which files of family `{spec.family}` hold as floats",
                "leave it out of the rules, or keep it: {path: " + name + ", use: '*', to: keep}",
            )
        check_single(plan, name)
    model = FloatModel(checkpoint, forward, rules, plan)
    if not model.names():
        raise UsageError(
            "quant.nothing",
            f"the rules keep every parameter of `{checkpoint.source.path}` as it is",
            "let a rule take some: {path: '**.*_proj'}; the family's own take all linears",
        )
    return model


def _traced(forward: Callable[..., Any], checkpoint: Checkpoint) -> Program:
    params = {
        name: jax.ShapeDtypeStruct(entry.shape, _narrowed(entry.dtype))
        for name, entry in checkpoint.entries.items()
    }
    length = min(16, checkpoint.spec.max_positions)
    return trace(forward, params, jax.ShapeDtypeStruct((1, length), jnp.int32))


def _narrowed(dtype: str) -> Any:
    return jnp.dtype("float32" if dtype == "float64" else dtype)


def _rules(
    own: tuple[Rule, ...], precision: str, recipe: str | os.PathLike | None
) -> tuple[Rule, ...]:
    asked = () if recipe is None else load_rules(Path(recipe))
    kind = PRECISIONS[precision]
    out = []
    for rule in asked or own:
        if rule.to == "ternary" and kind != "ternary":
            # One scale a matrix takes bits from every row but the one with the peak.
            scale = rule.scale if asked else "row"
            rule = replace(rule, to=kind, scale=scale)
        out.append(rule)
    return tuple(out)


def _refuse_quantized(checkpoint: Checkpoint) -> None:
    for name, entry in checkpoint.entries.items():
        if entry.ternary:
            value = entry.read()
            kind = value.kind if isinstance(value, QuantTensor) else "ternary"
            raise BadData(
                "quant.already",
                f"`{checkpoint.source.path}` is quantized already: `{name}` is {kind} "
                f"({checkpoint.source.format}, {checkpoint.source.encoding})",
                "take the float model that it was made from; `bitnet model convert` changes a "
                "quantized model's format",
            )
