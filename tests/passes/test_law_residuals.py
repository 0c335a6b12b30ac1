"""What a remat policy keeps for the backward pass: what it keeps of the float function."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import print_saved_residuals

import bitnet_jax as bj
from tests.passes.laws import CASES
from tests.passes.laws.check import arrays
from tests.passes.laws.remat import POLICIES, P

# These keep every value or every value without a name: the quantized arithmetic has more of them.
KEEP_ALL = ("everything_saveable", "save_anything_except_these_names")


def saved(function, case, capsys):
    """The arrays kept, as ``f32[4,24]`` (``f32<host>[4,24]`` off the device), sorted."""
    capsys.readouterr()
    print_saved_residuals(function, arrays(case.params), *arrays(case.inputs))
    return sorted(line.split(" ")[0] for line in capsys.readouterr().out.splitlines())


def products(function, case):
    """How many dots the gradient's program has: a product that is not kept is one more."""

    def loss(params):
        return sum(y.sum() for y in jax.tree.leaves(function(params, *arrays(case.inputs))))

    return str(jax.make_jaxpr(jax.grad(loss))(arrays(case.params))).count("dot_general[")


@pytest.mark.parametrize("policy", [name for name in POLICIES if name not in KEEP_ALL])
def test_the_saved_set_is_that_of_the_float_function(policy, capsys):
    case = CASES[f"remat, {policy}"]
    want = saved(case.fn, case, capsys)
    assert saved(bj.ternarize(case.fn, case.rules), case, capsys) == want


@pytest.mark.parametrize("name", ["remat in scan", "scan in remat", "nested remat"])
def test_the_saved_set_where_loops_and_remats_meet(name, capsys):
    case = CASES[name]
    want = saved(case.fn, case, capsys)
    assert saved(bj.ternarize(case.fn, case.rules), case, capsys) == want


@pytest.mark.parametrize("policy", POLICIES)
def test_as_many_products_are_computed_again_as_of_the_float_function(policy):
    case = CASES[f"remat, {policy}"]
    assert products(bj.ternarize(case.fn, case.rules), case) == products(case.fn, case)


def test_the_count_tells_a_policy_that_keeps_products_from_one_that_does_not():
    keeps, does_not = CASES["remat, dots_saveable"], CASES["remat, nothing_saveable"]
    qat = [bj.ternarize(case.fn, case.rules) for case in (keeps, does_not)]
    assert products(qat[0], keeps) < products(qat[1], does_not)


def test_a_traced_lambda_keeps_no_more(capsys):
    case = CASES["remat, dots_saveable"]
    qat = bj.ternarize(case.fn, case.rules)
    blended = saved(lambda p, x: qat(p, x, lam=jnp.float32(0.5)), case, capsys)
    scalars = [line for line in blended if re.fullmatch(r"f32\[(1,?)*\]", line)]
    assert sorted(set(blended) - set(scalars)) == sorted(set(saved(case.fn, case, capsys)))


def test_the_product_itself_is_not_kept_where_its_gradient_does_not_need_it(capsys):
    """The gradient of a product needs its operands alone; guards must not ask for more."""
    case = CASES["row scales"]

    def fn(p, x):
        return jax.checkpoint(case.fn, policy=P.dots_saveable)(p, x)

    want = saved(fn, case, capsys)
    assert saved(bj.ternarize(fn, case.rules), case, capsys) == want
