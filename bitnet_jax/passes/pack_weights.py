"""Pass: parameters become packed leaves, and their products integer ones.

Needs: a float Program, and `Packed` parameters made for it. Does: replaces each
product with a packed leaf by the `integer_matmul` op, each lookup by `quantized_lookup`.
Leaves: a Program whose parameters are `Packed`; no float form of a packed weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.ir.follow import FOLLOW
from bitnet_jax.ir.interpreter import Context, interpret
from bitnet_jax.ir.program import Program, named_leaves
from bitnet_jax.ir.views import ParamView
from bitnet_jax.ops.integer_matmul import integer_matmul
from bitnet_jax.ops.quantized_lookup import quantized_lookup
from bitnet_jax.passes.geometry import contraction, dot_geometry
from bitnet_jax.passes.lookup import row_indices
from bitnet_jax.passes.modes import FloatMode
from bitnet_jax.passes.packed import Packed, abstract
from bitnet_jax.quant.activations import DEFAULT, Activation, statistic
from bitnet_jax.quant.notes import activation_of
from bitnet_jax.quant.qat import over_shards
from bitnet_jax.quant.scaling import read_input, write_output
from bitnet_jax.quant.tensor import TERNARY, QuantTensor

NAME = "pack_weights"
# What the op reads; any other dtype is widened first.
NATIVE_DTYPES = ("float32", "bfloat16", "float16")
# Forms that multiply every kind of weight and activation.
PORTABLE = ("xla", "reference", "auto")


@dataclass(frozen=True)
class PackedMode(FloatMode):
    """Packed leaves; a product runs the `integer_matmul` op."""

    implementation: str | None = None

    def _form(self, quant: QuantTensor, activation: Activation, peak: Any) -> str | None:
        """The form that was asked for, where it exists: kernels are for ternary linears."""
        usual = quant.kind == TERNARY and activation == DEFAULT and peak is None
        return self.implementation if usual or self.implementation in PORTABLE else None

    def quantizes(self, view: ParamView) -> bool:
        """What the leaf is decides, no rule: a view is a packed leaf."""
        return True

    def plain(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """The float leaf of a split parameter; a packed one is never dequantized."""
        floats = super().plain(context, eqn, view)
        if floats is None:
            raise UsageError(
                "transform.packed_use",
                f"`{view.name}` is packed for products, and this function also uses it "
                f"otherwise{context.at(eqn)}",
                "pack it with the function it will run in: `pack(fn, params, rules, *args)`",
            )
        return floats

    def latent(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """A derivative of the user's own wants floats: there may be none."""
        return self.plain(context, eqn, view)

    def product(self, context: Context, eqn: Any, view: ParamView, side: int, other: Any) -> Any:
        """`integer_matmul` on the canonical activations."""
        dims = eqn.params["dimension_numbers"]
        quant = _layout_for(context, eqn, view, side, dims)
        geometry = dot_geometry(view, side, dims, quant.stack_axes)
        assert geometry is not None
        x = other if str(other.dtype) in NATIVE_DTYPES else read_input(other)
        tokens = geometry.activation_matrix(x)
        y = self._multiply(view, quant, tokens)
        return write_output(geometry.result(y, x.shape), eqn.outvars[0].aval.dtype)

    def _multiply(self, view: ParamView, quant: QuantTensor, tokens: Any) -> Any:
        """[*stack, tokens, in] to float32 [*stack, tokens, out], of what the slices left."""
        activation = activation_of(view.notes)
        peak = _peak(view, quant, tokens, activation)
        y = integer_matmul(
            _widened(view, quant, tokens),
            quant,
            activation=activation,
            peak=peak,
            implementation=self._form(quant, activation, peak),
            out_dtype=jnp.float32,
        )
        return _cut_outputs(view, quant, y)

    def ragged_product(
        self, context: Context, eqn: Any, view: ParamView, x: Any, sizes: Any
    ) -> Any:
        """One expert after another over all tokens, each token keeping its own expert's."""
        quant = _layout_for(context, eqn, view, 1, (((1,), (1,)), ((0,), (0,))))
        x = x if str(x.dtype) in NATIVE_DTYPES else read_input(x)
        activation = activation_of(view.notes)
        peak = _peak(view, quant, x, activation)
        x = _widened(view, quant, x)
        expert = jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(x.shape[0]), side="right")
        one = replace(
            quant,
            shape=tuple(quant.shape[axis] for axis in (*quant.out_axes, *quant.in_axes)),
            stack_axes=(),
            out_axes=(0,),
            in_axes=(1,),
        )

        def step(total: Any, element: Any) -> tuple[Any, None]:
            number, codes, scale = element
            y = integer_matmul(
                x,
                replace(one, codes=codes, scale=scale),
                activation=activation,
                peak=peak,
                implementation=self._form(quant, activation, peak),
                out_dtype=jnp.float32,
            )
            return jnp.where((expert == number)[:, None], y, total), None

        numbers = jnp.arange(quant.codes.shape[0])
        start = jnp.zeros((x.shape[0], one.shape[0]), jnp.float32)
        y, _ = lax.scan(step, start, (numbers, quant.codes, quant.scale))
        return write_output(_cut_outputs(view, quant, y), eqn.outvars[0].aval.dtype)

    def gather(self, context: Context, eqn: Any, view: ParamView, indices: Sequence[Any]) -> Any:
        """Rows of the packed table; of the float leaf where the lookup stayed float."""
        if view.value is not None:
            return super().gather(context, eqn, view, indices)
        rows = row_indices(eqn, view, indices)
        if rows is None or not view.quants:
            return self.plain(context, eqn, view)  # raises
        # jnp has counted negative indices from the end before it gathers.
        out = quantized_lookup(
            view.quants[0], rows.indices, mode=rows.mode, fill_value=rows.fill, wrap_negative=False
        )
        return view.apply_casts(out).reshape(eqn.outvars[0].aval.shape)


