"""A decoder's program run equation by equation, its parameters read when they are needed.

The program is the one that the engine compiles, made from the shapes alone, and every product,
norm and attention has the engine's bits; only what XLA fuses there (a rotary embedding's products
and sums) may differ in a last one. A parameter is read
from the checkpoint where the first equation asks for it and let go after the last that does;
a large table (an embedding, a head) is never held whole. So any family that can be traced runs
in the memory of its largest layer. Knows no tolerance: who compares two runs decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.extend.core as jec
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from bitnet_jax.core.errors import InternalError
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.ir.borders import borders
from bitnet_jax.ir.interpreter import bind
from bitnet_jax.ir.program import Program, trace
from bitnet_jax.models.families import family_for
from bitnet_jax.ops.select import select
from bitnet_jax.passes import pipelines
from bitnet_jax.passes.packed import Packed
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.targets.detect import detect

# A float matrix from this size on is looked up and multiplied in pieces of rows of this size.
PIECE_BYTES = 32 << 20

Forms = Mapping[str, Any]


def form_of(value: Any) -> Any:
    """What must be known of a tensor to trace a program over it: its type, without its values."""
    if isinstance(value, QuantTensor):
        codes, scale = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (value.codes, value.scale))
        return replace(value, codes=codes, scale=scale)
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


def narrow_floats(forms: Forms) -> frozenset[str]:
    """The matrices that the engine would leave in bfloat16 on this machine."""
    if detect().platform != "cpu" or select("dense_matmul", "cpu").implementation != "native":
        return frozenset()
    return frozenset(
        name
        for name, form in forms.items()
        if not isinstance(form, QuantTensor)
        and form.dtype == ml_dtypes.bfloat16
        and len(form.shape) == 2
    )


@dataclass
class Stepwise:
    """One run of one model on one batch of tokens.

    Attributes:
      checkpoint: where parameters are read from, each once for each stretch of its uses.
      forms: `form_of` each of its tensors.
      narrow: matrices that stay bfloat16; all other floats become float32, exactly.
      tokens: int32 [batch, length].
      like: another run, whose program is taken if it would be the same.
      other: a program to run in place of the engine's, traced on the same parameters, its first
        result the logits; and its inputs.
    """

    checkpoint: Checkpoint
    forms: Forms
    narrow: frozenset[str]
    tokens: np.ndarray
    like: Stepwise | None = None
    other: tuple[Program, Any] | None = None

    def __post_init__(self) -> None:
        self._values: dict[Any, Any] = {}
        closed = self.program.jaxpr
        self._values.update(zip(closed.jaxpr.constvars, closed.consts, strict=True))
        inputs = closed.jaxpr.invars[len(self.program.param_names) :]
        given = (self.tokens,) if self.other is None else self.other[1]
        self._values.update(zip(inputs, map(jnp.asarray, jax.tree.leaves(given)), strict=True))
        self._at = 0

    @cached_property
    def program(self) -> Program:
        """What the engine would compile for these tokens, or the other."""
        if self.other is not None:
            return self.other[0]
        spec, like = self.checkpoint.spec, self.like
        if like is not None and (spec, self.forms, self.narrow, self.tokens.shape) == (
            (like.checkpoint.spec, like.forms, like.narrow, like.tokens.shape)
        ):
            return like.program
        tokens = jax.ShapeDtypeStruct(self.tokens.shape, jnp.int32)
        fn = family_for(spec).forward(spec)
        program = trace(fn, self._packed.float_avals(), tokens)
        return pipelines.run_pipeline(program, pipelines.serving(self._packed))

    @cached_property
    def _packed(self) -> Packed:
        leaves = {
            name: form
            if isinstance(form, QuantTensor)
            else jax.ShapeDtypeStruct(form.shape, self._dtype(name))
            for name, form in self.forms.items()
        }
        return Packed.of(leaves, self.narrow)

    def _dtype(self, name: str) -> Any:
        return jnp.bfloat16 if name in self.narrow else jnp.float32

    # ------------------------------------------------------------------ what is live when
    @property
    def equations(self) -> Sequence[Any]:
        """The program's equations, in their order."""
        return self.program.jaxpr.jaxpr.eqns

    @cached_property
    def _leaves(self) -> dict[Any, tuple[str, str]]:
        """Parameter variables -> the tensor that they belong to, and which array of it."""
        rows = jax.tree_util.tree_leaves_with_path(self._packed)
        names = [
            (path[1].key, path[2].name if len(path) > 2 else "")  # .leaves[name](.codes)
            for path, _ in rows
        ]
        invars = self.program.jaxpr.jaxpr.invars[: len(names)]
        return dict(zip(invars, names, strict=True))

    @cached_property
    def _last_use(self) -> dict[Any, int]:
        last: dict[Any, int] = {}
        for index, eqn in enumerate(self.equations):
            last.update((var, index) for var in _variables(eqn.invars))
        end = len(self.equations)
        return last | dict.fromkeys(_variables(self.program.jaxpr.jaxpr.outvars), end)

    @cached_property
    def _in_pieces(self) -> frozenset[Any]:
        """Parameter variables that are only looked up and multiplied by, and are large."""
        large = {
            var
            for var, (name, part) in self._leaves.items()
            if not part
            and len(var.aval.shape) == 2
            and var.aval.size * var.aval.dtype.itemsize > PIECE_BYTES
        }
        for eqn in self.equations:
            used = large.intersection(_variables(eqn.invars))
            if used and not (eqn.primitive.name in _PIECEWISE and _takes_pieces(eqn, used)):
                large -= used
        return frozenset(large - set(_variables(self.program.jaxpr.jaxpr.outvars)))

    def is_weight(self, atom: Any) -> bool:
        """True for a variable that depends on parameters alone, and for these."""
        return not isinstance(atom, jec.Literal) and atom in self._weights

    @cached_property
    def _weights(self) -> frozenset[Any]:
        found = set(self._leaves)
        for eqn in self.equations:
            inputs = list(_variables(eqn.invars))
            if inputs and found.issuperset(inputs):
                found.update(eqn.outvars)
        return frozenset(found)

    @cached_property
    def _makers(self) -> dict[Any, Any]:
        return {var: eqn for eqn in self.equations for var in eqn.outvars}

    def parameters_of(self, eqn: Any) -> list[str]:
        """Names of the tensors that an equation multiplies or looks up, in its order."""
        names, waiting = [], list(_variables(eqn.invars))
        while waiting:
            var = waiting.pop(0)
            if var in self._leaves:
                names.append(self._leaves[var][0])
            elif var in self._weights:
                waiting += _variables(self._makers[var].invars)
        return list(dict.fromkeys(names))

    # ------------------------------------------------------------------ running
    def operands(self, eqn: Any) -> list[Any]:
        """The values that the next equation takes; reads the parameters that it is first to need.

        A `Rows` stands for a table that is read in pieces.
        """
        for var in _variables(eqn.invars):
            if var in self._values:
                continue
            if var in self._in_pieces:
                self._values[var] = Rows(self.checkpoint, self._leaves[var][0], var.aval.dtype)
            elif var in self._leaves:
                self._fetch(self._leaves[var][0])
            else:
                raise InternalError("stepwise.order", f"{var} is used before it is made")
        return [
            atom.val if isinstance(atom, jec.Literal) else self._values[atom] for atom in eqn.invars
        ]

    def put(self, eqn: Any, results: Sequence[Any]) -> None:
        """Goes on behind the equation with these results; lets go of what nothing asks for."""
        self._values.update(zip(eqn.outvars, results, strict=True))
        for var in {*_variables(eqn.invars), *eqn.outvars}:
            if self._last_use.get(var, -1) <= self._at:
                self._values.pop(var, None)
        self._at += 1

    def result(self) -> np.ndarray:
        """The logits, float32 [batch, length, vocab], once all equations were run."""
        return np.asarray(self._values[self.program.jaxpr.jaxpr.outvars[0]])

    def run(self, watch: Callable[[Any, Sequence[Any]], None] | None = None) -> np.ndarray:
        """Runs all of it; the logits. `watch` is given each equation and its operands."""
        for eqn in self.equations:
            operands = self.operands(eqn)
            if watch is not None:
                watch(eqn, operands)
            self.put(eqn, apply(eqn, operands))
        return self.result()

    def run_borders(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The logits, and the program's states at its `ir.borders`: [batch, length, width]."""
        return self.run_seen(borders(self.program, self.tokens.size))

    def run_seen(self, variables: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The logits, and the values of these variables: [batch, length, width], by their keys.

        Each is an operand of some equation, a vector for each token.
        """
        seen: dict[Any, np.ndarray] = {}
        wanted = set(variables.values())

        def watch(eqn: Any, operands: Sequence[Any]) -> None:
            for atom, value in zip(eqn.invars, operands, strict=True):
                if not isinstance(atom, jec.Literal) and atom in wanted and atom not in seen:
                    seen[atom] = np.asarray(value).reshape(*self.tokens.shape, -1)

        logits = self.run(watch)
        return logits, {name: seen[var] for name, var in variables.items()}

    def _fetch(self, name: str) -> None:
        value = self.checkpoint.read(name)
        form = self.forms[name]
        if isinstance(value, QuantTensor):
            if form_of(value) != form:
                raise InternalError("stepwise.form", f"`{name}` was read twice in two forms")
            arrays = {"codes": np.asarray(value.codes), "scale": np.asarray(value.scale)}
        else:
            arrays = {"": np.asarray(value).astype(self._dtype(name), copy=False)}
        for var, (tensor, part) in self._leaves.items():
            if tensor == name and var in self._last_use:
                self._values[var] = jax.device_put(arrays[part])


def _variables(atoms: Iterable[Any]) -> Iterator[Any]:
    return (atom for atom in atoms if not isinstance(atom, jec.Literal))


# ---------------------------------------------------------------------- tables in pieces


@dataclass(frozen=True)
class Rows:
    """A float matrix of a checkpoint, read some rows at a time, in the dtype it is used in."""

    checkpoint: Checkpoint
    name: str
    dtype: Any

    def __iter__(self) -> Iterator[np.ndarray]:
        width = self.checkpoint.entries[self.name].shape[1]
        rows = max(PIECE_BYTES // (4 * width), 1)
        for part in self.checkpoint.parts(self.name, rows):
            # A copy: the next piece may come to lie in the same memory, and JAX need not copy.
            yield np.array(part, self.dtype)


def apply(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """The equation's results; `operands` as `Stepwise.operands` gives them."""
    if eqn.primitive.name == "reshape" and not isinstance(operands[0], Rows):
        # Nothing to compute: compiling one for each shape would take most of a short run.
        return [np.asarray(operands[0]).reshape(eqn.params["new_sizes"])]
    if any(isinstance(value, Rows) for value in operands):
        return [_PIECEWISE[eqn.primitive.name](eqn, *operands)]
    return bind(eqn, operands)


def _lookup(eqn: Any, table: Rows, indices: Any) -> Any:
    """A lookup: the rows that are asked for are picked from the pieces, the gather is of those."""
    wanted = np.asarray(indices)
    ids, where = np.unique(np.clip(wanted, 0, eqn.invars[0].aval.shape[0] - 1), return_inverse=True)
    found: Any = np.empty((ids.size, eqn.invars[0].aval.shape[1]), table.dtype)
    start = 0
    for part in table:
        low, high = np.searchsorted(ids, [start, start + len(part)])
        found[low:high] = part[ids[low:high] - start]
        start += len(part)
    places = where.reshape(wanted.shape).astype(wanted.dtype)
    return bind(eqn, [jnp.asarray(found), jnp.asarray(places)])[0]


def _product(eqn: Any, x: Any, table: Rows) -> Any:
    """A product with rows: each piece gives its part of the result."""
    return np.concatenate([np.asarray(bind(eqn, [x, part])[0]) for part in table], axis=-1)


_PIECEWISE = {"gather": _lookup, "dense_matmul": _product, "dot_general": _product}


def _takes_pieces(eqn: Any, used: set[Any]) -> bool:
    """True where the equation's only use of a parameter is one that `_PIECEWISE` can do."""
    side = [var in used for var in eqn.invars]
    table = eqn.invars[side.index(True)].aval
    if eqn.primitive.name == "gather":
        of = eqn.params["dimension_numbers"]
        rows = (tuple(of.collapsed_slice_dims), tuple(of.start_index_map)) == ((0,), (0,))
        clipped = eqn.params["mode"] == jax.lax.GatherScatterMode.CLIP
        return side == [True, False] and rows and clipped and (
            tuple(eqn.params["slice_sizes"]) == (1, table.shape[1])
        )  # fmt: skip
    if eqn.primitive.name == "dot_general":
        last = eqn.invars[0].aval.ndim - 1
        if eqn.params["dimension_numbers"] != (((last,), (1,)), ((), ())):
            return False
    return side == [False, True]
