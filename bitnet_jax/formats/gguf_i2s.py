"""Which layout a file's I2_S tensors have: bitnet.cpp wrote several under one number.

Its converter and its x86 kernels have blocks of 128 elements in 32 bytes, the one that is read
here; its ARM quantizer has 64 in 16, a build without ACT_PARALLEL four rows to a byte, and the
fork's llama-quantize consecutive elements. Each is the same trits in other places, so neither
codes, histogram nor trailer tells them apart, and in trits without structure nothing does. Trained
weights have structure: a column (an input channel) with large weights has few zeros, and the
norm in front of it, the embedding and the rows of the output projections know the same channel
in an order that no layout changes. So the share of zeros by column, read in each layout, is
compared with those: where another layout agrees far beyond chance and ours does not, the file
is refused. It is looked at once, when the first I2_S tensor is read, in at most two layers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.gguf import GgufFile
from bitnet_jax.containers.gguf_blocks import FLOATS
from bitnet_jax.containers.gguf_ternary import I2S_TAIL

OURS = "128 elements in 32 bytes"
# Standard deviations that a correlation must be away from chance to say anything, and by how
# many another layout must be ahead of ours.
_TELLING, _AHEAD = 7.0, 5.0
_EMBEDDING_ROWS = 512

# layout -> column sums of bit pairs [4, out * in / 4] (bits 6-7 first), given (out, in)
LAYOUTS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    OURS: lambda pairs, out, width: _blocked(pairs, out, width, 32),
    "64 elements in 16 bytes (bitnet.cpp on ARM)": (
        lambda pairs, out, width: _blocked(pairs, out, width, 16)
    ),
    "consecutive elements, the first in the high bits": (
        lambda pairs, out, width: _blocked(pairs, out, width, 1)
    ),
    "consecutive elements, the first in the low bits": (
        lambda pairs, out, width: _blocked(pairs[::-1], out, width, 1)
    ),
    "four rows to a byte (bitnet.cpp without ACT_PARALLEL)": (
        lambda pairs, out, width: pairs.reshape(-1, width).sum(axis=0, dtype=np.int64)
    ),
}


def _blocked(pairs: np.ndarray, out: int, width: int, each: int) -> np.ndarray:
    """Runs of 4 * `each` elements in `each` bytes."""
    sums = pairs.reshape(4, out, width // (4 * each), each).sum(axis=1, dtype=np.int64)
    return sums.transpose(1, 0, 2).reshape(width)


@dataclass
class LayoutCheck:
    """The check of one file, made once.

    Attributes:
      names: canonical name -> the tensor's.
    """

    file: GgufFile
    names: Mapping[str, str]
    layers: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _done: bool = False

    def __call__(self) -> None:
        """Raises unless the layout is ours, as far as it can be told.

        Raises:
          BadData: another layout fits, and ours does not (``gguf.i2s_layout``).
        """
        with self._lock:
            if not self._done:
                for layer in sorted({0, self.layers // 2}):
                    self._check(layer)
                self._done = True

    def _check(self, layer: int) -> None:
        pre = f"layers.{layer}."
        found = agreement(
            [self._columns(pre + name) for name in _READERS if self._is_i2s(pre + name)],
            [*self._references(pre)],
        )
        best = max(found, key=lambda name: found[name], default=OURS)
        if best != OURS and found[best] > _TELLING and found[best] > found[OURS] + _AHEAD:
            raise TensorError(
                "gguf.i2s_layout",
                f"`{self.file.path}`: its I2_S tensors are not {OURS}, the layout that "
                f"bitnet.cpp's converter writes; they look like {best} (zeros "
                f"by column agree with the norms of layer {layer} at {found[best]:.0f} standard "
                f"deviations, {found[OURS]:.0f} in ours)",
                "make the file again with bitnet.cpp's converter, on any machine, or take a TQ2_0 "
                "file or the original",
                tensor=pre + _READERS[0],
            )

    def _is_i2s(self, name: str) -> bool:
        return name in self.names and self.file.info(self.names[name]).type.name == "I2_S"

    def _columns(self, name: str) -> dict[str, np.ndarray]:
        """How many trits of each column are not zero, by layout."""
        info = self.file.info(self.names[name])
        out, width = info.shape
        body = self.file.read_bytes(self.names[name])[:-I2S_TAIL]
        shifts = np.array([6, 4, 2, 0], np.uint8).reshape(4, 1)
        pairs = ((body >> shifts) & np.uint8(3)) != 1
        return {
            layout: sums(pairs, out, width)
            for layout, sums in LAYOUTS.items()
            if out % 4 == 0 or "rows" not in layout
        }

    def _references(self, pre: str) -> Iterator[np.ndarray]:
        """What knows the channels in their true order: sizes, each a vector [hidden]."""
        for name in ("input_layernorm", "post_attention_layernorm"):
            if pre + name in self.names:
                yield np.abs(self._rows(self.names[pre + name], 1)[0])
        embedding = self.names["embed_tokens"]
        if self.file.info(embedding).type.name in FLOATS:
            yield np.sqrt(np.square(self._rows(embedding, _EMBEDDING_ROWS)).mean(axis=0))

    def _rows(self, name: str, most: int) -> np.ndarray:
        """The first rows of a tensor of floats, float32 [rows, width]."""
        info = self.file.info(name)
        dtype, width = FLOATS[info.type.name], info.shape[-1]
        data = self.file.read_prefix(name, most * width * dtype.itemsize)
        return data.view(dtype).astype(np.float32).reshape(-1, width)


_READERS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj",
)  # fmt: skip


def agreement(
    columns: list[dict[str, np.ndarray]], references: list[np.ndarray]
) -> dict[str, float]:
    """By layout, how far beyond chance columns and references agree, in standard deviations.

    Only differences inside runs of 128 columns count: no layout moves a trit further, but for
    those of whole rows, which blur them.
    """
    if not columns or not references:
        return {OURS: 0.0}
    found = {}
    for layout in columns[0]:
        share = np.sum([c[layout] / c[layout].mean() for c in columns if layout in c], axis=0)
        ranked = _ranked(share)
        found[layout] = max(
            abs(float(np.mean(ranked * _ranked(reference)))) * np.sqrt(len(share))
            for reference in references
        )
    return found


def _ranked(values: np.ndarray) -> np.ndarray:
    """Ranks inside each run of 128, of mean 0 and variance 1 (0 where all are one value)."""
    runs = values.reshape(-1, 128)
    ranks = runs.argsort(axis=1, kind="stable").argsort(axis=1).astype(np.float64)
    ranks[(runs == runs[:, :1]).all(axis=1)] = 63.5
    flat = ranks.reshape(-1) - 63.5
    spread = flat.std()
    return flat / spread if spread else flat
