"""Parameters as initializers: one for a float, codes and scale for a quantized one.

`docs/formats/onnx.md` says how each storage lies. Packed codes flow through the graph as
`Codes`: a reference to the initializer with what was done to its stacked axes; their bits are
never touched by nodes. Knows nothing of equations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bitnet_jax.core.errors import InternalError
from bitnet_jax.export.builder import CONTRIB, Builder, numpy_dtype
from bitnet_jax.export.profiles import Profile
from bitnet_jax.quant.layouts import layout_of
from bitnet_jax.quant.tensor import TERNARY, QuantTensor, is_quant

# Sizes of block that MatMulNBits has a fast kernel for, the best first (ONNX Runtime 1.32).
BLOCKS = (128, 64, 32)
# And those that it takes at all.
GROUPS = (16, 32, 64, 128, 256)
DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class Codes:
    """Packed codes [*lead, ...] of a parameter, on their way to the op that multiplies by them.

    Attributes:
      leaf: name of the parameter.
      quant: the parameter, its arrays abstract.
      lead: sizes of the axes before those of the layout.
      moves: makes INT8 [*lead, in, out] of the initializer's [*stack, in, out]; None where
        nothing but axes of size 1 changed.
    """

    leaf: str
    quant: QuantTensor
    lead: tuple[int, ...]
    moves: Callable[[str], str] | None = None

    @property
    def packed_axes(self) -> int:
        """How many axes at the end are the layout's."""
        quant = self.quant
        return len(layout_of(quant.layout).shape(quant.out_features, quant.in_features))

    def then(self, lead: Sequence[int], move: Callable[[str], str]) -> Codes:
        """With one more move of the leading axes."""
        before = self.moves
        both = move if before is None else lambda name: move(before(name))
        return replace(self, lead=tuple(lead), moves=both)


class TwoForms(Exception):
    """A weight was wanted in a second form; it is to be stored in the one that serves both."""

    def __init__(self, leaf: str):
        super().__init__(leaf)
        self.leaf = leaf


@dataclass
class Weights:
    """The parameters of one export.

    Attributes:
      leaves: parameter name to its abstract value: an array's, or a `QuantTensor` of them. A
        float's dtype is that of its source.
      plain: leaves that are wanted as whole integers, whatever the profile says.
    """

    builder: Builder
    profile: Profile
    leaves: Mapping[str, Any]
    plain: frozenset[str] = frozenset()
    _forms: dict[str, str] = field(default_factory=dict)

    # ------------------------------------------------------------------------ as arguments
    def argument(self, name: str, aval: Any) -> str | Codes:
        """What a program's parameter is in the graph.

        Args:
          name: as `Program.param_names` has it.
          aval: the type that the program was traced on.
        """
        if name in self.leaves and not is_quant(self.leaves[name]):
            return self._float(name, str(aval.dtype))
        leaf, _, part = name.rpartition(".")
        quant = self.leaves.get(leaf)
        if not isinstance(quant, QuantTensor) or part not in ("codes", "scale"):
            raise InternalError("export.parameter", f"parameter `{name}` has no value")
        if part == "scale":
            return self.builder.parameter(name)
        return Codes(leaf, quant, tuple(quant.stack_shape))

    def _float(self, name: str, traced: str) -> str:
        stored = self.storage(name)
        value = self.builder.parameter(name)
        if stored == traced:
            return value
        wide = self.builder.cast(value, traced)
        self.builder.narrow[wide] = value
        return wide

    def storage(self, name: str) -> str:
        """The dtype that a float parameter's initializer has."""
        dtype = str(self.leaves[name].dtype)
        return "float32" if self.profile.widen and dtype in ("bfloat16", "float16") else dtype

    # ---------------------------------------------------------------------------- as operands
    def matrix(self, codes: Codes) -> tuple[str, list[int]]:
        """INT8 codes and their shape: [*lead, in, out], or [in, out] where `lead` is all 1."""
        storage = self.profile.storage.get(codes.quant.kind, "int8")
        self._settle(codes.leaf, storage)
        name = self.builder.parameter(f"{codes.leaf}.codes")
        if storage != "int8":
            name = self.builder.cast(name, "int8")
        quant = codes.quant
        own = [quant.in_features, quant.out_features]
        if codes.moves is not None:
            return codes.moves(name), [*codes.lead, *own]
        if not quant.stack_axes:
            return name, own
        shape = [*codes.lead, *own]
        if codes.lead != tuple(quant.stack_shape):
            name = self.builder.op("Reshape", name, self.builder.ints(shape))
        return name, shape

    def blocks(self, codes: Codes) -> int | None:
        """The block size if these are to be multiplied by MatMulNBits, else None."""
        quant = codes.quant
        if not self.profile.nbits or quant.kind != TERNARY or quant.stack_axes:
            return None
        if codes.moves is not None or codes.leaf in self.plain:
            return None
        return block_size(quant)

    def block_codes(self, codes: Codes) -> str:
        """UINT8 [out, blocks, block_size/4]."""
        self._settle(codes.leaf, "nbits2")
        return self.builder.parameter(f"{codes.leaf}.codes")

    def _settle(self, leaf: str, form: str) -> None:
        if self._forms.setdefault(leaf, form) != form:
            raise TwoForms(leaf)

    # --------------------------------------------------------------------------- what is stored
    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of the file's table, of the parameters that the graph reads."""
        return {
            name: self._quant_row(name, leaf) if is_quant(leaf) else self._float_row(name, leaf)
            for name, leaf in sorted(self.leaves.items(), key=lambda item: item[0].encode())
            if name in self.builder.parameters or f"{name}.codes" in self.builder.parameters
        }

    def _float_row(self, name: str, leaf: Any) -> dict[str, Any]:
        return {
            "shape": [int(size) for size in leaf.shape],
            "dtype": str(leaf.dtype),
            "storage": self.storage(name),
        }

    def _quant_row(self, name: str, quant: QuantTensor) -> dict[str, Any]:
        storage = self._forms[name]
        row = {
            "kind": quant.kind,
            "shape": [int(size) for size in quant.shape],
            "dtype": quant.dtype,
            "stack_axes": list(quant.stack_axes),
            "out_axes": list(quant.out_axes),
            "in_axes": list(quant.in_axes),
            "scale_kind": quant.scale_kind,
            "group_size": quant.group_size,
            "scale_dtype": quant.scale_dtype,
            "storage": storage,
        }
        return row | ({"block_size": block_size(quant)} if storage == "nbits2" else {})


