"""What the transform costs: tracing the training step of a 30-layer decoder.

Abstract parameters at the shape of BitNet b1.58 2B4T; nothing is compiled or computed. "By
hand" is the same decoder with the quantized product written into its linear layers (jitted,
so that equal shapes are traced once, as the transform does): the difference is what the
transform itself adds. Variants take turns within every round; figures are medians.

    python benchmarks/transform.py [--rounds 9] [--output results/transform.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax

import bitnet_jax as bj
from bitnet_jax.ir.program import trace
from bitnet_jax.models import layers
from bitnet_jax.models.families import family_of
from bitnet_jax.passes.plan import make_plan
from bitnet_jax.passes.quantize_linears import quantize_linears
from bitnet_jax.quant.activations import activation_scale
from bitnet_jax.quant.kinds import kind_scale
from bitnet_jax.quant.qat import round_straight_through
from bitnet_jax.quant.scaling import scale_output
from bitnet_jax.quant.ternary import inverse_scale

FAMILY = family_of("bitnet")
SPEC = FAMILY.shapes["bitnet-2b-4t"]
TOKENS = jax.ShapeDtypeStruct((1, 128), jnp.int32)


@jax.jit
def quantized(x: Any, w: Any) -> Any:
    """The quantized linear by the contract, with its guards, as one writes it into a layer."""
    s = kind_scale(lax.stop_gradient(w), "ternary")
    a = activation_scale(lax.stop_gradient(x))
    p = round_straight_through(w * inverse_scale(s), -1, 1)
    v = round_straight_through(x * (127 / a), -128, 127)
    dims = (((x.ndim - 1,), (1,)), ((), ()))
    acc = lax.dot_general(v, p, dims, preferred_element_type=jnp.float32)
    return scale_output(acc, s, a, scale_kind="tensor")


def by_hand(self: Any, x: Any) -> Any:
    return quantized(x, self.weight[...])


def seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    params = jax.eval_shape(lambda: FAMILY.init(SPEC, 0))
    forward = FAMILY.forward(SPEC)
    qat = bj.ternarize(forward, FAMILY.rules)

    def step(fn: Any) -> Any:
        loss = jax.value_and_grad(lambda p, t: fn(p, t).mean())
        # A new function each time, or jit answers from its cache.
        return jax.jit(lambda p, t: loss(p, t)).trace(params, TOKENS)

    def hand_step() -> Any:
        with mock.patch.object(layers.Linear, "__call__", by_hand):
            return step(forward)

    program = trace(forward, params, TOKENS)
    runs = {
        "trace the forward": lambda: trace(forward, params, TOKENS),
        "transform: follow and plan": lambda: make_plan(program, FAMILY.rules),
        "transform: whole": lambda: quantize_linears(program, FAMILY.rules),
        "training step, float": lambda: step(forward),
        "training step, by hand": hand_step,
        "training step, transformed": lambda: step(qat),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.rounds + 1):
        for name, run in runs.items():
            taken = seconds(run)
            if turn:  # the first warms caches
                times[name].append(taken)
    middle = {name: statistics.median(values) for name, values in times.items()}
    for name, value in middle.items():
        print(f"{name:32} {1000 * value:8.1f} ms")
    added = middle["transform: whole"] / middle["training step, by hand"]
    pairs = zip(times["training step, transformed"], times["training step, by hand"], strict=True)
    difference = statistics.median(a - b for a, b in pairs) / middle["training step, by hand"]
    print(f"transform / step by hand: {added:.1%}; transformed - by hand: {difference:+.1%}")
    if args.output:
        args.output.write_text(
            json.dumps(
                {
                    "machine": platform.processor() or platform.machine(),
                    "cores": os.cpu_count(),
                    "python": platform.python_version(),
                    "jax": jax.__version__,
                    "rounds": args.rounds,
                    "seconds": middle,
                    "transform_share_of_step_by_hand": added,
                    "transformed_minus_by_hand_share": difference,
                },
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
