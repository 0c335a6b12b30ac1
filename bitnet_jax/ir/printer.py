"""Printing a `Program` as stable text: for goldens, dumps and people.

Stable against JAX versions: names are numbered in order of definition, only
parameters that change the meaning are shown, sub-jaxprs are indented.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax.extend.core as jec
import numpy as np

if TYPE_CHECKING:
    from bitnet_jax.ir.program import Program

# Bookkeeping of JAX that says nothing about what is computed.
_HIDDEN = {
    "sharding", "out_sharding", "in_shardings", "out_shardings", "in_layouts", "out_layouts",
    "donated_invars", "ctx_mesh", "keep_unused", "inline", "compiler_options_kvs", "weak_type",
    "jvp_jaxpr_fun", "jvp_jaxpr_thunk", "num_consts", "symbolic_zeros", "precision",
    "prevent_cse", "differentiated", "unique_indices", "indices_are_sorted", "fill_value",
    "bwd", "fwd_jaxpr_thunk", "nondiff_argnums", "dimensions", "linear", "_split_transpose",
    "accuracy",
}  # fmt: skip
_SHORT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int32": "i32", "bool": "bool"}


def print_program(program: Program) -> str:
    """The program as text: its parameters, inputs, equations and results."""
    names = _Names()
    jaxpr = program.jaxpr.jaxpr
    lines = [f"program passes=[{', '.join(program.passes)}]"]
    for name, var in zip(program.param_names, jaxpr.invars, strict=False):
        lines.append(f"  param {names[var]}:{_type(var.aval)} = {name}")
    for index, var in enumerate(jaxpr.invars[len(program.param_names) :]):
        lines.append(f"  input {names[var]}:{_type(var.aval)} = {index}")
    for var, value in zip(jaxpr.constvars, program.jaxpr.consts, strict=True):
        lines.append(f"  const {names[var]}:{_type(var.aval)} = {_constant(value)}")
    lines += _body(jaxpr, names, "  ")
    return "\n".join(lines) + "\n"


class _Names(dict):
    """Numbers variables in order of first mention."""

    def __missing__(self, var: Any) -> str:
        self[var] = f"%{len(self)}"
        return self[var]


def _body(jaxpr: jec.Jaxpr, names: _Names, indent: str) -> Iterator[str]:
    for eqn in jaxpr.eqns:
        outs = " ".join(f"{names[var]}:{_type(var.aval)}" for var in eqn.outvars)
        operands = " ".join(_atom(atom, names) for atom in eqn.invars)
        shown = _params(eqn.params)
        yield f"{indent}{outs} = {eqn.primitive.name} {operands}{shown}".rstrip()
        for name, inner in _jaxprs(eqn.params):
            arguments = " ".join(f"{names[var]}:{_type(var.aval)}" for var in inner.invars)
            yield f"{indent}  {name}({arguments}):"
            yield from _body(inner, names, indent + "    ")
    yield indent + "return " + " ".join(_atom(atom, names) for atom in jaxpr.outvars)


def _atom(atom: Any, names: _Names) -> str:
    if isinstance(atom, jec.Literal):
        return f"{_number(atom.val)}:{_type(atom.aval)}"
    return names[atom]


def _number(value: Any) -> str:
    return np.format_float_positional(value, trim="-") if isinstance(value, float) else str(value)


def _constant(value: Any) -> str:
    array = np.asarray(value)
    return str(array.item()) if array.size == 1 else "array"


def _type(aval: Any) -> str:
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        return str(aval)
    return f"{_SHORT.get(str(dtype), str(dtype))}[{','.join(str(size) for size in aval.shape)}]"


def _jaxprs(params: dict[str, Any]) -> Iterator[tuple[str, jec.Jaxpr]]:
    for name in sorted(params):
        value = params[name]
        for index, item in enumerate(value if isinstance(value, tuple) else (value,)):
            label = f"{name}{index}" if isinstance(value, tuple) else name
            if isinstance(item, jec.ClosedJaxpr):
                yield label, item.jaxpr
            elif isinstance(item, jec.Jaxpr):
                yield label, item


def _params(params: dict[str, Any]) -> str:
    shown = []
    for name in sorted(params):
        value = params[name]
        if name in _HIDDEN or value is None or callable(value):
            continue
        items = value if isinstance(value, tuple) else (value,)
        if any(isinstance(item, jec.ClosedJaxpr | jec.Jaxpr) for item in items):
            continue
        shown.append(f"{name}={value}")
    return " {" + " ".join(shown) + "}" if shown else ""
