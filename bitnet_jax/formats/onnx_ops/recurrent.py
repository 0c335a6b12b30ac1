"""Recurrent layers: RNN, GRU and LSTM, a scan over time in each direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bitnet_jax.formats.onnx_ops.products import PRECISION
from bitnet_jax.formats.onnx_ops.table import Node, operator

_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "Relu": jax.nn.relu,
    "Sigmoid": jax.nn.sigmoid,
    "Tanh": jnp.tanh,
}
Cell = Callable[..., Any]


def _matmul(x: Any, w: Any) -> Any:
    return jnp.matmul(x, w, precision=PRECISION)


def _activations(node: Node, each: tuple[str, ...], directions: int) -> list[list[Any]]:
    names = node.get("activations") or list(each) * directions
    unknown = [name for name in names if name not in _ACTIVATIONS]
    if unknown or node.get("clip") is not None:
        raise node.unsupported(f"activation {unknown}" if unknown else "`clip`")
    count = len(each)
    found = [_ACTIVATIONS[name] for name in names]
    return [found[i * count : (i + 1) * count] for i in range(directions)]


def _run(
    node: Node,
    x: Any,
    lengths: Any,
    starts: list[tuple[Any, ...]],
    cells: list[Cell],
    projected: list[Any],
) -> tuple[Any, list[tuple[Any, ...]]]:
    """Each direction's cell over time; rows that have ended keep their state and give zeros."""
    time = projected[0].shape[0]
    outputs, finals = [], []
    for index, (cell, start, inputs) in enumerate(zip(cells, starts, projected, strict=True)):
        back = index == 1 or node.get("direction", "forward") == "reverse"
        steps = jnp.arange(time)

        def step(state: Any, at: Any, cell: Cell = cell) -> Any:
            t, now = at
            made = cell(state, now)
            if lengths is None:
                return made, made[0]
            on = (t < lengths)[:, None]
            kept = tuple(jnp.where(on, new, old) for new, old in zip(made, state, strict=True))
            return kept, jnp.where(on, made[0], 0)

        final, made = jax.lax.scan(step, start, (steps, inputs), reverse=back)
        outputs.append(made)
        finals.append(final)
    return jnp.stack(outputs, 1), finals


def _layers(node: Node, gates: int, *values: Any) -> Any:
    """Inputs common to all three: [time, batch, …] whatever `layout`, a list per direction."""
    given = [*values, *[None] * (7 - len(values))]
    x, w, r, bias, lengths = given[:5]
    starts = given[5:]
    batch_first = node.get("layout", 0)
    x = jnp.swapaxes(x, 0, 1) if batch_first else jnp.asarray(x)
    directions, hidden = w.shape[0], r.shape[-1]
    if bias is None:
        bias = jnp.zeros((directions, 2 * gates * hidden), x.dtype)
    lengths = None if lengths is None else jnp.asarray(lengths)
    zero = jnp.zeros((directions, x.shape[1], hidden), x.dtype)
    starts = [zero if s is None else jnp.swapaxes(s, 0, 1) if batch_first else s for s in starts]
    return x, w, r, bias, lengths, starts, directions, hidden


def _finish(node: Node, made: Any, finals: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    last = [jnp.stack(parts) for parts in zip(*finals, strict=True)]
    if node.get("layout", 0):
        made = made.transpose(2, 0, 1, 3)
        last = [jnp.swapaxes(part, 0, 1) for part in last]
    return (made, *last)[: node.outputs]


@operator("RNN", since=7)
def rnn(node: Node, *values: Any) -> Any:
    x, w, r, bias, lengths, (start, *_), directions, hidden = _layers(node, 1, *values)
    cells, projected = [], []
    for i, (f,) in enumerate(_activations(node, ("Tanh",), directions)):
        projected.append(_matmul(x, w[i].T) + bias[i][:hidden] + bias[i][hidden:])
        cells.append(lambda state, now, r=r[i], f=f: (f(now + _matmul(state[0], r.T)),))
    return _finish(node, *_run(node, x, lengths, [(s,) for s in start], cells, projected))


@operator("GRU", since=7)
def gru(node: Node, *values: Any) -> Any:
    """Gates in the order update, reset, hidden."""
    x, w, r, bias, lengths, (start, *_), directions, hidden = _layers(node, 3, *values)
    before = not node.get("linear_before_reset", 0)
    cells, projected = [], []
    for i, (f, g) in enumerate(_activations(node, ("Sigmoid", "Tanh"), directions)):
        wb, rb = jnp.split(bias[i], 2)
        projected.append(_matmul(x, w[i].T) + wb)

        def cell(state: Any, now: Any, r: Any = r[i], rb: Any = rb, f: Any = f, g: Any = g) -> Any:
            (h,) = state
            z_in, r_in, h_in = jnp.split(now, 3, -1)
            rz, rr, rh = jnp.split(r, 3)
            bz, br, bh = jnp.split(rb, 3)
            z, reset = f(z_in + _matmul(h, rz.T) + bz), f(r_in + _matmul(h, rr.T) + br)
            inner = _matmul(reset * h, rh.T) + bh if before else reset * (_matmul(h, rh.T) + bh)
            return ((1 - z) * g(h_in + inner) + z * h,)

        cells.append(cell)
    return _finish(node, *_run(node, x, lengths, [(s,) for s in start], cells, projected))


@operator("LSTM", since=7)
def lstm(node: Node, *values: Any) -> Any:
    """Gates in the order input, output, forget, cell."""
    peep = values[7] if len(values) > 7 and values[7] is not None else None
    x, w, r, bias, lengths, starts, directions, hidden = _layers(node, 4, *values[:7])
    cells, projected = [], []
    for i, (f, g, h) in enumerate(_activations(node, ("Sigmoid", "Tanh", "Tanh"), directions)):
        wb, rb = jnp.split(bias[i], 2)
        projected.append(_matmul(x, w[i].T) + wb + rb)
        seen = (0, 0, 0) if peep is None else tuple(jnp.split(peep[i], 3))

        def cell(
            state: Any, now: Any, r: Any = r[i], f: Any = f, g: Any = g, h: Any = h, p: Any = seen
        ) -> Any:
            one, memory = state
            i_in, o_in, f_in, c_in = jnp.split(now + _matmul(one, r.T), 4, -1)
            kept = f(f_in + p[2] * memory) * memory + f(i_in + p[0] * memory) * g(c_in)
            return f(o_in + p[1] * kept) * h(kept), kept

        cells.append(cell)
    both = list(zip(starts[0], starts[1], strict=True))
    return _finish(node, *_run(node, x, lengths, both, cells, projected))