def _layout_for(context: Context, eqn: Any, view: ParamView, side: int, dims: Any) -> QuantTensor:
    """The packed form of `view` whose axes have the roles that this product gives them."""
    found = contraction(view, side, dims)
    for quant in view.quants:
        if found is not None and set(found.inner) == set(quant.in_axes):
            if set(found.batch) <= set(quant.stack_axes):
                return quant
    packed = " or ".join(str(quant.in_axes) for quant in view.quants)
    raise UsageError(
        "transform.packed_elsewhere",
        f"`{view.name}` was packed with inputs on axes {packed}; this function contracts "
        f"{None if found is None else found.inner}{context.at(eqn)}",
        "pack it with the function it will run in: `pack(fn, params, rules, *args)`",
    )


def _peak(view: ParamView, quant: QuantTensor, tokens: Any, activation: Activation) -> Any:
    """The tokens' statistic where the op cannot see whole tokens, or sees more; else None.

    Other devices have a part of them, or the inputs that a slice left out are no part.
    """
    shards = tuple(name for axis in quant.in_axes for name in view.shards[axis])
    cut = any(view.windows[axis] is not None for axis in quant.in_axes)
    if not shards and not cut:
        return None
    return over_shards(statistic(read_input(tokens), activation), activation, shards)


def _start(view: ParamView, axis: int) -> Any:
    """Where the window on an axis of `view.shape` starts: a number, or traced."""
    window = view.windows[axis]
    if window is None or not window.moving:
        return 0 if window is None else window.start
    return view.companion(window.moving).reshape(())


