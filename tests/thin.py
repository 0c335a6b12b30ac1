"""Parameters of which `make test` runs some and `make test-heavy` the rest.

For a test that is one law over many rows, each of them seconds: every row still runs, but not on
every change.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

import pytest

from bitnet_jax.ops.native import library as native

heavy = pytest.mark.heavy


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at what is heavy
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Makes heavy, of each test marked `sampled(every)`, all rows but one in `every`.

    Which ones stay is decided by a checksum of the row's name: the same on every run, one at
    least, and in a product of parameters not always the same value of one of them.
    """
    rows = defaultdict(list)
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark and not item.get_closest_marker("heavy"):
            rows[item.nodeid.split("[")[0], *mark.args].append(item)
    for (_, every), found in rows.items():
        # Tests over the same rows keep the same ones: what they compile for a row is shared.
        found.sort(key=lambda item: zlib.crc32(item.name.partition("[")[2].encode()))
        for item in found[-(-len(found) // every) :]:
            item.add_marker(heavy)


def mostly_heavy(rows: Iterable[Any], kept: Collection[Any], attribute: str = "") -> list[Any]:
    """`rows` as parameters; all are heavy but those of `kept`, by themselves or by `attribute`."""
    rows = list(rows)
    names = [getattr(row, attribute) if attribute else row for row in rows]
    assert set(kept) <= set(names), set(kept) - set(names)  # a typing error keeps nothing
    return [
        pytest.param(row, marks=[] if name in kept else [heavy])
        for row, name in zip(rows, names, strict=True)
    ]


def each_isa(prefix: str = "") -> list[Any]:
    """Instruction sets that run here, after `prefix`; those between best and portable are heavy."""
    usable = native.status().usable_isas
    return [
        pytest.param(prefix + isa, marks=[heavy] * (isa not in (usable[0], "portable")))
        for isa in usable
    ]