def block_size(quant: QuantTensor) -> int | None:
    """Inputs to a block of MatMulNBits: a group is one block; None: no block fits."""
    if quant.scale_kind == "group":
        return quant.group_size if quant.group_size in GROUPS else None
    return next((size for size in BLOCKS if size <= quant.in_features), BLOCKS[-1])


# ------------------------------------------------------------------------------------ the bytes
def stored(
    row: Mapping[str, Any], value: Any
) -> dict[str, tuple[str, tuple[int, ...], np.ndarray]]:
    """A parameter's initializers: suffix to ONNX dtype, shape, and an array with its bytes.

    Args:
      row: of the file's table.
      value: the parameter, in numpy: an array or a `QuantTensor`.
    """
    # Not ascontiguousarray, which makes a scalar's shape [1].
    if not isinstance(value, QuantTensor):
        array = np.asarray(value).astype(numpy_dtype(row["storage"]), order="C", copy=False)
        return {"": (row["storage"], tuple(array.shape), array)}
    scale = np.asarray(value.scale, np.float32, order="C")
    host = replace(value, codes=np.asarray(value.codes), scale=scale)
    dtype, shape, data = _STORAGES[row["storage"]](host.codes_matrix(), row.get("block_size"))
    return {".codes": (dtype, shape, data), ".scale": ("float32", scale.shape, scale)}


def _turned(matrix: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.swapaxes(matrix, -1, -2))


def _int8(matrix: np.ndarray, block: int | None) -> tuple[str, tuple[int, ...], np.ndarray]:
    turned = _turned(matrix)
    return "int8", turned.shape, turned


def _bits(count: int) -> Callable[..., tuple[str, tuple[int, ...], np.ndarray]]:
    """Two's complement in `count` bits, the first in the lowest."""
    step = 8 // count

    def pack(matrix: np.ndarray, block: int | None) -> tuple[str, tuple[int, ...], np.ndarray]:
        turned = _turned(matrix)
        flat = turned.reshape(-1).view(np.uint8) & np.uint8((1 << count) - 1)
        return f"int{count}", turned.shape, _together(np.pad(flat, (0, -flat.size % step)), count)

    return pack


def _together(fields: np.ndarray, count: int) -> np.ndarray:
    """Bytes of uint8 fields of `count` bits [..., n], the first in the lowest bits."""
    step = 8 // count
    out = fields[..., 0::step].copy()
    for at in range(1, step):
        out |= fields[..., at::step] << np.uint8(at * count)
    return out


def _nbits2(matrix: np.ndarray, block: int | None) -> tuple[str, tuple[int, ...], np.ndarray]:
    assert block is not None
    rows = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % block)))
    data = _together((rows + 2).astype(np.uint8), 2).reshape(len(rows), -1, block // 4)
    return "uint8", data.shape, data


_STORAGES: dict[str, Callable[..., tuple[str, tuple[int, ...], np.ndarray]]] = {
    "int8": _int8,
    "int4": _bits(4),
    "int2": _bits(2),
    "nbits2": _nbits2,
}


# ------------------------------------------------------------------------------- MatMulNBits
def nbits_product(weights: Weights, x: str, codes: Codes, scale: str, block: int) -> str:
    """``x @ weight.T`` by ONNX Runtime's own rounding of x: float32 [1, M, in] to [1, M, out].

    Its scales are an initializer, as they are stored: of computed ones, a session that does not
    fold constants makes other numbers without a word (ONNX Runtime 1.32, accuracy level 4). So
    only groups' are its own; for a tensor's or a row's they are 1, and ours multiply the result.

    Args:
      scale: FLOAT [1], [1, out] or [1, out, groups], as the op was given it.
    """
    quant, builder = codes.quant, weights.builder
    outputs, count = quant.out_features, -(-quant.in_features // block)
    grouped = quant.scale_kind == "group"
    y = builder.op(
        "MatMulNBits",
        x,
        weights.block_codes(codes),
        builder.parameter(f"{codes.leaf}.scale")
        if grouped
        else builder.const(np.ones((outputs, count), np.float32)),
        domain=CONTRIB,
        K=quant.in_features,
        N=outputs,
        bits=2,
        block_size=block,
        accuracy_level=weights.profile.accuracy_level,
    )
    if grouped:
        return y
    # [1] and [1, out] against [1, M, out]
    return builder.op(
        "Mul", y, scale if quant.scale_kind == "tensor" else builder.unsqueeze(scale, 1)
    )
