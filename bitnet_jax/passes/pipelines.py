"""Which passes run when, with the reason for each place: the only file that says so.

A pipeline is a list of steps; `run_pipeline` runs it. `ternarize` runs `qat` and `packed`,
the engine `serving`, `export` `exported` and `portable`. Knows
what no pass does, only in which order they may do it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bitnet_jax.core.errors import InternalError
from bitnet_jax.ir.program import Program
from bitnet_jax.ir.stages import dump_passes
from bitnet_jax.ir.verify import verify
from bitnet_jax.passes import (
    dense_products,
    fuse_attention,
    fuse_linears,
    inline_calls,
    kernel_forms,
    pack_weights,
    quantize_linears,
    reference_forms,
)
from bitnet_jax.passes.packed import Packed
from bitnet_jax.quant.rules import Rule


class Pass(NamedTuple):
    """One pass at its place.

    Attributes:
      name: what the pass calls itself in `Program.passes`.
      run: Program to Program.
      reason: why it stands here: what it needs from those before, and leaves to those after.
    """

    name: str
    run: Callable[[Program], Program]
    reason: str


def qat(
    rules: Sequence[Rule], *, traced_lambda: bool = False, forward: str = "float32"
) -> list[Pass]:
    """What `ternarize` runs in mode ``qat``."""
    return [
        Pass(
            quantize_linears.NAME,
            lambda program: quantize_linears.quantize_linears(
                program, rules, traced_lambda=traced_lambda, forward=forward
            ),
            "last: it follows each parameter to its products, and what follows a product that "
            "is quantized already would follow the arithmetic of quantization",
        ),
    ]


def packed(params: Packed, *, implementation: str | None = None) -> list[Pass]:
    """What `ternarize` runs in mode ``packed``."""
    return [
        Pass(
            pack_weights.NAME,
            lambda program: pack_weights.pack_weights(
                program, params, implementation=implementation
            ),
            "last: after it the parameters are codes, which no pass on floats can follow",
        ),
    ]


def serving(params: Packed, *, implementation: str | None = None) -> list[Pass]:
    """What the engine runs: `packed`, and then few large ops instead of many small ones."""
    return [
        *packed(params, implementation=implementation),
        Pass(
            inline_calls.NAME,
            inline_calls.inline_calls,
            "after the parameters are codes, for following them needs the calls; before what "
            "must see in one list what follows what",
        ),
        Pass(
            fuse_linears.NAME,
            fuse_linears.fuse_linears,
            "on a flat program; it and the next do not meet",
        ),
        Pass(fuse_attention.NAME, fuse_attention.fuse_attention, "on a flat program"),
        Pass(
            dense_products.NAME,
            dense_products.dense_products,
            "on a flat program; of the products it finds those that are left: with floats",
        ),
        Pass(
            kernel_forms.NAME,
            kernel_forms.kernel_forms,
            "after what fuses: it marks what is left of those ops",
        ),
    ]


def exported(params: Packed | None) -> list[Pass]:
    """What is written as a graph for another runtime: `packed`, flat; of floats, only that."""
    return [
        *([] if params is None else packed(params)),
        Pass(
            inline_calls.NAME,
            inline_calls.inline_calls,
            "after the parameters are codes, for following them needs the calls; a graph has no "
            "calls, and what is asked for twice is seen as one",
        ),
    ]


def portable(params: Packed) -> list[Pass]:
    """What is lowered for any platform and any number of tokens: nothing is chosen any more."""
    return [
        *packed(params, implementation="reference"),
        Pass(
            inline_calls.NAME,
            inline_calls.inline_calls,
            "after the parameters are codes, for following them needs the calls; before what "
            "looks at each op",
        ),
        Pass(
            reference_forms.NAME,
            reference_forms.reference_forms,
            "on a flat program; last: it settles what the ops that are left would choose",
        ),
    ]


def run_pipeline(
    program: Program,
    steps: Iterable[Pass],
    *,
    dump: str | os.PathLike | None = None,
    check: bool = False,
) -> Program:
    """Runs the steps in order; returns what the last one left.

    Args:
      dump: a new folder for what each step left; see `ir.stages.dump_passes`.
      check: verify after each step. The environment's ``BITNET_VERIFY_PASSES`` asks for
        the same wherever programs are made.

    Raises:
      InternalError: a step left a program that does not hold (``program.invalid``), or
        that does not say it went through that step (``pipeline.step``).
    """
    with contextlib.nullcontext() if dump is None else dump_passes(dump):
        for step in steps:
            before, program = program, step.run(program)
            if program.passes != (*before.passes, step.name):
                raise InternalError(
                    "pipeline.step",
                    f"step `{step.name}` after {list(before.passes)} left a program that says it "
                    f"went through {list(program.passes)}",
                    "a pass ends with `program.derived(NAME, jaxpr)`",
                )
            if check:
                verify(program)
    return program
