"""What differs between two checkpoints, tensor by tensor and word by word; runs neither.

Reads one tensor of each at a time. A row says which part of a model, where in it, and what; how the
same thing is stored (format, encoding, dtype) is told apart from what it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bitnet_jax.core.errors import shown
from bitnet_jax.formats.checkpoint import Checkpoint, TokenizerFiles
from bitnet_jax.formats.tokenizer_files import parsed_tokenizer
from bitnet_jax.quant.tensor import TERNARY, QuantTensor
from bitnet_jax.quant.ulps import ulps

_ROWS = 4096
# A tokenizer's own parts, by their names in tokenizer.json; what they hold is compared whole.
_LARGE = ("vocab", "merges")


@dataclass(frozen=True)
class Difference:
    """One thing that differs.

    Attributes:
      part: ``spec``, ``tensor``, ``tokenizer``, ``template``, ``generation`` or ``metadata``.
      name: which field, tensor or key.
      what: in a word: ``value``, ``trits``, ``codes``, ``scale``, ``shape``, …
      first, second: the values, where they are short.
      more: figures.
    """

    part: str
    name: str
    what: str
    first: Any = None
    second: Any = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        row = {"part": self.part, "name": self.name, "what": self.what}
        return {**row, "first": self.first, "second": self.second, **self.more}


ONLY_FIRST, ONLY_SECOND = "only in the first", "only in the second"


def words(one: Checkpoint, two: Checkpoint) -> list[Difference]:
    """Spec, tokenizer, template, generation settings, metadata."""
    found = list(_mapping("spec", _flat(one.spec.to_json()), _flat(two.spec.to_json())))
    found += _tokenizers(one.tokenizer, two.tokenizer)
    found += _mapping("metadata", one.metadata, two.metadata)
    return found


def _flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    extra = spec.get("extra") or {}
    plain = {name: value for name, value in spec.items() if name != "extra"}
    return plain | {f"extra.{name}": value for name, value in extra.items()}


def _mapping(part: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterator[Difference]:
    for name in {**one, **two}:
        if name not in two:
            yield Difference(part, name, ONLY_FIRST, _short(one[name]))
        elif name not in one:
            yield Difference(part, name, ONLY_SECOND, None, _short(two[name]))
        elif one[name] != two[name]:
            yield Difference(part, name, "value", _short(one[name]), _short(two[name]))


def _short(value: Any) -> Any:
    """A value as a record may hold it: long ones as the beginning of their text."""
    plain = value is None or isinstance(value, bool | int | float)
    return value if plain or len(json.dumps(value)) <= 80 else shown(value)


# ------------------------------------------------------------------------- the tokenizer


def _tokenizers(one: TokenizerFiles | None, two: TokenizerFiles | None) -> Iterator[Difference]:
    if one is None or two is None:
        if one is not two:
            yield Difference(
                "tokenizer", "tokenizer.json", ONLY_SECOND if one is None else ONLY_FIRST
            )
        return
    if one.tokenizer_json != two.tokenizer_json:
        first, second = (parsed_tokenizer(files) for files in (one, two))
        if first is None or second is None:
            told = ["no JSON object" if found is None else "read" for found in (first, second)]
            yield Difference("tokenizer", "tokenizer.json", "value", told[0], told[1])
        else:
            yield from _parsed(first, second)
    without = [{k: v for k, v in f.config.items() if k != "chat_template"} for f in (one, two)]
    yield from _mapping("tokenizer", *(_prefixed("config", config) for config in without))
    if one.chat_template != two.chat_template:
        yield _template(one.chat_template, two.chat_template)
    yield from _mapping("generation", one.generation, two.generation)


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in values.items()}


def _parsed(one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterator[Difference]:
    """Two `tokenizer.json`: nothing, where they hold the same in another order or spacing."""
    models = [dict(found.get("model") or {}) for found in (one, two)]
    for name in _LARGE:
        first, second = (model.pop(name, None) for model in models)
        if first != second:
            one_size, two_size = (
                len(value) if isinstance(value, dict | list) else None for value in (first, second)
            )
            figures = _first_odd(first, second)
            yield Difference(
                "tokenizer", f"model.{name}", "value", one_size, two_size, more=figures
            )
    rest = [{k: v for k, v in found.items() if k != "model"} for found in (one, two)]
    left, right = (r | _prefixed("model", m) for r, m in zip(rest, models, strict=True))
    yield from _mapping("tokenizer", left, right)


def _first_odd(one: Any, two: Any) -> dict[str, Any]:
    """The first entry of a vocabulary or a list of merges that is not the other's."""
    if isinstance(one, dict) and isinstance(two, dict):
        odd = [token for token in {**one, **two} if one.get(token) != two.get(token)]
        token = min(odd, key=lambda t: min(m[t] for m in (one, two) if t in m), default=None)
        return {"differing": len(odd), "at": token}
    if isinstance(one, list) and isinstance(two, list):
        at = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), None)
        return {"at": min(len(one), len(two)) if at is None else at}
    return {}


