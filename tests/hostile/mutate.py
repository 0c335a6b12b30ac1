"""Damage for any container: changes of bytes, of JSON inside them, of whole folders.

A sample is a model as its files, name -> bytes. A mutation takes a sample and a source of
choices (hypothesis, or a seeded generator for long runs), and returns another. Knows no
container: `containers.py` says which mutations each one gets.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Sample = dict[str, bytes]


class Choices(Protocol):
    """Where a mutation gets its luck from."""

    def whole(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        ...

    def one_of(self, items: Sequence[Any]) -> Any:
        """One of them; there is at least one."""
        ...


class Seeded:
    """Choices of a seeded generator: the same seed, the same damage."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)

    def whole(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def one_of(self, items: Sequence[Any]) -> Any:
        return items[self._random.randrange(len(items))]


class Drawn:
    """Choices that hypothesis makes, and can make smaller."""

    def __init__(self, data: Any):
        from hypothesis import strategies

        self._data, self._of = data, strategies

    def whole(self, low: int, high: int) -> int:
        return self._data.draw(self._of.integers(low, high))

    def one_of(self, items: Sequence[Any]) -> Any:
        return items[self.whole(0, len(items) - 1)]


Mutation = Callable[[Choices, Sample], Sample]
Change = Callable[[Choices, bytes], bytes]

# ------------------------------------------------------------------------------- bytes

# Numbers at which length arithmetic goes wrong.
EDGES = (0, 1, 2, 7, 8, 127, 128, 255, 256, 65535, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 53,
         (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 100_000_000, 100_000_001)  # fmt: skip


def flip_bits(choose: Choices, data: bytes) -> bytes:
    raw = bytearray(data)
    for _ in range(choose.whole(1, 3)):
        if raw:
            raw[choose.whole(0, len(raw) - 1)] ^= 1 << choose.whole(0, 7)
    return bytes(raw)


def flip_early_bits(choose: Choices, data: bytes) -> bytes:
    """As `flip_bits`, near the start: headers are short and data is long."""
    cut = choose.whole(1, max(1, min(len(data), 4096)))
    return flip_bits(choose, data[:cut]) + data[cut:]


def truncate(choose: Choices, data: bytes) -> bytes:
    return data[: choose.whole(0, max(0, len(data) - 1))]


def grow(choose: Choices, data: bytes) -> bytes:
    return data + bytes([choose.whole(0, 255)]) * choose.one_of((1, 8, 64, 4096))


def splice(choose: Choices, data: bytes) -> bytes:
    """A range is cut out, doubled, or copied over another."""
    if not data:
        return b"\0"
    begin = choose.whole(0, len(data) - 1)
    end = min(len(data), begin + choose.one_of((1, 2, 8, 16, 64, 512)))
    at = choose.whole(0, len(data))
    piece = data[begin:end]
    return choose.one_of(
        (
            data[:begin] + data[end:],
            data[:at] + piece + data[at:],
            data[:at] + piece + data[at + len(piece) :],
        )
    )


def put_number(choose: Choices, data: bytes) -> bytes:
    """An edge case of arithmetic where a length might stand."""
    width = choose.one_of((1, 2, 4, 8))
    value = (choose.one_of(EDGES) + choose.whole(-1, 1)) % (1 << 8 * width)
    at = choose.one_of((0, 8, choose.whole(0, max(0, len(data) - 1))))
    return data[:at] + value.to_bytes(width, "little") + data[at + width :]


BYTES: tuple[Change, ...] = (flip_bits, flip_early_bits, truncate, grow, splice, put_number)

# -------------------------------------------------------------------------------- JSON


class Pairs(list):
    """A JSON object as its pairs: a key may stand twice."""


@dataclass(frozen=True)
class Raw:
    """Text that goes into the JSON as it stands."""

    text: str


def loads(text: bytes) -> Any:
    return json.loads(text, object_pairs_hook=Pairs)


def dumps(value: Any) -> str:
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(k)}:{dumps(v)}" for k, v in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumps, value)) + "]"
    return json.dumps(value)


# What stands where something else was expected.
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 1.5, -0.0, 1e308, 5e-324, 1 << 31, 1 << 32, 1 << 53, 1 << 63,
    -(1 << 63), 1 << 64, 10**30, "", "0", "1", "x", "../x", "/etc/passwd", "a\0b", "é", "\ud800",
    "NaN", "a" * 2000, [], [[]], [0], [1, 2], [None], Pairs(), Pairs([("a", 1)]),
    Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("9" * 5000), Raw("01"),
    Raw("[" * 5000 + "]" * 5000), Raw('{"a":' * 2000 + "1" + "}" * 2000), Raw('{"a":1,"a":2}'),
    Raw('"\\ud800"'), Raw(""),
)  # fmt: skip