def _widened(view: ParamView, quant: QuantTensor, tokens: Any) -> Any:
    """Activations of all inputs of the packed weight, of those that slices of it left.

    An input that was left out gets 0: it adds nothing to a sum, and changes no token's
    largest activation.
    """
    if all(view.windows[axis] is None for axis in quant.in_axes):
        return tokens
    lead = tokens.shape[:-1]
    tokens = tokens.reshape(*lead, *(view.shape[axis] for axis in quant.in_axes))
    for place, axis in enumerate(quant.in_axes, len(lead)):
        window, full = view.windows[axis], quant.shape[axis]
        if window is None:
            continue
        step = (0, 0, window.step - 1)
        inside = [step if i == place else (0, 0, 0) for i in range(tokens.ndim)]
        apart = lax.pad(tokens, jnp.zeros((), tokens.dtype), inside)
        zeros = jnp.zeros((*tokens.shape[:place], full, *tokens.shape[place + 1 :]), tokens.dtype)
        start = _start(view, axis)
        tokens = lax.dynamic_update_slice_in_dim(zeros, apart, start, axis=place)
    return tokens.reshape(*lead, quant.in_features)


def _cut_outputs(view: ParamView, quant: QuantTensor, y: Any) -> Any:
    """The outputs that slices of the weight left, of all of them [*stack, tokens, out]."""
    if all(view.windows[axis] is None for axis in quant.out_axes):
        return y
    lead = y.shape[:-1]
    y = y.reshape(*lead, *(quant.shape[axis] for axis in quant.out_axes))
    for place, axis in enumerate(quant.out_axes, len(lead)):
        window, size = view.windows[axis], view.shape[axis]
        if window is not None:
            span = (size - 1) * window.step + 1
            y = lax.dynamic_slice_in_dim(y, _start(view, axis), span, axis=place)
            y = lax.slice_in_dim(y, 0, span, window.step, axis=place)
    return y.reshape(*lead, math.prod(view.shape[axis] for axis in quant.out_axes))


def pack_weights(program: Program, packed: Packed, *, implementation: str | None = None) -> Program:
    """As `program`, on packed parameters.

    Args:
      packed: `Packed`, its leaves arrays or abstract values.
      implementation: of the products; None chooses at lowering.

    Raises:
      UsageError: the parameters were packed for another function.
      BadData: a leaf is in a layout that is not known, or does not hold together.
    """
    missing = set(program.param_names) ^ set(packed.names)
    if missing:
        raise UsageError(
            "transform.packed_elsewhere",
            f"the packed parameters and the function differ in {', '.join(sorted(missing)[:5])}",
            "pack them with the function they will run in",
        )
    quants = packed.quants()
    for name, found in quants.items():
        for quant in found:
            quant.verify(name)
    _check_rebuilt(program, quants)
    flat, structure = jax.tree_util.tree_flatten(packed)
    tree: Any = structure

    def run(leaves: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        now: Packed = tree.unflatten(leaves)
        found = now.quants()
        wide = {name: now.leaves[name].astype(jnp.float32) for name in now.narrow}
        floats = {**now.leaves, **wide}
        values = [_view(name, floats, found.get(name, ())) for name in program.param_names]
        mode = PackedMode(implementation=implementation)
        return interpret(mode, FOLLOW, program.jaxpr, [*values, *inputs])

    avals = [abstract(leaf) for leaf in flat]
    jaxpr = jax.make_jaxpr(run)(avals, program.input_avals)
    names = tuple(named_leaves(packed.leaves))
    return program.derived(NAME, jaxpr, param_names=names, params_tree=tree)


def _check_rebuilt(program: Program, quants: Mapping[str, Sequence[QuantTensor]]) -> None:
    """A packed leaf stands for the float parameter that the program was traced on."""
    for name, aval in zip(program.param_names, program.param_avals, strict=True):
        for quant in quants.get(name, ()):
            if tuple(quant.shape) != tuple(aval.shape):
                raise BadData(
                    "transform.packed_shape",
                    f"`{name}` is packed as {list(quant.shape)}, the function takes "
                    f"{list(aval.shape)}",
                    "pack the parameters with the function they will run in",
                )


def _view(name: str, leaves: Mapping[str, Any], quants: Sequence[QuantTensor]) -> Any:
    leaf = leaves[name]
    if not quants:
        return leaf
    value = None if isinstance(leaf, QuantTensor) else leaf
    return ParamView.of(name, quants[0].shape, value=value, quants=quants)
