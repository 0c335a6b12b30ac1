"""YAML as people and strangers write it: read as meant, or refused with its place."""

import time

import pytest

from bitnet_jax.core.errors import ConfigError
from bitnet_jax.core.yaml_text import parse, place_of, read_text

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]\n"
    for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)

REFUSED = {
    "a key twice": ("a: 1\na: 2\n", "f.yaml:2:1: found duplicate key"),
    "a key twice, inside": ("a:\n  b: 1\n  b: 2\n", "f.yaml:3:3: found duplicate key"),
    "a tab": ("a:\n\tb: 1\n", "f.yaml:2:1: found character '\\t'"),
    "an alias bomb": (BOMB, "aliases expand to"),
    "an alias of itself": ("a: &a [*a]\n", "f.yaml:1:8: `*a` stands inside"),
    "an alias of nothing": ("a: *b\n", "f.yaml:1:4: found undefined alias"),
    "100 000 brackets": ("a: [" + "[" * 100_000, "f.yaml:1:67: nested more than 64 deep"),
    "100 000 dashes": ("- " * 100_000 + "a", "nested more than 64 deep"),
    "a tag that names code": ("a: !!python/object/apply:os.system [x]\n", "f.yaml:1:4: the tag"),
    "a tag of one's own": ("b: 1\na: !x 1\n", "f.yaml:2:4: the tag `!x`"),
    "a bell": ("a: 1\nb: x\x07\n", "f.yaml:2:5: unacceptable character"),
    "no such day": ("b: 1\na: 2026-99-99\n", "f.yaml:2:4: month must be"),
    "a number of 5000 digits": (f"a: {'9' * 5000}\n", "f.yaml:1:4: Exceeds the limit"),
    "two documents": ("a: 1\n---\nb: 2\n", "f.yaml:2:1: but found another document"),
    "an open quote": ("a: 'x", "f.yaml:1:6: found unexpected end"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_its_place_and_soon(name):
    text, message = REFUSED[name]
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml", code="settings.syntax")
    assert message in caught.value.message and "\n" not in caught.value.message
    assert (caught.value.code, caught.value.exit_code) == ("settings.syntax", 78)
    assert caught.value.hint
    assert time.monotonic() - began < 20


def test_numbers_and_words_are_read_as_yaml_1_2_has_them():
    tree = parse("a: 1e-4\nb: 010\nc: 12:30\nd: no\ne: 1_000\n", "f", code="settings.syntax")
    assert dict(tree) == {"a": 1e-4, "b": 10, "c": "12:30", "d": "no", "e": 1000}


def test_an_empty_text_is_nothing_and_a_few_aliases_are_fine():
    assert parse("", "f", code="settings.syntax") is None
    assert parse("# only this\n", "f", code="settings.syntax") is None
    tree = parse("a: &x {b: 1}\nc: {<<: *x, d: 2}\ne: *x\n", "f", code="settings.syntax")
    assert tree["c"] == {"b": 1, "d": 2} and tree["e"] == {"b": 1}


def test_the_place_of_a_key():
    tree = parse("a: 1\nb:\n  c: 2\n", "f", code="settings.syntax")
    assert place_of(tree["b"], "c", "f") == "f:3:3"
    assert place_of({"c": 1}, "c", "f") == "f"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a: 1".encode("utf-16"), "f.yaml:1:1: this is UTF-16 text"),
        ("a: 1".encode("utf-32"), "f.yaml:1:1: this is UTF-32 text"),
        (b"a: 1\nb: \xe8\n", "f.yaml:2:4: not UTF-8 text"),
        (b"a" * 4_000_001, "longer than 4000000 bytes"),
    ],
)
def test_what_is_no_utf_8_text(tmp_path, data, message):
    path = tmp_path / "f.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_text(path, what="recipe", code="train.config_yaml")
    assert message in caught.value.message and caught.value.code == "train.config_yaml"


def test_a_byte_order_mark_before_utf_8_is_passed_over(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_text(path, what="recipe", code="train.config_yaml") == "a: 1\n"
