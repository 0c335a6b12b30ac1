"""Printing a `Program` as stable text: for goldens, dumps and people.

Stable against JAX versions, processes and machines: names are numbered in order of
definition, anew in each body; only parameters that change the meaning are shown; sets
are sorted; nothing holds an address or a path. A body that stood before is named, not
printed again: a decoder's hundredth linear is one line. Knows no pass.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.extend.core as jec
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding

from bitnet_jax.core.jax_compat import scan_counts

if TYPE_CHECKING:
    from bitnet_jax.ir.program import Program

# Bookkeeping of JAX that says nothing about what is computed.
_HIDDEN = {
    "accuracy", "check_rep", "compiler_options_kvs", "context_mesh", "ctx_mesh", "differentiated",
    "donated_invars", "fwd_jaxpr_thunk", "has_placeholders", "in_layouts", "in_tree",
    "indices_are_sorted", "inline", "jvp_jaxpr_fun", "jvp_jaxpr_thunk", "keep_unused", "linear",
    "logging_record", "nondiff_argnums", "np_printoptions", "out_layouts", "out_trees",
    "partitioned", "prevent_cse", "static_args", "symbolic_zeros", "_split_transpose",
    "unique_indices", "update_consts", "weak_type",
}  # fmt: skip
# Hidden for one primitive: its types, or its body, say the same.
_HIDDEN_OF = {
    "custom_jvp_call": {"num_consts"},
    "custom_vjp_call": {"num_consts"},
    "io_callback": {"result_avals"},
    "pure_callback": {"result_avals"},
    "squeeze": {"dimensions"},
}
_SHORT = {
    "float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16",
    "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8",
    "uint64": "u64", "uint32": "u32", "uint16": "u16", "uint8": "u8",
}  # fmt: skip


def print_program(program: Program) -> str:
    """The program as text: its parameters, inputs, equations and results.

    Holds for a broken program too: a variable that nothing defines is numbered where it
    is first read.
    """
    jaxpr = program.jaxpr.jaxpr
    names = _Names()
    lines = [f"program passes=[{', '.join(program.passes)}]"]
    for name, var in zip(program.param_names, jaxpr.invars, strict=False):
        lines.append(f"  param {names.defined(var)} = {name}")
    for index, var in enumerate(jaxpr.invars[len(program.param_names) :]):
        lines.append(f"  input {names.defined(var)} = {index}")
    lines += _constants(jaxpr, program.jaxpr.consts, names, "  ")
    lines += _equations(jaxpr, names, {}, "  ")
    return "\n".join(lines) + "\n"


class _Names(dict[Any, str]):
    """Numbers one body's variables in order of first mention."""

    def __missing__(self, var: Any) -> str:
        self[var] = f"%{len(self)}"
        return self[var]

    def defined(self, var: Any) -> str:
        """A variable with its type; ``_`` for a result that nobody reads."""
        name = "_" if isinstance(var, jec.DropVar) else self[var]
        return f"{name}:{_type(var.aval)}"

    def read(self, atom: Any) -> str:
        """An operand: a variable, or a literal with its type."""
        if isinstance(atom, jec.Literal):
            # Through its own dtype: JAX holds it now as Python's number, now as numpy's.
            aval: Any = atom.aval
            return f"{np.asarray(atom.val, aval.dtype)[()]!s}:{_type(aval)}"
        return self[atom]


# The text of each body that stands already, and its number; None: print every body in full.
_Bodies = dict[str, int]


def _constants(jaxpr: jec.Jaxpr, consts: Any, names: _Names, indent: str) -> Iterator[str]:
    for var, value in zip(jaxpr.constvars, consts, strict=True):
        yield f"{indent}const {names.defined(var)} = {_constant(value)}"


def _equations(
    jaxpr: jec.Jaxpr, names: _Names, bodies: _Bodies | None, indent: str
) -> Iterator[str]:
    for eqn in jaxpr.eqns:
        operands = [names.read(atom) for atom in eqn.invars]
        outs = [names.defined(var) for var in eqn.outvars]
        head = [*outs, "=", eqn.primitive.name] if outs else [eqn.primitive.name]
        yield indent + " ".join([*head, *operands, *_params(eqn)])
        for label, inner, consts in _jaxprs(eqn.params):
            yield from _body(label, inner, consts, bodies, indent + "  ")
    yield indent + " ".join(["return", *(names.read(atom) for atom in jaxpr.outvars)])


def _body(
    label: str, jaxpr: jec.Jaxpr, consts: Any, bodies: _Bodies | None, indent: str
) -> Iterator[str]:
    number = ""
    if bodies is not None:
        text = "\n".join(_body("", jaxpr, consts, None, ""))
        if text in bodies:
            yield f"{indent}{label} @{bodies[text]}"
            return
        bodies[text] = len(bodies) + 1
        number = f" @{bodies[text]}"
    names = _Names()
    arguments = " ".join(names.defined(var) for var in jaxpr.invars)
    yield f"{indent}{label}{number}({arguments}):"
    yield from _constants(jaxpr, consts, names, indent + "  ")
    yield from _equations(jaxpr, names, bodies, indent + "  ")


