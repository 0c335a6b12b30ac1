"""`jax.checkpoint` with each stock policy, and where scans meet it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from tests.passes.laws.case import IN, OUT, Case, normal, relu, tokens
from tests.passes.laws.control import LINEAR, block, element, scan_twin, stacked

P = jax.checkpoint_policies
NAMES = ("hidden", "result")

# Every policy that JAX ships, those that take arguments with some.
POLICIES = {
    "everything_saveable": P.everything_saveable,
    "nothing_saveable": P.nothing_saveable,
    "dots_saveable": P.dots_saveable,
    "checkpoint_dots": P.checkpoint_dots,
    "dots_with_no_batch_dims_saveable": P.dots_with_no_batch_dims_saveable,
    "checkpoint_dots_with_no_batch_dims": P.checkpoint_dots_with_no_batch_dims,
    "offload_dot_with_no_batch_dims": P.offload_dot_with_no_batch_dims("device", "pinned_host"),
    "save_anything_except_these_names": P.save_anything_except_these_names("hidden"),
    "save_any_names_but_these": P.save_any_names_but_these("hidden"),
    "save_only_these_names": P.save_only_these_names("hidden"),
    "save_from_both_policies": P.save_from_both_policies(
        P.dots_with_no_batch_dims_saveable, P.save_only_these_names("result")
    ),
    "save_and_offload_only_these_names": P.save_and_offload_only_these_names(
        names_which_can_be_saved=["hidden"],
        names_which_can_be_offloaded=["result"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}
# jax 0.11 shows the classes of what these give, too.
assert set(POLICIES) == {name for name in dir(P) if name[0].islower()}, "a new policy"


def two_products(w, x):
    """Two products with names, one of them batched."""
    h = checkpoint_name(x @ w["w1"], "hidden")
    y = jnp.einsum("eto,eok->etk", jnp.stack([relu(h), h]), w["w2"])
    return relu(checkpoint_name(y, "result"))


def two_products_twin(q, p, x):
    h = q(LINEAR, x, p["w1"])
    return relu(q("eto,eok->etk", jnp.stack([relu(h), h]), p["w2"]))


def with_policy(policy):
    return Case(
        lambda p, x: jax.checkpoint(two_products, policy=policy)(p, x),
        two_products_twin,
        {"w1": normal(IN, OUT, seed=1), "w2": normal(2, OUT, 16, seed=2)},
        (tokens(),),
        layers=2,
    )


def remat_in_scan(p, x):
    @jax.checkpoint
    def body(x, w):
        y = x @ w
        return block(x, y), y[0]

    return lax.scan(body, x, p["w"])


def scan_in_remat(p, x):
    def body(x, w):
        y = x @ w
        return block(x, y), y[0]

    return jax.checkpoint(lambda w, x: lax.scan(body, x, w))(p["w"], x)


def remat_of_a_closure(p, x):
    for i in range(3):
        x = jax.checkpoint(lambda x, i=i: block(x, x @ p["w"][i]))(x)
    return x


def remat_of_a_closure_twin(q, p, x):
    for i in range(3):
        x = block(x, element(q, x, p["w"], i))
    return x


def nested_remat(p, x):
    inner = jax.checkpoint(lambda w, x: block(x, x @ w), policy=P.dots_saveable)

    def outer(w, x):
        for i in range(3):
            x = inner(w[i], x)
        return x

    return jax.checkpoint(outer)(p["w"], x)


CASES = {
    **{f"remat, {name}": with_policy(policy) for name, policy in POLICIES.items()},
    "remat in scan": stacked(remat_in_scan, scan_twin),
    "scan in remat": stacked(scan_in_remat, scan_twin),
    "remat of a closure": stacked(remat_of_a_closure, remat_of_a_closure_twin),
    "nested remat": stacked(nested_remat, remat_of_a_closure_twin),
}
