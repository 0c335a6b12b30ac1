"""What the modes that compute have in common: where no rule quantizes, floats go on.

A mode decides what happens where a followed parameter is used; `quantize_linears` and
`pack_weights` each say how their own products are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from bitnet_jax.core import jax_compat
from bitnet_jax.ir.interpreter import Context, bind
from bitnet_jax.ir.views import ParamView
from bitnet_jax.passes.geometry import arranged_scale


class StatelessMode:
    """Base of the modes that need nothing from outside a body, and tap nothing."""

    def quantizes(self, view: ParamView) -> bool:
        """True if products with this parameter are quantized."""
        return False

    def constant(self, value: Any) -> Any:
        """Closed-over values are values: the plan has looked at them."""
        return value

    def settle(self, view: ParamView) -> ParamView:
        """Nothing to prepare."""
        return view

    def carried(self) -> list[Any]:
        """No arrays of its own."""
        return []

    def with_carried(self, arrays: Sequence[Any]) -> Any:
        """No arrays of its own."""
        return self

    def begin(self) -> None:
        """Nothing is tapped."""

    def end(self) -> Any:
        """Nothing is tapped."""
        return {}

    def add_seen(self, seen: Any) -> None:
        """Nothing is tapped."""


class FloatMode(StatelessMode):
    """Base of the modes: every use is left as it is."""

    def plain(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """The float array behind a view whose use is left as it is, masked if it is masked."""
        floats, mask = view.array(), view.companion("mask")
        if floats is None or mask is None:
            return floats

        def masked(floats: Any, mask: Any) -> Any:
            kept = arranged_scale(mask, view).astype(floats.dtype)
            return floats - lax.stop_gradient(floats * (1 - kept))

        sharding = jax_compat.explicit_sharding(jax.typeof(floats))
        return jax_compat.in_auto_axes(masked, sharding)(floats, mask)

    def product(self, context: Context, eqn: Any, view: ParamView, side: int, other: Any) -> Any:
        """A quantized `dot_general`."""
        raise NotImplementedError

    def ragged_product(
        self, context: Context, eqn: Any, view: ParamView, x: Any, sizes: Any
    ) -> Any:
        """A quantized `ragged_dot_general`."""
        raise NotImplementedError

    def _in_auto_axes(
        self, product: Callable[..., Any], eqn: Any, view: ParamView, *others: Any
    ) -> Any:
        """``product(self, eqn, view, *others)``, on an explicit mesh too."""
        sharding = jax_compat.explicit_sharding(eqn.outvars[0].aval)
        if sharding is None:
            return product(self, eqn, view, *others)
        free = {key: None for key in ("out_sharding",) if key in eqn.params}
        bare = eqn.replace(params={**eqn.params, **free})

        def run(carried: Any, leaves: Any, *others: Any) -> Any:
            return product(self.with_carried(carried), bare, view.with_leaves(leaves), *others)

        return jax_compat.in_auto_axes(run, sharding)(self.carried(), view.leaves(), *others)

    def dot(self, context: Context, eqn: Any, view: ParamView, side: int, other: Any) -> Any:
        """Quantized, or the float dot."""
        if self.quantizes(view):

            def product(mode: FloatMode, eqn: Any, view: ParamView, other: Any) -> Any:
                return mode.product(context, eqn, view, side, other)

            return self._in_auto_axes(product, eqn, view, other)
        floats = self.plain(context, eqn, view)
        return bind(eqn, [other, floats] if side else [floats, other])[0]

    def ragged(self, context: Context, eqn: Any, view: ParamView, x: Any, sizes: Any) -> Any:
        """Quantized, or the float ragged dot."""
        if self.quantizes(view):

            def product(mode: FloatMode, eqn: Any, view: ParamView, x: Any, sizes: Any) -> Any:
                return mode.ragged_product(context, eqn, view, x, sizes)

            return self._in_auto_axes(product, eqn, view, x, sizes)
        return bind(eqn, [x, self.plain(context, eqn, view), sizes])[0]

    def gather(self, context: Context, eqn: Any, view: ParamView, indices: Sequence[Any]) -> Any:
        """The float lookup."""
        return bind(eqn, [self.plain(context, eqn, view), *indices])[0]

    def convolution(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """Convolutions stay float."""
        return self.plain(context, eqn, view)

    def keep(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """The float array."""
        return self.plain(context, eqn, view)

    def latent(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """The float array."""
        return FloatMode.plain(self, context, eqn, view)

    def other(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """The float array: the plan has refused what may hide a product."""
        return self.plain(context, eqn, view)


class BoundMode(FloatMode):
    """Base of modes that bind the function's own float products, shardings and all."""

    def _in_auto_axes(
        self, product: Callable[..., Any], eqn: Any, view: ParamView, *others: Any
    ) -> Any:
        """On an explicit mesh too: the equation says how its result lies."""
        return product(self, eqn, view, *others)
