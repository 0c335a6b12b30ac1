"""Stages: written where asked, checked where asked, and otherwise nothing is done."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import BitnetError, CannotCreate, InternalError
from bitnet_jax.ir import stages
from bitnet_jax.ir.program import trace
from bitnet_jax.ir.stages import VERIFY, count_equations, dump_passes

PARAMS = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
X = jnp.ones((2, 4))


def two_products(params, x):
    return jnp.sin(x @ params["a"]) @ params["b"]


def traced(fn=two_products):
    return trace(fn, PARAMS, X)


def same(program, name):
    """A pass that changes nothing."""
    return program.derived(name, program.jaxpr)


def careless(program):
    """A pass that loses an equation."""
    closed = program.jaxpr
    jaxpr = closed.jaxpr.replace(eqns=closed.jaxpr.eqns[1:])
    return program.derived("careless", closed.replace(jaxpr=jaxpr))


def index(folder):
    return json.loads((folder / "index.json").read_text())


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_each_stage_is_a_file_and_a_line_of_the_index(tmp_path):
    with dump_passes(tmp_path / "new" / "dump"):
        first = traced()
        second = same(first, "second")
        third = same(second, "third")
    folder = tmp_path / "new" / "dump"
    names = ["00-trace.txt", "01-second.txt", "02-third.txt"]
    assert files(folder) == [*(f"00-two_products/{name}" for name in names), "index.json"]
    for name, program in zip(names, (first, second, third), strict=True):
        assert (folder / "00-two_products" / name).read_text() == str(program)
    (entry,) = index(folder)["programs"]
    assert entry["function"] == "two_products" and entry["folder"] == "00-two_products"
    assert [stage["file"] for stage in entry["stages"]] == names
    assert [stage["passes"] for stage in entry["stages"]] == [[], ["second"], ["second", "third"]]
    assert entry["stages"][0]["seconds"] is None
    assert all(stage["seconds"] >= 0 for stage in entry["stages"][1:])
    assert [stage["equations"] for stage in entry["stages"]] == [3, 3, 3]
    assert entry["stages"][0]["primitives"] == {"dot_general": 2, "sin": 1}


def test_each_function_has_a_folder_also_of_the_same_name(tmp_path):
    class Model:
        def __call__(self, params, x):
            return two_products(params, x)

    with dump_passes(tmp_path):
        for fn in (
            two_products,
            two_products,
            lambda p, x: two_products(p, x),
            functools.partial(lambda scale, p, x: scale * two_products(p, x), 2.0),
            Model(),
        ):
            traced(fn)
    names = [entry["folder"] for entry in index(tmp_path)["programs"]]
    assert names == ["00-two_products", "01-two_products", "02-lambda", "03-lambda", "04-Model"]


def test_two_passes_over_one_program_stand_beside_each_other(tmp_path):
    with dump_passes(tmp_path):
        first = traced()
        same(first, "one")
        same(first, "other")
    assert [path.split("/")[-1] for path in files(tmp_path)[:-1]] == [
        "00-trace.txt",
        "01-one.txt",
        "02-other.txt",
    ]


def test_a_program_from_before_the_block_is_its_input(tmp_path):
    first = same(traced(), "early")
    with dump_passes(tmp_path):
        same(first, "late")
    assert files(tmp_path) == [
        "00-program/00-input.txt",
        "00-program/01-late.txt",
        "index.json",
    ]


def test_after_the_block_nothing_is_written(tmp_path):
    with dump_passes(tmp_path):
        first = traced()
    same(first, "late")
    assert files(tmp_path) == ["00-two_products/00-trace.txt", "index.json"]


def test_nothing_asked_nothing_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VERIFY, raising=False)
    with dump_passes(None):
        careless(traced())
    assert not files(tmp_path)


def test_a_block_in_which_nothing_is_traced_leaves_an_index(tmp_path):
    with dump_passes(tmp_path):
        pass
    assert index(tmp_path) == {"schema": "bitnet/1", "programs": []}


def test_a_block_that_fails_before_anything_is_traced_leaves_the_folder_free(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), dump_passes(tmp_path / "dump"):
            raise KeyError


def test_two_runs_do_not_mix(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CannotCreate) as caught, dump_passes(tmp_path):
        raise AssertionError("the block must not begin")
    assert caught.value.code == "dump.exists" and "new directory" in caught.value.hint
    assert files(tmp_path) == ["notes.txt"]


def test_a_file_stands_where_the_folder_should(tmp_path):
    (tmp_path / "dump").write_text("")
    for place in (tmp_path / "dump", tmp_path / "dump" / "inner"):
        with pytest.raises(BitnetError), dump_passes(place):
            pass


def test_a_jitted_function_is_written_once(tmp_path):
    run = jax.jit(bj.ternarize(two_products, [bj.Rule("**")]))
    with dump_passes(tmp_path):
        for _ in range(3):
            run(PARAMS, X)
    assert files(tmp_path) == [
        "00-two_products/00-trace.txt",
        "00-two_products/01-quantize_linears.txt",
        "index.json",
    ]


def test_asked_to_verify_a_pass_is_named_as_it_ends(monkeypatch):
    monkeypatch.setenv(VERIFY, "1")
    with pytest.raises(InternalError, match="pass `careless`, which was given what `fine` left"):
        careless(same(traced(), "fine"))


@pytest.mark.parametrize("value", ["", "0"])
def test_not_asked_to_verify(monkeypatch, value):
    monkeypatch.setenv(VERIFY, value)
    assert careless(traced()).passes == ("careless",)


def test_a_program_that_does_not_hold_is_written_and_its_file_named(tmp_path, monkeypatch):
    monkeypatch.setenv(VERIFY, "1")
    with pytest.raises(InternalError) as caught, dump_passes(tmp_path):
        careless(traced())
    file = tmp_path / "00-two_products" / "01-careless.txt"
    assert str(file) in caught.value.hint and "careless" in file.read_text()


def test_the_tests_run_verified():
    with pytest.raises(InternalError):
        careless(traced())


def test_equations_of_bodies_are_counted():
    def looped(params, x):
        return jax.lax.fori_loop(0, 3, lambda i, s: jnp.sin(s @ params["a"]), x) + params["b"][:2]

    counts = count_equations(traced(looped))
    assert counts["dot_general"] == 1 and counts["sin"] == 1 and counts["scan"] == 1


def test_a_program_of_a_replaced_field_is_no_stage(tmp_path):
    # Only what a pass made is one: copies are free.
    with dump_passes(tmp_path):
        replace(traced(), param_names=("x", "y"))
    assert stages.INDEX in files(tmp_path) and len(files(tmp_path)) == 2
