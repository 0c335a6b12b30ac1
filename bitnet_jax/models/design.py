"""`Design`: what tells one decoder of our blocks from another, beside the sizes of its spec.

A family makes one of a spec; `blocks.py` builds what it says. Plain data: knows no family,
no array and no flax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Layer:
    """How one layer's attention knows positions.

    Attributes:
      theta: base of the rotary frequencies.
      scaling: of those frequencies, as `ops.rotary` takes it.
      rotated: how many of a head's elements are turned, the first ones; None: all, 0: none.
    """

    theta: float
    scaling: tuple[Any, ...] = ()
    rotated: int | None = None


@dataclass(frozen=True)
class Design:
    """A decoder's parts. The defaults are those of a plain pre-norm decoder without biases.

    Attributes:
      layers: of the layers in turn, from the first again where there are more.
      qkv_bias, out_bias, mlp_bias: biases of the linears: of q, k and v; of the attention's
        output; of the feed-forward.
      linear_norm_eps: an RMSNorm with this epsilon inside each linear of a layer, before its
        product (`use_rms_norm` of transformers); 0: none.
    """

    layers: tuple[Layer, ...]
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    linear_norm_eps: float = 0.0

    def layer(self, index: int) -> Layer:
        """Of the layer at `index`."""
        return self.layers[index % len(self.layers)]
