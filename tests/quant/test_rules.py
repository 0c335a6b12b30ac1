"""Rules: patterns, order, and the ones that took nothing."""

import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.quant.rules import Rule, as_rules, check_used, match


@pytest.mark.parametrize(
    ("pattern", "path", "takes"),
    [
        ("layers.*.mlp.*_proj", "layers.0.mlp.gate_proj", True),
        ("layers.*.mlp.*_proj", "layers.0.1.mlp.gate_proj", False),
        ("**.q_proj", "layers.0.self_attn.q_proj", True),
        ("**.q_proj", "q_proj", True),
        ("**", "anything.at.all", True),
        ("layers.?.w", "layers.7.w", True),
        ("layers.?.w", "layers.10.w", False),
        ("a.b", "a_b", False),
    ],
)
def test_patterns(pattern, path, takes):
    assert Rule(pattern).takes(path, "dot") is takes


def test_the_first_match_wins():
    rules = [Rule("a.*", to="keep"), Rule("**"), Rule("b", use="gather")]
    assert match(rules, "a.x", "dot") == 0
    assert match(rules, "b", "dot") == 1
    assert match(rules, "b", "gather") == 2
    assert match(rules, "c", "gather") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"use": "mul"},
        {"to": "int3"},
        {"scale": "column"},
        {"scale": "group-24"},
        {"scale_dtype": "f8"},
    ],
)
def test_unknown_values_are_refused(wrong):
    with pytest.raises(UsageError, match="rule `w`"):
        Rule("w", **wrong)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", 3),
        ("path", None),
        ("use", None),
        ("to", ["int8"]),
        ("scale", None),
        ("scale", 64),
        ("scale_dtype", None),
        ("stack", 0),
        ("stack", None),
        ("stack", "0"),
        ("stack", [True]),
        ("stack", [0, 0]),
        ("stack", [0.0]),
        ("stack", {0: 1}),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_refused_as_yaml_gives_it(field, value):
    with pytest.raises(UsageError) as caught:
        as_rules([{"path": "w", field: value}])
    assert caught.value.code == f"rule.{field}"
    assert repr(value) in caught.value.message


def test_an_unused_rule_is_named_with_what_is_near():
    with pytest.raises(UsageError, match=r"rule 2 \(`layers.\*.gate`") as caught:
        check_used([Rule("a"), Rule("layers.*.gate")], [0], ["a", "layers.0.gate_proj"])
    assert "layers.0.gate_proj" in caught.value.hint


def test_a_star_that_stops_at_a_dot_is_explained():
    with pytest.raises(UsageError) as caught:
        check_used([Rule("*")], [], ["params.kernel", "params.bias"])
    assert "write `**.*` to reach any depth" in caught.value.hint


@pytest.mark.parametrize(
    "rules",
    ["**", Rule("**"), None, 3, {"path": "**"}, ["**"], [{"paht": "**"}], [Rule("*"), 1]],
    ids=repr,
)
def test_what_is_no_list_of_rules_is_refused(rules):
    with pytest.raises(UsageError) as caught:
        as_rules(rules)
    assert caught.value.code == "rule.list" and "bj.Rule(" in caught.value.hint


def test_rules_may_be_mappings_as_a_file_holds_them():
    rules = as_rules([{"path": "a", "to": "int8", "stack": [0]}, Rule("b")])
    assert rules == (Rule("a", to="int8", stack=(0,)), Rule("b"))
