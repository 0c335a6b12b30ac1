"""Each invariant broken on purpose: it is caught, and the pass that broke it is named."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.extend.core as jec
import jax.numpy as jnp
import pytest
from jax import lax

from bitnet_jax.core.errors import InternalError
from bitnet_jax.ir.program import trace
from bitnet_jax.ir.verify import verify
from tests.ir.printed import CASES, W, X

TABLE = jnp.arange(4.0)


def two_products(params, x):
    return jnp.sin(x @ params["a"]) @ params["b"] + TABLE


def scanned(params, x):
    return lax.scan(lambda c, _: (jnp.sin(c @ params["a"]) @ params["b"], None), x, None, 3)[0]


def program(fn=two_products):
    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
    return trace(fn, params, jnp.ones((2, 4)))


def with_jaxpr(made, **changes):
    """`made` with another jaxpr: what a careless pass would leave."""
    closed = made.jaxpr
    return replace(made, jaxpr=jec.ClosedJaxpr(closed.jaxpr.replace(**changes), closed.consts))


def fewer_inputs(made):
    return replace(made, inputs_tree=jax.tree.structure((0, 0)))


def fewer_names(made):
    return replace(made, param_names=("a",))


def one_name_twice(made):
    return replace(made, param_names=("a", "a"))


def more_results(made):
    return replace(made, out_tree=jax.tree.structure((0, 0)))


def used_before_defined(made):
    return with_jaxpr(made, eqns=made.jaxpr.jaxpr.eqns[::-1])


def never_defined(made):
    return with_jaxpr(made, eqns=made.jaxpr.jaxpr.eqns[1:])


def defined_twice(made):
    eqns = made.jaxpr.jaxpr.eqns
    return with_jaxpr(made, eqns=[*eqns, eqns[0]])


def wrong_type(made):
    first, *others = made.jaxpr.jaxpr.eqns
    narrow = first.outvars[0].aval.update(dtype=jnp.dtype("bfloat16"))
    out = jec.Var(narrow)
    eqns = [first.replace(outvars=[out]), *others]
    return with_jaxpr(made, eqns=eqns)


def inside_a_body(made):
    made = program(scanned)
    (scan,) = [eqn for eqn in made.jaxpr.jaxpr.eqns if eqn.primitive.name == "scan"]
    body = scan.params["jaxpr"]
    broken = jec.ClosedJaxpr(body.jaxpr.replace(eqns=body.jaxpr.eqns[::-1]), body.consts)
    params = scan.params | {"jaxpr": broken}
    eqns = [eqn.replace(params=params) if eqn is scan else eqn for eqn in made.jaxpr.jaxpr.eqns]
    return with_jaxpr(made, eqns=eqns)


BROKEN = {
    fewer_inputs: "it has 3 inputs, and its trees 4",
    fewer_names: "1 names for 2 parameters",
    one_name_twice: "two parameters are named `a`",
    more_results: "it has 1 results, and its tree 2",
    used_before_defined: "not defined",
    never_defined: "not defined",
    defined_twice: "already",
    wrong_type: "dot_general",
    inside_a_body: "not defined",
}


def test_a_traced_program_holds():
    for fn in (two_products, scanned):
        made = program(fn)
        assert verify(made) is made


@pytest.mark.parametrize("name", CASES)
def test_every_construct_holds(name):
    verify(trace(CASES[name], {"w": W}, X))


@pytest.mark.parametrize("broken", BROKEN, ids=lambda fn: fn.__name__)
def test_a_broken_program_names_the_pass_and_the_fault(broken):
    made = replace(broken(program()), passes=("tidy", "careless"))
    with pytest.raises(InternalError) as caught:
        verify(made)
    error = caught.value
    assert error.code == "program.invalid"
    assert "pass `careless`, which was given what `tidy` left" in error.message
    assert BROKEN[broken] in error.message
    assert "while checking" not in error.message  # a sentence, not the whole jaxpr
    assert "--dump-passes" in error.hint


def test_the_file_that_shows_it_is_the_hint(tmp_path):
    with pytest.raises(InternalError) as caught:
        verify(replace(fewer_names(program()), passes=("one",)), dump=tmp_path / "01-one.txt")
    assert "pass `one`, which was given what `trace` left" in caught.value.message
    assert caught.value.hint == f"it is in `{tmp_path / '01-one.txt'}`"


@pytest.mark.parametrize("broken", BROKEN, ids=lambda fn: fn.__name__)
def test_a_broken_program_prints(broken):
    assert "return" in str(broken(program()))
