"""The text of a program: one golden per construct, the same in every process."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.ir.printer import _value
from bitnet_jax.ir.program import trace
from tests.ir.printed import CASES, printed


@pytest.mark.parametrize("name", CASES)
def test_golden(golden, name):
    golden(f"printed_{name}", printed(name))


@pytest.mark.parametrize("name", CASES)
def test_the_text_holds_no_address_and_no_path(name):
    text = printed(name)
    assert not re.search(r"0x[0-9a-f]{4}|\.py|<function|object at", text)
    assert not re.search(r"(?<![\w.])/\w", text)


def test_two_processes_print_the_same(repo):
    texts = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.ir.printed"],
            cwd=repo,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        texts.add(done.stdout)
    # and the same as here, where JAX has traced much else before
    texts.add("\n".join(printed(name) for name in CASES) + "\n")
    assert len(texts) == 1


def test_a_body_that_stood_before_is_only_named():
    text = printed("repeated_jit")
    assert text.count("dot_general") == 1
    assert re.findall(r"name=layer}\n    jaxpr @1(.)", text, re.DOTALL) == ["(", "\n"]


def test_one_changed_equation_is_one_changed_line():
    def first(params, x):
        return jax.jit(jnp.sin)(x) @ params["w"]

    def second(params, x):
        return jax.jit(jnp.cos)(x) @ params["w"]

    texts = [
        str(trace(fn, {"w": jnp.ones((4, 4))}, jnp.ones((2, 4)))).splitlines()
        for fn in (first, second)
    ]
    different = [pair for pair in zip(*texts, strict=True) if pair[0] != pair[1]]
    assert len(different) == 2  # the call's name, the equation in its body


class Unknown:
    """What a later JAX may put into an equation."""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (frozenset({"b", "a", "c"}), "{a, b, c}"),
        ({"b": 1, "a": (2,)}, "((a, (2,)), (b, 1))"),
        ((np.int64(1), 2.5, None), "(1, 2.5, None)"),
        (jnp.dtype("bfloat16"), "bfloat16"),
        (np.zeros((2, 3), np.int8), "array i8[2,3]"),
        (Unknown(), "Unknown"),
        (Unknown.__init__, "object.__init__"),
    ],
)
def test_values(value, text):
    assert _value(value) == text
