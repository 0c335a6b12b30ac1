"""`Family`: what a kind of decoder must give, to convert, train and run like a built-in one.

One row holds everything: the function, its parameters' names, how its config is spelled.
What can be told from the row alone is checked as it is made; what needs a spec, in
`verify.py`. Knows no file, and not where a row came from.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.ir.spec import EXTRA_NAME, ModelSpec, Scalar
from bitnet_jax.models.cache import KVCache
from bitnet_jax.models.gguf import Gguf
from bitnet_jax.models.huggingface import HuggingFace
from bitnet_jax.models.parameter import LAYER, Parameter, sizes_of
from bitnet_jax.quant.rules import Rule, match

# What a plugin states that it was written for; it grows when a row must change to go on working.
API = 1

Params = dict[str, Any]
Function = Callable[..., tuple[Any, Any]]
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")


@dataclass(frozen=True, eq=False, kw_only=True)
class Family:
    """One row of the families table.

    Attributes:
      api: the `API` it was written for.
      name: the key, as in `ModelSpec.family`.
      names: its parameters: canonical name, the name in a `transformers` checkpoint, shape.
        The optimizer takes those below a part that begins with ``embed_``, or is
        ``lm_head``, for embeddings.
      rules: which parameters are ternary: those, and no others, that `names` says so of.
      init: ``(spec, seed) -> params``: fresh float32 parameters, flat, by canonical name.
      function: spec -> ``fn(params, tokens, positions, cache, last) -> (logits, cache)``.
        `tokens` and `positions` are int32 [batch, length], the latter ascending by one. With
        cache None, tokens attend among themselves; else keys and values are written at
        `positions`, and what stands there beyond a row's own is never looked at (a
        prompt is padded, and its last piece may run over tokens a second time). With last
        None, logits are float32 [batch, length, vocab]; else [batch, vocab], those of index
        `last` [batch].
      cache: ``(spec, batch, capacity) -> pytree`` that `function` takes and gives.
      sizes: spec -> what further letters in the shapes of `names` stand for.
      extra: fields it adds to the spec (`ModelSpec.extra`), with their defaults; the
        default's type is the field's.
      values: fields of the spec that may have these values only, the first where nothing is
        said. A field that means nothing here has one value.
      check: spec -> what else is wrong with it, in words, or None.
      may_be_zero: patterns of names of vectors that may hold nothing but zeros: biases, and
        norms whose weight is added to 1. Of others that is damage.
      huggingface: how its `config.json` is spelled; without it there is no such format.
      gguf: how it stands in a GGUF file; without it there is no such format.
      shapes: named specs, for `bitnet model create`.
    """

    api: int
    name: str
    names: tuple[Parameter, ...]
    rules: tuple[Rule, ...]
    init: Callable[[ModelSpec, int], Params]
    function: Callable[[ModelSpec], Function]
    cache: Callable[[ModelSpec, int, int], Any] = KVCache.empty
    sizes: Callable[[ModelSpec], Mapping[str, int]] = lambda spec: {}
    extra: Mapping[str, Scalar] = field(default_factory=dict)
    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    check: Callable[[ModelSpec], str | None] = lambda spec: None
    may_be_zero: tuple[str, ...] = ("*bias",)
    huggingface: HuggingFace | None = None
    gguf: Gguf | None = None
    shapes: Mapping[str, ModelSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault:
            raise BadData(
                "family.row",
                f"family `{self.name}`: {fault}",
                "`bitnet_jax.models.family.Family` says what each field holds",
            )

    # ------------------------------------------------------------------ the function's two forms
    def forward(self, spec: ModelSpec) -> Callable[..., Any]:
        """``forward(params, tokens) -> float32 logits`` [batch, length, vocab]."""
        function = self.function(spec)

        def forward(params: Params, tokens: Any) -> Any:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
            return function(params, tokens, positions, None, None)[0]

        return forward

    def step(self, spec: ModelSpec) -> Callable[..., Any]:
        """``step(params, tokens, cache, start, last) -> (logits [batch, vocab], cache)``.

        `tokens` [batch, length] stand at positions from `start` [batch] on; the logits are
        those of index `last` [batch].
        """
        function = self.function(spec)

        def step(params: Params, tokens: Any, cache: Any, start: Any, last: Any) -> tuple[Any, Any]:
            positions = start[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
            return function(params, tokens, positions, cache, last)

        return step

    # ------------------------------------------------------------------ its specs
    def spec(self, **fields: Any) -> ModelSpec:
        """The valid spec with these fields; what is not said has the family's default.

        Raises:
          BadData: a field is unknown, missing or refused (code ``config.value``).
        """
        extra = {**self.extra, **fields.pop("extra", {})}
        for name, value in extra.items():
            if isinstance(self.extra.get(name), float) and type(value) is int:
                extra[name] = float(value)  # JSON and YAML write 1.0 as 1
        filled = {name: options[0] for name, options in self.values.items()} | fields
        try:
            return self.accept(ModelSpec(family=self.name, **filled, extra=extra))
        except TypeError as error:
            raise BadData(
                "config.value", f"no spec of family `{self.name}`: {error}", _RIGHT
            ) from error

    def accept(self, spec: ModelSpec) -> ModelSpec:
        """Returns `spec`, or raises `BadData` (``config.value``) if this family has no such."""
        spec.validate()
        fault = self._spec_fault(spec)
        if fault:
            raise BadData("config.value", f"{fault} (family `{self.name}`)", _RIGHT)
        return spec

    def _spec_fault(self, spec: ModelSpec) -> str | None:
        for name, options in self.values.items():
            if getattr(spec, name) not in options:
                known = ", ".join(map(str, options))
                return f"{name} is {shown(getattr(spec, name))}; known: {known}"
        if set(spec.extra) != set(self.extra):
            verb, odd = "lacks", sorted(set(self.extra) - set(spec.extra))
            if not odd:
                verb, odd = "has the unknown", sorted(set(spec.extra) - set(self.extra))
            return f"extra {verb} {', '.join(odd)}; known: {', '.join(self.extra) or 'none'}"
        for name, default in self.extra.items():
            if type(spec.extra[name]) is not type(default):
                kind = type(default).__name__
                return f"extra.{name} is {shown(spec.extra[name])}; it must be of type {kind}"
        return self.check(spec)

    def letters(self, spec: ModelSpec) -> dict[str, int]:
        """What the letters in the shapes of `names` stand for.

        Raises:
          BadData: a row has a letter that stands for nothing (``family.sizes``).
        """
        sizes = sizes_of(spec) | dict(self.sizes(spec))
        for row in self.names:
            for letter in row.shape:
                size = sizes.get(letter)
                if not isinstance(size, int) or size <= 0:
                    raise BadData(
                        "family.sizes",
                        f"family `{self.name}`, parameter `{row.name}`: the letter `{letter}` of "
                        f"its shape `{row.shape}` stands for {size}",
                        f"known: {', '.join(sizes)}; `Family.sizes` adds others",
                    )
        return sizes


_RIGHT = "is this the right config for these weights?"
_FIELDS = {item.name for item in dataclasses.fields(ModelSpec)} - {"family", "extra"}


def _fault(family: Family) -> str | None:
    """What is wrong with a row, or None."""
    if not isinstance(family.name, str) or not _NAME.fullmatch(family.name):
        return "its name must be lower-case letters, digits, `-` and `_`"
    for name, kind in (("names", Parameter), ("rules", Rule)):
        rows = getattr(family, name)
        if not isinstance(rows, tuple) or not rows or not all(isinstance(r, kind) for r in rows):
            return f"`{name}` must be a tuple of {kind.__name__}s"
    for name in ("init", "function", "cache", "sizes", "check"):
        if not callable(getattr(family, name)):
            return f"`{name}` is no function"
    spelled: Any = family.huggingface
    if not isinstance(spelled, HuggingFace | None):
        return "`huggingface` is no HuggingFace"
    in_gguf: Any = family.gguf
    if not isinstance(in_gguf, Gguf | None):
        return "`gguf` is no Gguf"
    for name in family.extra:
        if not EXTRA_NAME.fullmatch(name) or name in _FIELDS:
            return f"extra field `{name}` must be a lower-case name that no spec has already"
        if not isinstance(family.extra[name], Scalar):
            return f"extra field `{name}` must have a number, a truth or a text as its default"
    for name, options in family.values.items():
        if name not in _FIELDS or not isinstance(options, tuple) or not options:
            return f"`values`: `{name}` must be a field of ModelSpec, with a tuple of values"
    for name, spec in family.shapes.items():
        if not isinstance(spec, ModelSpec) or spec.family != family.name:
            return f"shape `{name}` is no ModelSpec of this family"
    if not any(row.ternary for row in family.names):
        return "no row of `names` is ternary"
    faults = (_row_fault(family, row) for row in family.names)
    return next((fault for fault in faults if fault), None) or _double(family)


def _row_fault(family: Family, row: Parameter) -> str | None:
    where = f"parameter `{row.name}`"
    columns = (row.name, row.huggingface) if family.huggingface else (row.name,)
    if not all(_PARAMETER.fullmatch(name) for name in columns):
        return f"{where}: a name is parts of letters, digits and `_`, joined by dots"
    if len({len(LAYER.findall(name)) for name in columns}) > 1 or len(LAYER.findall(row.name)) > 1:
        return f"{where}: the layer `N` must stand once in both of its names, or in none"
    needs = row.needs.removeprefix("!")
    if needs and needs not in _FIELDS | {f"extra.{name}" for name in family.extra}:
        return f"{where} needs `{needs}`, which is no field of its spec"
    if len(row.shape) < 2 * row.ternary or (row.transposed and len(row.shape) != 2):
        return f"{where} is {'transposed' if row.transposed else 'ternary'}: it must be a matrix"
    if row.fused and (row.transposed or row.shape[0] != row.fused[row.part : row.part + 1]):
        return f"{where}: `fused` must name its own rows at `part`, and it is not transposed"
    index = match(family.rules, LAYER.sub("0", row.name), "dot")
    to = "keep" if index is None else family.rules[index].to
    if to not in ("keep", "ternary"):
        return f"{where}: files hold ternary weights and floats; a rule makes it {to}"
    # A rule that takes all of a layer may name its vectors: there is no product with them.
    if (to == "ternary") != row.ternary and len(row.shape) > 1:
        said = "take it" if to == "ternary" else "do not take it"
        return f"{where}: `names` says {'' if row.ternary else 'not '}ternary, the rules {said}"
    return None


def _double(family: Family) -> str | None:
    columns = ["name", "huggingface"] if family.huggingface else ["name"]
    for column in columns:
        # Parts of one tensor there share its name.
        seen = [getattr(row, column) for row in family.names if column == "name" or not row.part]
        twice = sorted({name for name in seen if seen.count(name) > 1})
        if twice:
            return f"`{twice[0]}` stands twice in `names`"
    return None
