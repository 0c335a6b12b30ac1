"""Records made plain, and the one envelope."""

import enum
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bitnet_cli.envelope import dump, envelope, event, plain


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Record:
    name: str
    shape: tuple


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Record("w", (2, np.int64(3))), {"name": "w", "shape": [2, 3]}),
        (Path("a/b"), "a/b"),
        (Colour.RED, "red"),
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
        (np.bool_(True), True),
        ({1: {"b", "a"}}, {"1": ["a", "b"]}),
        (float("nan"), None),
        (np.float64("inf"), None),
        (np.array([1.0, np.nan]), [1.0, None]),
        (None, None),
    ],
)
def test_plain(value, expected):
    assert plain(value) == expected
    assert json.loads(dump(plain(value))) == expected


def test_what_has_no_json_form_is_an_error():
    with pytest.raises(TypeError, match="object"):
        plain({"a": object()})


def test_the_envelope_has_exactly_its_names():
    made = envelope("model convert", ok=True, exit_code=0, data={}, warnings=[], errors=[])
    assert list(made) == ["schema", "command", "ok", "exit_code", "data", "warnings", "errors"]
    assert made["schema"] == "bitnet/1"


def test_events_carry_the_schema():
    assert event("metric", loss=1.5) == {"schema": "bitnet/1", "event": "metric", "loss": 1.5}


def test_json_is_ascii_where_the_stream_is():
    ascii_stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert dump("é", ascii_stream) == '"\\u00e9"'
    assert dump("é", io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) == '"é"'