def _template(one: str | None, two: str | None) -> Difference:
    if one is None or two is None:
        return Difference("template", "chat_template", ONLY_SECOND if one is None else ONLY_FIRST)
    at = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), None)
    at = min(len(one), len(two)) if at is None else at
    begin = max(at - 20, 0)
    first, second = (_short(text[begin : at + 40]) for text in (one, two))
    return Difference("template", "chat_template", "value", first, second, more={"at": at})


# ------------------------------------------------------------------------- tensors


def tensors(one: Checkpoint, two: Checkpoint) -> Iterator[tuple[str, list[Difference]]]:
    """Each tensor's name in the order of names, with what differs in it; reads them."""
    for name in sorted({*one.entries, *two.entries}, key=str.encode):
        yield name, list(_tensor(name, one, two))


def _tensor(name: str, one: Checkpoint, two: Checkpoint) -> Iterator[Difference]:
    first, second = one.entries.get(name), two.entries.get(name)
    if first is None or second is None:
        there = first or second
        assert there is not None
        what = ONLY_SECOND if first is None else ONLY_FIRST
        yield Difference("tensor", name, what, more={"shape": list(there.shape)})
        return
    if first.shape != second.shape:
        yield Difference("tensor", name, "shape", list(first.shape), list(second.shape))
        return
    if not (first.ternary or second.ternary):
        yield from _floats(name, one, two)
        return
    tensors = [c.read(name) if c.entries[name].ternary else None for c in (one, two)]
    kinds = [
        tensor.kind if isinstance(tensor, QuantTensor) else entry.dtype
        for entry, tensor in zip((first, second), tensors, strict=True)
    ]
    if kinds[0] != kinds[1]:
        yield Difference("tensor", name, "kind", kinds[0], kinds[1])
    else:
        yield from _codes(name, *tensors)


def _codes(name: str, one: Any, two: Any) -> Iterator[Difference]:
    """Of two of one kind: ternary ones have trits, others codes."""
    assert isinstance(one, QuantTensor) and isinstance(two, QuantTensor)
    what = "trits" if one.kind == TERNARY else "codes"
    codes = [np.asarray(tensor.codes_matrix()) for tensor in (one, two)]
    changed = codes[0] != codes[1]
    count = int(np.count_nonzero(changed))
    if count:
        at = np.unravel_index(int(changed.argmax()), changed.shape)
        yield Difference(
            "tensor", name, what, int(codes[0][at]), int(codes[1][at]),
            {"changed": count, "of": changed.size, "at": [int(index) for index in at]},
        )  # fmt: skip
    scales = [np.asarray(tensor.scale, np.float32) for tensor in (one, two)]
    if one.scale_kind != two.scale_kind or scales[0].shape != scales[1].shape:
        yield Difference("tensor", name, "scale kind", one.scale_kind, two.scale_kind)
    elif not np.array_equal(scales[0], scales[1]):
        steps = ulps(*scales).reshape(scales[0].shape)
        worst = np.unravel_index(int(steps.argmax()), steps.shape)
        yield Difference(
            "tensor", name, "scale", float(scales[0][worst]), float(scales[1][worst]),
            {"changed": int(np.count_nonzero(steps)), "of": steps.size, "ulps": int(steps[worst])},
        )  # fmt: skip


def _floats(name: str, one: Checkpoint, two: Checkpoint) -> Iterator[Difference]:
    """Values as float64, some rows at a time: bfloat16 and float32 of one value are equal."""
    changed, size, row, at = 0, 0, 0, None
    largest, first_value, second_value = -1.0, 0.0, 0.0
    for a, b in _pieces(name, one, two):
        a, b = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(invalid="ignore"):
            odd = ~((a == b) | (np.isnan(a) & np.isnan(b)))
            apart = np.where(odd, np.abs(a - b), 0.0)
        apart = np.where(np.isnan(apart), np.inf, apart)
        if odd.any():
            changed += int(np.count_nonzero(odd))
            if at is None:
                first, *rest = np.unravel_index(int(odd.argmax()), odd.shape)
                at = [int(first) + row, *map(int, rest)]
            if float(apart.max()) > largest:
                worst = np.unravel_index(int(apart.argmax()), apart.shape)
                largest = float(apart[worst])
                first_value, second_value = float(a[worst]), float(b[worst])
        size, row = size + odd.size, row + len(odd)
    if changed:
        figures = {"changed": changed, "of": size, "at": at, "difference": largest}
        yield Difference("tensor", name, "values", first_value, second_value, figures)


def _pieces(name: str, one: Checkpoint, two: Checkpoint) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if len(one.entries[name].shape) < 2:
        yield np.atleast_1d(np.asarray(one.read(name))), np.atleast_1d(np.asarray(two.read(name)))
    else:
        yield from zip(one.parts(name, _ROWS), two.parts(name, _ROWS), strict=True)


def stored(one: Checkpoint, two: Checkpoint) -> list[dict[str, Any]]:
    """How the same things are stored otherwise: format, encoding, the dtype of each tensor."""
    rows = [
        {"name": name, "first": getattr(one.source, name), "second": getattr(two.source, name)}
        for name in ("format", "encoding")
    ]
    rows += [
        {"name": name, "first": one.entries[name].dtype, "second": two.entries[name].dtype}
        for name in sorted(one.entries.keys() & two.entries.keys(), key=str.encode)
    ]
    return [row for row in rows if row["first"] != row["second"]]
