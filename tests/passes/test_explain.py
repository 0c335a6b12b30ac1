"""The table of what rules will do: complete, true to what `pack` then does, never refusing."""

import io

import jax
import jax.numpy as jnp
import pytest

import bitnet_jax as bj

PARAMS = {
    "embed": jnp.ones((64, 32)),
    "layers": {"w": jnp.ones((3, 32, 32)), "norm": jnp.ones((3, 32))},
    "head_bias": jnp.ones(64),
    "conv": jnp.ones((3, 3, 1, 4)),
    "unused": jnp.ones((2, 2)),
    "steps": jnp.zeros((), jnp.int32),
}
RULES = [bj.Rule("conv", use="*", to="keep"), bj.Rule("layers.*"), bj.Rule("embed", to="int8")]


def model(p, tokens, image):
    def layer(h, xs):
        return h + jnp.tanh(h * xs["norm"]) @ xs["w"], None

    h, _ = jax.lax.scan(layer, p["embed"][tokens], p["layers"])
    seen = jax.lax.conv_general_dilated(
        image, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return h @ p["embed"].T + p["head_bias"] + seen.mean() + p["steps"]


ARGS = (jnp.array([1, 2]), jnp.ones((1, 5, 5, 1)))


def test_each_parameter_with_uses_rule_and_bytes():
    out = io.StringIO()
    found = bj.explain(model, PARAMS, RULES, *ARGS, file=out)
    rows = {row.name: row for row in found.parameters}
    assert list(rows) == sorted(rows)
    assert rows["layers.w"].becomes == "ternary tensor"
    assert rows["layers.w"].rule == 1
    assert rows["layers.w"].uses[0].startswith("dot test_explain.py:")
    assert [use.split()[0] for use in rows["embed"].uses] == ["gather", "dot"]
    assert rows["embed"].becomes == "int8 tensor + float"
    assert rows["layers.norm"].uses[0].startswith("gain")
    assert rows["conv"].uses[0].startswith("conv")
    assert rows["head_bias"].uses[0].startswith("bias")
    assert rows["unused"].uses == ()
    assert not found.problems
    text = out.getvalue()
    assert text == f"{found}\n"
    for name, row in rows.items():
        assert f"{row.bytes_after:,}" in next(s for s in text.splitlines() if s.startswith(name))


def test_the_bytes_are_those_that_packing_gives():
    found = bj.explain(model, PARAMS, RULES, *ARGS, file=io.StringIO())
    leaves = bj.pack(model, PARAMS, RULES, *ARGS).leaves
    for row in found.parameters:
        own = [leaf for name, leaf in leaves.items() if name.partition("@")[0] == row.name]
        assert sum(leaf.nbytes for leaf in own) == row.bytes_after, row.name


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (bj.Rule("layers.v"), "quant.rule_unused"),
        (bj.Rule("unused"), "is not used by the function"),
        (bj.Rule("steps"), "not floats"),
    ],
)
def test_what_would_be_refused_stands_under_the_table(rule, said, capsys):
    found = bj.explain(model, PARAMS, [*RULES, rule], *ARGS)
    assert said in found.problems[0]
    assert f"problem: {found.problems[0]}" in capsys.readouterr().out


def test_a_masked_weight_is_shown_and_not_refused(capsys):
    bj.explain(lambda p, x: x @ (p["w"] * 2), {"w": jnp.ones((4, 4))}, [bj.Rule("w")], jnp.ones(4))
    out = capsys.readouterr().out
    assert "transform.unfollowable" in out
    assert "mul test_explain.py" in out
