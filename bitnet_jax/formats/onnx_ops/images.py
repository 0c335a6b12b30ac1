"""Convolutions, pools and resizing: windows that move over an array [batch, channels, *space]."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.formats.onnx_ops.products import PRECISION, activation
from bitnet_jax.formats.onnx_ops.table import MICROSOFT, Node, checked_size, ints, operator

Pads = list[tuple[int, int]]


def _window(
    node: Node, space: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[int], Pads]:
    """Strides, dilations and pads of a node, `auto_pad` worked out."""
    rank = len(kernel)
    strides = list(node.get("strides") or [1] * rank)
    dilations = list(node.get("dilations") or [1] * rank)
    auto = node.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        flat = list(node.get("pads") or [0] * 2 * rank)
        return strides, dilations, list(zip(flat[:rank], flat[rank:], strict=True))
    if auto == "VALID":
        return strides, dilations, [(0, 0)] * rank
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.broken(f"has auto_pad `{auto}`")
    pads: Pads = []
    for size, k, stride, dilation in zip(space, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        less, more = total // 2, total - total // 2
        pads.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return strides, dilations, pads


def convolve(node: Node, x: Any, w: Any, dtype: Any = None) -> Any:
    """The sum of a convolution, of floats or of integers (then in `dtype`)."""
    space = x.shape[2:]
    strides, dilations, pads = _window(node, space, w.shape[2:])
    letters = "DHWXYZ"[-len(space) :] if len(space) <= 3 else "DHWXYZ"[: len(space)]
    return jax.lax.conv_general_dilated(
        x,
        w,
        strides,
        pads,
        rhs_dilation=dilations,
        dimension_numbers=(f"NC{letters}", f"OI{letters}", f"NC{letters}"),
        feature_group_count=node.get("group", 1),
        precision=PRECISION,
        preferred_element_type=dtype,
    )


def over_channels(bias: Any, rank: int) -> Any:
    """A vector per channel, laid along axis 1."""
    return jnp.reshape(bias, (-1, *(1,) * (rank - 2)))


@operator("Conv")
def conv(node: Node, x: Any, w: Any, bias: Any = None) -> Any:
    found = convolve(node, x, w)
    return found if bias is None else found + over_channels(bias, x.ndim)


@operator("FusedConv", domain=MICROSOFT)
def fused_conv(node: Node, x: Any, w: Any, bias: Any = None, added: Any = None) -> Any:
    found = conv(node, x, w, bias)
    return activation(node, found if added is None else found + added, "activation")


@operator("ConvTranspose")
def conv_transpose(node: Node, x: Any, w: Any, bias: Any = None) -> Any:
    """A convolution of `x` with zeros between its elements, by the kernel turned round."""
    groups, rank, kernel = node.get("group", 1), x.ndim - 2, w.shape[2:]
    strides = list(node.get("strides") or [1] * rank)
    dilations = list(node.get("dilations") or [1] * rank)
    extra = list(node.get("output_padding") or [0] * rank)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _transposed_pads(node, x.shape[2:], strides, spans, extra)
    # [in, out / groups, …] -> [out, in / groups, …]
    parts = jnp.reshape(w, (groups, w.shape[0] // groups, *w.shape[1:]))
    turned = jnp.flip(jnp.swapaxes(parts, 1, 2), tuple(range(3, w.ndim + 1)))
    turned = turned.reshape(groups * w.shape[1], w.shape[0] // groups, *kernel)
    letters = "DHW"[-rank:]
    found = jax.lax.conv_general_dilated(
        x,
        turned,
        [1] * rank,
        [
            (span - 1 - low, span - 1 - high + more)
            for span, (low, high), more in zip(spans, pads, extra, strict=True)
        ],
        lhs_dilation=strides,
        rhs_dilation=dilations,
        dimension_numbers=(f"NC{letters}", f"OI{letters}", f"NC{letters}"),
        feature_group_count=groups,
        precision=PRECISION,
    )
    return found if bias is None else found + over_channels(bias, x.ndim)


def _transposed_pads(
    node: Node, space: Sequence[int], strides: list[int], spans: list[int], extra: list[int]
) -> Pads:
    rank, auto = len(space), node.get("auto_pad", "NOTSET")
    shape = node.get("output_shape")
    if shape is None and auto in ("NOTSET", "VALID"):
        flat = list(node.get("pads") or [0] * 2 * rank) if auto == "NOTSET" else [0] * 2 * rank
        return list(zip(flat[:rank], flat[rank:], strict=True))
    shape = shape or [size * stride for size, stride in zip(space, strides, strict=True)]
    pads: Pads = []
    for size, stride, span, more, wanted in zip(
        space, strides, spans, extra, list(shape)[-rank:], strict=True
    ):
        total = stride * (size - 1) + more + span - wanted
        if total < 0:  # longer than the sum reaches: zeros at the end
            pads.append((0, total))
            continue
        half = total // 2
        pads.append((half, total - half) if auto == "SAME_UPPER" else (total - half, half))
    return pads


# ----------------------------------------------------------------------------- pools
def _pooled(node: Node, x: Any, start: Any, combine: Callable[..., Any]) -> tuple[Any, Pads, Any]:
    """The windows of a pool, combined; the pads that were taken, and how it counts its windows."""
    kernel, space = list(node.need("kernel_shape")), x.shape[2:]
    strides, dilations, pads = _window(node, space, kernel)
    ends = list(pads)
    if node.get("ceil_mode", 0):
        for i, (size, k) in enumerate(zip(space, kernel, strict=True)):
            low, high = pads[i]
            span = (k - 1) * dilations[i] + 1
            count = -(-(size + low + high - span) // strides[i]) + 1
            # A window must start inside the input or its left padding.
            if (count - 1) * strides[i] >= size + low:
                count -= 1
            ends[i] = (low, max((count - 1) * strides[i] + span - size - low, high))

    def combined(value: Any, edges: Pads) -> Any:
        return jax.lax.reduce_window(
            value, start, combine, (1, 1, *kernel), (1, 1, *strides), ((0, 0), (0, 0), *edges),
            window_dilation=(1, 1, *dilations),
        )  # fmt: skip

    return combined(jnp.asarray(x), ends), ends, combined


@operator("MaxPool", notes="without the output `Indices`")
def max_pool(node: Node, x: Any) -> Any:
    if node.outputs > 1:
        raise node.unsupported("the output `Indices`")
    floats = jnp.issubdtype(x.dtype, jnp.floating)
    # A number, so that JAX knows the reduction, which has a derivative then.
    lowest = np.array(-np.inf if floats else jnp.iinfo(x.dtype).min, x.dtype)
    return _pooled(node, x, lowest, jax.lax.max)[0]


@operator("AveragePool")
def average_pool(node: Node, x: Any) -> Any:
    """Divides by the elements inside; with `count_include_pad` by those in the stated pads too."""
    total, ends, combined = _pooled(node, x, 0.0, jax.lax.add)
    ones = jnp.ones((1, 1, *x.shape[2:]), x.dtype)
    if node.get("count_include_pad", 0):
        _, _, stated = _window(node, x.shape[2:], list(node.need("kernel_shape")))
        ones = jnp.pad(ones, ((0, 0), (0, 0), *stated), constant_values=1)
        ends = [(low - a, high - b) for (low, high), (a, b) in zip(ends, stated, strict=True)]
    return total / combined(ones, ends)


@operator("LpPool")
def lp_pool(node: Node, x: Any) -> Any:
    p = float(node.get("p", 2))
    return _pooled(node, jnp.abs(x) ** p, 0.0, jax.lax.add)[0] ** (1 / p)


@operator("GlobalAveragePool")
def global_average_pool(node: Node, x: Any) -> Any:
    return jnp.mean(x, tuple(range(2, x.ndim)), keepdims=True)


@operator("GlobalMaxPool")
def global_max_pool(node: Node, x: Any) -> Any:
    return jnp.max(x, tuple(range(2, x.ndim)), keepdims=True)


@operator("GlobalLpPool")
def global_lp_pool(node: Node, x: Any) -> Any:
    p = float(node.get("p", 2))
    return jnp.sum(jnp.abs(x) ** p, tuple(range(2, x.ndim)), keepdims=True) ** (1 / p)


# ---------------------------------------------------------------------------- resize
_PLACES: dict[str, Callable[[Any, float, int, float], Any]] = {
    # where an output element lies in the input: of its index, the scale, both lengths
    "half_pixel": lambda i, scale, size, out: (i + 0.5) / scale - 0.5,
    "half_pixel_symmetric": lambda i, scale, size, out: (
        size / 2 * (1 - int(out) / out) + (i + 0.5) / scale - 0.5
    ),
    "pytorch_half_pixel": lambda i, scale, size, out: (
        (i + 0.5) / scale - 0.5 if int(out) > 1 else np.zeros_like(i)
    ),
    "align_corners": lambda i, scale, size, out: (
        i * (size - 1) / (int(out) - 1) if int(out) > 1 else np.zeros_like(i)
    ),
    "asymmetric": lambda i, scale, size, out: i / scale,
}
_NEAREST: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda place: np.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: np.floor(place + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@operator("Upsample", static=(1,))
def upsample(node: Node, x: Any, scales: Any = None) -> Any:
    """The older name; it rounds down."""
    given = node.get("scales") if scales is None else scales
    renamed = {
        "mode": {"bilinear": "linear"}.get(m := node.get("mode", "nearest"), m),
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    return resize(Node(node.op, node.where, 13, renamed), x, None, np.asarray(given))


@operator("Resize", static=(1, 2, 3), notes="all modes but tf_crop_and_resize")
def resize(node: Node, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    """Axis by axis: each output element is a weighted sum of some of the input's along it."""
    if node.opset < 11:
        if scales is None and roi is not None:
            scales = roi
        node = Node(node.op, node.where, node.opset, {
            **node.attributes, "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        })  # fmt: skip
    axes = list(node.get("axes") or range(x.ndim))
    axes = [axis % x.ndim for axis in axes]
    if scales is not None and scales.size:
        factors = [float(item) for item in scales.reshape(-1)]
        wide = [x.shape[axis] * factor for axis, factor in zip(axes, factors, strict=True)]
    elif sizes is not None:
        wide, factors = _stated(node, x, axes, ints(sizes))
    else:
        raise node.broken("has neither scales nor sizes")
    checked_size(node, [*x.shape, *(int(size) for size in wide)])
    x = jnp.asarray(x)
    for axis, factor, out in zip(axes, factors, wide, strict=True):
        if factor != 1.0 or int(out) != x.shape[axis]:
            x = _along(node, x, axis, factor, out)
    return x


def _stated(
    node: Node, x: Any, axes: list[int], sizes: list[int]
) -> tuple[list[float], list[float]]:
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    factors = [size / x.shape[axis] for axis, size in zip(axes, sizes, strict=True)]
    if policy == "stretch":
        return [float(size) for size in sizes], factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    wide = [float(math.floor(x.shape[axis] * factor + 0.5)) for axis in axes]
    return wide, [factor] * len(axes)


def _along(node: Node, x: Any, axis: int, factor: float, out: float) -> Any:
    size, count = x.shape[axis], int(out)
    mode = node.get("coordinate_transformation_mode", "half_pixel")
    if mode not in _PLACES:
        raise node.unsupported(f"coordinate_transformation_mode `{mode}`")
    # As ONNX Runtime: places are float32 there, and a half decides the nearest.
    index = np.arange(count, dtype=np.float32)
    place = np.asarray(_PLACES[mode](index, float(np.float32(factor)), size, out), np.float32)
    how = node.get("mode", "nearest")
    if how == "nearest":
        rounded = _NEAREST[node.get("nearest_mode", "round_prefer_floor")](place)
        return jnp.take(x, np.clip(rounded, 0, size - 1).astype(np.int32), axis)
    if how not in ("linear", "cubic"):
        raise node.broken(f"resizes in mode `{how}`")
    taps, weights = _taps(node, place.astype(np.float64), how, factor, size)
    shape = [1] * x.ndim
    shape[axis] = count
    total = 0
    for tap, weight in zip(taps.T, weights.T, strict=True):
        if weight.any():
            total = total + jnp.take(x, tap, axis) * weight.astype(x.dtype).reshape(shape)
    return total


def _taps(
    node: Node, place: np.ndarray, how: str, factor: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each output element the input's it is made of, and their weights; both [out, taps]."""
    wider = max(1.0, 1 / factor) if node.get("antialias", 0) else 1.0
    reach = (1 if how == "linear" else 2) * wider
    low = np.floor(place)[:, None].astype(np.int64)
    taps = low + np.arange(1 - math.ceil(reach), math.ceil(reach) + 1)[None]
    distance = np.abs(taps - place[:, None]) / wider
    weights = _linear(distance) if how == "linear" else _cubic(
        distance, node.get("cubic_coeff_a", -0.75)
    )  # fmt: skip
    if node.get("exclude_outside", 0) or wider > 1:
        weights = np.where((taps >= 0) & (taps < size), weights, 0)
    weights = weights / weights.sum(1, keepdims=True)
    return np.clip(taps, 0, size - 1).astype(np.int32), weights


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - distance, 0)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel: https://ieeexplore.ieee.org/document/1163711, equation (4)."""
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))
