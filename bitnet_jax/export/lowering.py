"""A jaxpr as an ONNX graph: each equation to the rule of its primitive.

Values are names of the builder, or `Codes`. An equation that no result needs is passed over;
one without a rule is an error that names it and the user's line. Knows no primitive by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.extend.core as jec
import numpy as np

from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import UsageError, nearest
from bitnet_jax.export.builder import ONNX_TYPES, Builder
from bitnet_jax.export.dims import Dims, is_static, same_shape
from bitnet_jax.export.profiles import Profile
from bitnet_jax.export.weights import Codes, Weights

Value = str | Codes
Rule = Callable[["Lowering", Any, Sequence[Any]], list[Any]]

# Types that ONNX Runtime's CPU kernels lack for most operators: what is computed in instead.
# A cast to a narrower integer keeps its low bits, as JAX's arithmetic in that dtype does.
WIDER = {
    "bfloat16": "float32",
    "float16": "float32",
    "int8": "int32",
    "int16": "int32",
    "uint8": "int32",
    "uint16": "int32",
    "uint32": "int64",
}


@dataclass(frozen=True)
class Lowering:
    """What a rule is given.

    Attributes:
      table: primitive name to rule.
      on_codes: the same, for equations of which an operand is `Codes`.
      enclosing: the equations whose bodies we are in, outermost first.
    """

    builder: Builder
    dims: Dims
    weights: Weights
    profile: Profile
    table: Mapping[str, Rule]
    on_codes: Mapping[str, Rule]
    enclosing: tuple[Any, ...] = ()

    # ----------------------------------------------------------------------------- the walk
    def run(self, jaxpr: jec.Jaxpr, consts: Sequence[Any], args: Sequence[Value]) -> list[Value]:
        """The values of a (sub-)jaxpr's results."""
        env: dict[Any, Value] = dict(zip(jaxpr.invars, args, strict=True))
        closed_over = dict(zip(jaxpr.constvars, consts, strict=True))

        def read(atom: Any) -> Value:
            if not isinstance(atom, jec.Literal):
                if atom not in env:  # what nobody reads may be of any type
                    env[atom] = self.constant(closed_over[atom])
                return env[atom]
            aval: Any = atom.aval
            return self.builder.const(np.asarray(atom.val, aval.dtype))

        for eqn in _needed(jaxpr):
            values = [read(atom) for atom in eqn.invars]
            env.update(zip(eqn.outvars, self._equation(eqn, values), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, values: Sequence[Value]) -> list[Value]:
        name = eqn.primitive.name
        codes = next((value for value in values if isinstance(value, Codes)), None)
        rule = (self.table if codes is None else self.on_codes).get(name)
        if rule is None and codes is not None:
            raise UsageError(
                "export.codes_use",
                f"the packed codes of `{codes.leaf}` reach `{name}`{self.at(eqn)}; only the ops "
                "that multiply by them, or look rows of them up, are exported",
                "keep that parameter float by a rule: `Rule(..., to='keep')`",
            )
        if rule is None:
            close = nearest(name, self.table)
            raise UsageError(
                "export.primitive",
                f"the primitive `{name}`{self.at(eqn)} has no ONNX form here",
                f"write it with others (near by name: {', '.join(close)})"
                if close
                else "write it with others, or leave it to the caller",
            )
        for var in (*eqn.invars, *eqn.outvars):
            self._check_dtype(eqn, var)
        return list(rule(self, eqn, values))

    def _check_dtype(self, eqn: Any, var: Any) -> None:
        dtype = getattr(var.aval, "dtype", None)
        if dtype is not None and str(dtype) not in ONNX_TYPES:
            raise UsageError(
                "export.dtype",
                f"`{eqn.primitive.name}`{self.at(eqn)}: the dtype {dtype} is not exported",
                f"known: {', '.join(ONNX_TYPES)}",
            )

    def inside(self, eqn: Any) -> Lowering:
        """For the body of `eqn`."""
        return replace(self, enclosing=(*self.enclosing, eqn))

    def at(self, eqn: Any) -> str:
        """`` at file:line`` of the user's source, or nothing when unknown."""
        for candidate in (eqn, *reversed(self.enclosing)):
            line = jax_compat.source_line(candidate)
            if line:
                return f" at {line}"
        return ""

    def refuse(self, eqn: Any, what: str, hint: str) -> UsageError:
        """The error for a form of a primitive that has no rule."""
        return UsageError("export.form", f"`{eqn.primitive.name}`{self.at(eqn)}: {what}", hint)

    # ------------------------------------------------------------------------------ values
    def constant(self, value: Any) -> str:
        """An array that the function closes over."""
        if str(getattr(value, "dtype", "int32")) not in ONNX_TYPES:
            raise UsageError(
                "export.dtype",
                f"the function closes over an array of dtype {value.dtype}, which is not exported",
                f"known: {', '.join(ONNX_TYPES)}",
            )
        return self.builder.const(np.asarray(value))

    def scalar(self, value: Any, dtype: Any) -> str:
        """A constant scalar."""
        return self.builder.const(np.asarray(value, np.dtype(dtype)))

    def reshape(self, x: str, source: Sequence[Any], target: Sequence[Any]) -> str:
        """`x` of shape `source` as `target`; what was reshaped before is looked behind."""
        builder = self.builder
        x, source = builder.reshaped.get(x, (x, tuple(source)))
        if same_shape(source, target):
            return x
        open_axes = [axis for axis, dim in enumerate(target) if not is_static(dim)]
        if len(open_axes) == 1 and all(dim for dim in target if is_static(dim)):
            sizes = [int(dim) if is_static(dim) else -1 for dim in target]
            out = builder.op("Reshape", x, builder.ints(sizes))
        else:
            # A size may be 0 as the graph runs: it is meant so.
            out = builder.op("Reshape", x, self.dims.shape(target), allowzero=1)
        builder.reshaped[out] = (x, tuple(source))
        return out

    def expand(self, x: str, shape: Sequence[Any], dtype: str) -> str:
        """`x`, its sizes of 1 repeated to `shape`; elementwise rules go on with `x` itself."""
        wide = "float32" if dtype == "bfloat16" else dtype
        source = x if wide == dtype else self.builder.cast(x, wide)
        out = self.builder.op("Expand", source, self.dims.shape(shape))
        out = out if wide == dtype else self.builder.cast(out, dtype)
        self.builder.loose[out] = x
        return out


def _needed(jaxpr: jec.Jaxpr) -> list[Any]:
    """The equations that the results need, in order."""
    wanted = {atom for atom in jaxpr.outvars if not isinstance(atom, jec.Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if wanted.intersection(eqn.outvars):
            kept.append(eqn)
            wanted.update(a for a in eqn.invars if not isinstance(a, jec.Literal))
    return kept[::-1]