def places(value: Any, path: tuple[int, ...] = ()) -> list[tuple[Any, int]]:
    """Every (container, index) in a JSON value, outermost first."""
    found: list[tuple[Any, int]] = []
    if isinstance(value, list):
        found += [(value, index) for index in range(len(value))]
        for item in value:
            found += places(item[1] if isinstance(value, Pairs) else item)
    return found


def change_json(choose: Choices, value: Any) -> Any:
    """Changes one or two places of a parsed JSON value; returns it."""
    for _ in range(choose.whole(1, 2)):
        spots = places(value)
        if not spots:
            return copy.deepcopy(choose.one_of(STRANGE))
        home, index = choose.one_of(spots)
        move = choose.one_of(("value", "value", "nudge", "drop", "twice", "key", "swap"))
        if move == "drop":
            del home[index]
        elif move == "twice":
            home.insert(choose.whole(0, len(home)), copy.deepcopy(home[index]))
        elif move == "swap":
            other, at = choose.one_of(spots)
            if isinstance(home, Pairs) == isinstance(other, Pairs) and not _holds(home, other):
                home[index], other[at] = other[at], home[index]
        elif isinstance(home, Pairs):
            key, item = home[index]
            if move == "key":
                names = ("", "__x", "a/../b", "a\0b", "__metadata__", key + "x", key[:-1], key * 40)
                home[index] = (choose.one_of(names), item)
            else:
                home[index] = (key, _instead(choose, item, move))
        else:
            home[index] = _instead(choose, home[index], move)
    return value


def _holds(one: Any, other: Any) -> bool:
    """One lies in the other: to swap them would tie a knot."""
    if one is other:
        return False
    return any(spot[0] is other for spot in places(one)) or any(
        spot[0] is one for spot in places(other)
    )


def _instead(choose: Choices, value: Any, move: str) -> Any:
    if move == "nudge" and isinstance(value, int | float) and not isinstance(value, bool):
        return value + choose.one_of((-1, 1, -64, 64, 1 << 40, -(1 << 40)))
    if move == "nudge" and isinstance(value, str) and value:
        at = choose.whole(0, len(value) - 1)
        return value[:at] + chr(choose.one_of((0, 1, 32, 48, 57, 97, 0xE9, 0x2028))) + value[at:]
    return copy.deepcopy(choose.one_of(STRANGE))


def json_text(choose: Choices, data: bytes) -> bytes:
    """A JSON file with its values changed; anything else with its bytes changed."""
    try:
        value = loads(data)
    except (ValueError, RecursionError):
        return choose.one_of(BYTES)(choose, data)
    return dumps(change_json(choose, value)).encode("utf-8", "surrogatepass")


# ---------------------------------------------------------------- files that have others in them


def inside(names: Callable[[str], bool], changes: Sequence[Change]) -> Mutation:
    """A change of one of the sample's files that `names` picks."""

    def mutate(choose: Choices, sample: Sample) -> Sample:
        picked = [name for name in sample if names(name)]
        if not picked:
            return sample
        name = choose.one_of(picked)
        return sample | {name: choose.one_of(changes)(choose, sample[name])}

    return mutate


# What people and their tools leave in a model's place.
MISTAKEN: Mapping[str, bytes] = {
    "empty": b"",
    "text": b"hello\n",
    "html": b"<!DOCTYPE html><html></html>",
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "zeros": b"\0" * 4096,
    "list": b"[]",
    "object": b"{}",
    "number": b"5",
}


def replace_file(choose: Choices, sample: Sample) -> Sample:
    name = choose.one_of(sorted(sample))
    other = choose.one_of((*MISTAKEN.values(), *sample.values()))
    return sample | {name: other}


def drop_file(choose: Choices, sample: Sample) -> Sample:
    name = choose.one_of(sorted(sample))
    return {other: data for other, data in sample.items() if other != name}


def rename_file(choose: Choices, sample: Sample) -> Sample:
    name = choose.one_of(sorted(sample))
    new = choose.one_of(
        ("model.safetensors", "model-00009-of-00009.safetensors", "config.json", "x.bin", "README")
    )
    return {new if other == name else other: data for other, data in sample.items()}


def damage(
    choose: Choices, sample: Sample, mutations: Mapping[str, Mutation]
) -> tuple[Sample, list[str]]:
    """One to three of the mutations, one after another; with their names."""
    used = []
    for _ in range(choose.one_of((1, 1, 1, 2, 3))):
        if sample:
            used.append(choose.one_of(sorted(mutations)))
            sample = mutations[used[-1]](choose, sample)
    return sample, used
