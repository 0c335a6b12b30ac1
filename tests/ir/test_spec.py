"""A spec as plain data: what it refuses, and the fields that a family adds to it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from bitnet_jax.core.errors import BadData
from bitnet_jax.ir.spec import Extra, ModelSpec
from tests.tiny import tiny_spec

ADDED = {"slope": 8.0, "wide": True, "kind": "alibi", "count": 3}


def test_a_spec_without_additions_is_written_as_it_ever_was():
    written = tiny_spec().to_json()
    assert "extra" not in written and list(written)[-1] == "pad_token_id"
    assert ModelSpec.from_json(written) == tiny_spec()


def test_additions_go_through_json_in_the_order_of_their_names():
    spec = tiny_spec(extra=ADDED)
    text = json.dumps(spec.to_json())
    again = ModelSpec.from_json(json.loads(text))
    assert again == spec and hash(again) == hash(spec)
    assert [type(value) for value in again.extra.values()] == [int, str, float, bool]
    assert json.dumps(again.to_json()) == text
    assert json.dumps(tiny_spec(extra=dict(reversed(ADDED.items()))).to_json()) == text


def test_additions_of_other_types_make_another_spec():
    ones = [tiny_spec(extra={"x": one}) for one in (1, 1.0, True)]
    assert len(set(ones)) == 3  # to Python they are equal; what was traced for them is not
    assert Extra({"x": 1}) == {"x": 1} and Extra({"x": 1}) != {"x": 1.0}
    assert Extra({"x": 1}) != [("x", 1)]


def test_additions_cannot_be_changed_and_are_copied_with_the_spec():
    spec = tiny_spec(extra=ADDED)
    with pytest.raises(TypeError):
        spec.extra["slope"] = 1.0
    assert copy.deepcopy(spec) == spec == replace(spec)
    assert repr(spec.extra) == "{'count': 3, 'kind': 'alibi', 'slope': 8.0, 'wide': True}"


BAD = {
    "a list": {"extra": [1]},
    "text": {"extra": "wide"},
    "nothing": {"extra": None},
    "a nested one": {"extra": {"a": {"b": 1}}},
    "a list inside": {"extra": {"a": [1] * 10_000}},
    "no value": {"extra": {"a": None}},
    "no number": {"extra": {"a": float("nan")}},
    "an endless number": {"extra": {"a": float("inf")}},
    "a number that JSON loses": {"extra": {"a": 1 << 60}},
    "a long text": {"extra": {"a": "x" * 300}},
    "a name in capitals": {"extra": {"Wide": True}},
    "a dotted name": {"extra": {"a.b": True}},
    "too many": {"extra": {f"a{n}": 1 for n in range(65)}},
    "sub_norms": {"sub_norms": 1},
    "tie_embeddings": {"tie_embeddings": "no"},
    "activation": {"activation": ["relu2"]},
}


@pytest.mark.parametrize("case", BAD)
def test_what_no_spec_may_hold(case):
    with pytest.raises(BadData) as caught:
        ModelSpec.from_json(tiny_spec().to_json() | BAD[case])
    assert caught.value.code == "config.value"
    assert next(iter(BAD[case])) in caught.value.message and len(caught.value.message) < 300
