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
      window: how many keys a query sees at most; 0: all before it.
    """

    theta: float
    scaling: tuple[Any, ...] = ()
    rotated: int | None = None
    window: int = 0


@dataclass(frozen=True)
class Design:
    """A decoder's parts. The defaults are those of a plain pre-norm decoder without biases.

    Attributes:
      layers: of the layers in turn, from the first again where there are more.
      qkv_bias, out_bias, mlp_bias, head_bias: biases of the linears: of q, k and v; of the
        attention's output; of the feed-forward; of the head.
      linear_norm_eps: an RMSNorm with this epsilon inside each linear of a layer, before its
        product (`use_rms_norm` of transformers); 0: none.
      qk_norm: an RMSNorm over each head's query and key, before they are turned.
      layer_norm: LayerNorm with a bias where others have RMSNorm.
      norm_offset: what is added to the weight of every norm.
      sandwich: norms after attention and feed-forward too, before their results are added.
      parallel: attention and feed-forward read the same norm, and their results are added
        at once.
      gated: the feed-forward has a gate; else its activation is on the only way up.
      embedding_scale: what embeddings are multiplied by; the head is not.
      query_scale: what queries are multiplied by, beside one over the square root of a head's size.
    """

    layers: tuple[Layer, ...]
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    linear_norm_eps: float = 0.0
    qk_norm: bool = False
    layer_norm: bool = False
    norm_offset: float = 0.0
    sandwich: bool = False
    parallel: bool = False
    gated: bool = True
    embedding_scale: float = 1.0
    query_scale: float = 1.0

    def layer(self, index: int) -> Layer:
        """Of the layer at `index`."""
        return self.layers[index % len(self.layers)]