def _jaxprs(params: Mapping[str, Any]) -> Iterator[tuple[str, jec.Jaxpr, Any]]:
    for name in sorted(params):
        value = params[name]
        several = isinstance(value, tuple | list)
        for index, item in enumerate(value if several else (value,)):
            label = f"{name}[{index}]" if several else name
            if isinstance(item, jec.ClosedJaxpr):
                yield label, item.jaxpr, item.consts
            elif isinstance(item, jec.Jaxpr):
                yield label, item, [None] * len(item.constvars)


def _params(eqn: Any) -> list[str]:
    hidden = _HIDDEN | _HIDDEN_OF.get(eqn.primitive.name, set())
    bodies = {label.partition("[")[0] for label, _, _ in _jaxprs(eqn.params)}
    params = {name: value for name, value in eqn.params.items() if name not in hidden | bodies}
    if eqn.primitive.name == "scan":  # jax 0.11 holds the counts in trees
        consts, carry = scan_counts(eqn)
        params = {k: v for k, v in params.items() if k not in ("ft_in", "ft_out")}
        params |= {"num_consts": consts, "num_carry": carry}
    shown = []
    for name in sorted(params):
        value = params[name]
        if not _is_nothing(value):
            shown.append(f"{name}={_value(value)}")
    return ["{" + " ".join(shown) + "}"] if shown else []


def _is_nothing(value: Any) -> bool:
    """True for what only says that nothing was asked."""
    if isinstance(value, frozenset):
        return not value
    items = value if isinstance(value, tuple) and value else (value,)
    return all(item is None or type(item).__name__ == "UnspecifiedValue" for item in items)


# ---------------------------------------------------------------------------------- values
def _fields(value: Any) -> str:
    """A record by its fields, those that hold nothing left out."""
    names = getattr(value, "_fields", None) or [f.name for f in dataclasses.fields(value)]
    kept = {name: getattr(value, name) for name in names}
    shown = [f"{k}={_value(v)}" for k, v in kept.items() if v is not None and v != ()]
    return f"{type(value).__name__}({' '.join(shown)})"


def _sequence(value: Any) -> str:
    inner = ", ".join(_value(item) for item in value)
    return f"({inner},)" if len(value) == 1 else f"({inner})"


def _set(value: Any) -> str:
    return "{" + ", ".join(sorted(_value(item) for item in value)) + "}"


def _spec(value: PartitionSpec) -> str:
    return f"P({', '.join(_value(entry) for entry in value)})"


def _mesh(value: Any) -> str:
    return "{" + ", ".join(f"{name}: {size}" for name, size in value.shape.items()) + "}"


def _sharding(value: Any) -> str:
    if not isinstance(value, NamedSharding):
        return type(value).__name__
    offloaded = value.memory_kind not in (None, "device", "unpinned_host")
    memory = f" in {value.memory_kind}" if offloaded else ""
    return f"{_spec(value.spec)} on {_mesh(value.mesh)}{memory}"


def _callable(value: Any) -> str:
    """The name it was defined under: its repr would hold its address."""
    while isinstance(value, functools.partial):
        value = value.func
    if hasattr(value, "call_wrapped"):  # JAX's wrapper of a function
        return str(value.__name__)
    return str(getattr(value, "__qualname__", type(value).__name__)).replace(".<locals>", "")


def _is_record(value: Any) -> bool:
    named = isinstance(value, tuple) and hasattr(value, "_fields")
    return named or (dataclasses.is_dataclass(value) and not isinstance(value, type))


# In order: the first that holds says how a value is written.
_FORMATS: tuple[tuple[Callable[[Any], bool], Callable[[Any], str]], ...] = (
    (lambda v: isinstance(v, np.generic | np.dtype | str | bool | int | float), str),
    (lambda v: isinstance(v, enum.Enum), lambda v: v.name),
    (lambda v: isinstance(v, PartitionSpec), _spec),
    (lambda v: isinstance(v, Mesh | AbstractMesh), _mesh),
    (lambda v: isinstance(v, Sharding), _sharding),
    (lambda v: type(v).__name__ == "UnspecifiedValue", lambda v: "-"),
    (lambda v: type(v).__name__ == "PRNGImpl", lambda v: v.name),
    (_is_record, _fields),
    (lambda v: isinstance(v, tuple | list), _sequence),
    (lambda v: isinstance(v, set | frozenset), _set),
    (lambda v: isinstance(v, Mapping), lambda v: _sequence(sorted(v.items(), key=str))),
    (lambda v: isinstance(v, np.ndarray | jax.Array), lambda v: f"array {_type(v)}"),
    (lambda v: callable(v) or hasattr(v, "call_wrapped"), _callable),
)  # fmt: skip


def _value(value: Any) -> str:
    for holds, written in _FORMATS:
        if holds(value):
            return written(value)
    text = str(value)
    # Whatever JAX may hold one day: a text with an address in it is no stable text.
    return type(value).__name__ if "0x" in text else text


def _constant(value: Any) -> str:
    if isinstance(value, jax.core.Tracer):
        return "traced"
    dtype = getattr(value, "dtype", None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        return "key"
    array = np.asarray(value)
    return str(array.item()) if array.size == 1 else "array"


def _type(aval: Any) -> str:
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        return type(aval).__name__
    text = f"{_SHORT.get(str(dtype), str(dtype))}[{','.join(str(size) for size in aval.shape)}]"
    return f"ref({text})" if "Ref" in type(aval).__name__ else text
