from __future__ import annotations

from pathlib import Path

import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.stores import hub
from bitnet_jax.stores.address import Address, parse
from bitnet_jax.stores.table import STORES, store_of


@pytest.mark.parametrize(
    "text", ["model.bitnet", "org/name", "./a:b", "C:/models", "a:/b", ":x://", "", "//x", "s:"]
)
def test_a_path_is_no_address(text):
    assert parse(text) is None


def test_an_address_is_taken_apart():
    address = parse("GS://bucket/a/b.bitnet/")
    assert address == Address("gs", "bucket/a/b.bitnet")
    assert (address.name, str(address.parent)) == ("b.bitnet", "gs://bucket/a")


@pytest.mark.parametrize(
    "text", ["gs://", "gs:///", "gs://a//b", "gs://a/../b", "s3://./x", "hf://a/b\0c"]
)
def test_an_address_that_names_nothing_is_refused(text):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.code == "store.address"


def test_an_address_that_went_through_pathlib_is_told(tmp_path):
    with pytest.raises(UsageError, match="drops a slash"):
        parse(Path("hf://org/name"))
    assert parse(tmp_path) is None


def test_an_unknown_scheme_lists_the_known():
    with pytest.raises(UsageError) as caught:
        store_of(Address("http", "x"))
    assert caught.value.code == "store.scheme"
    with pytest.raises(UsageError) as caught:
        store_of(Address("https", "huggingface.co/org/name"))
    assert caught.value.hint == "write hf://org/name"
    with pytest.raises(UsageError) as caught:
        store_of(Address("zz", "x"))
    assert all(name in caught.value.hint for name in STORES)


@pytest.mark.parametrize(
    ("text", "repo", "revision", "path"),
    [
        ("org/name", "org/name", "main", ""),
        ("org/name/m.bitnet", "org/name", "main", "m.bitnet"),
        ("org/name@v1.0/sub/m.bitnet", "org/name", "v1.0", "sub/m.bitnet"),
        ("org/name@feature%2Fx", "org/name", "feature/x", ""),
        ("org/name@refs/pr/3/m.bitnet", "org/name", "refs/pr/3", "m.bitnet"),
        ("org/name@" + "a" * 40, "org/name", "a" * 40, ""),
    ],
)
def test_a_hub_address(text, repo, revision, path):
    found, inside = hub.parse(Address("hf", text))
    assert (found.id, found.revision, inside) == (repo, revision, path)


@pytest.mark.parametrize(
    "text",
    ["name", "datasets/a/b", "org/na me", "org/na--me", "-org/name", "org/name@", "org/name@a..b",
     "org/name@%2e%2e%2f%2e%2e", "org/name@/x", "org/name@a%00b"],
)  # fmt: skip
def test_what_names_no_model_repository_is_refused(text):
    with pytest.raises(UsageError) as caught:
        hub.parse(Address("hf", text))
    assert caught.value.code.startswith("hub.")
