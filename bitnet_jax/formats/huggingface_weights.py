"""One ternary matrix of a `transformers` checkpoint, in each of its stored forms.

`weight_scale` has two opposite meanings: `autobitlinear` multiplies by it,
`bitlinear` divides. Here it becomes the one multiplying scale, exact where a
file that we wrote says what it was. Knows no config: the caller says which.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bitnet_jax.containers.blob import load_json
from bitnet_jax.containers.dtypes import DTYPES
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.native_table import check_scales
from bitnet_jax.containers.safetensors import SafetensorsFile, TensorInfo
from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.huggingface_packing import to_lines, unpack
from bitnet_jax.models.names import Expected
from bitnet_jax.quant.recover import recover
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.quant.ternary import (
    absmean_scale,
    from_trits,
    trits_of,
)

# Metadata of the files that we write: canonical name -> scale, its dtype, the float dtype.
EXACT_KEY = "bitnet_jax.scales"
LATENT_KEY = "bitnet_jax.latent"  # "true": the weights are trainable ones, not trits * s/p
SCALE_SUFFIX = "_scale"  # `<module>.weight` has its scale in `<module>.weight_scale`
BIAS_SUFFIX = ".bias"
# A master's mean is recomputed by the reader in another order of additions.
MASTER_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ExactScale:
    """The multiplying scale as the writer had it."""

    value: np.float32
    scale_dtype: str
    dtype: str


@dataclass(frozen=True)
class Stored:
    """All tensors of a checkpoint under their `transformers` names, not read yet."""

    tensors: Mapping[str, tuple[SafetensorsFile, TensorInfo]]
    exact: Mapping[str, ExactScale]
    latent: bool = False
    kinds: Mapping[str, str] = field(default_factory=dict)  # what holds one, if not its own dtype

    def info(self, name: str) -> TensorInfo:
        """The header's row."""
        return self.tensors[name][1]

    def read(self, name: str) -> np.ndarray:
        """Reads the tensor."""
        return self.tensors[name][0].read(name)

    def parts(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """Reads a matrix some rows at a time, each piece into the same memory."""
        return self.tensors[name][0].parts(name, rows)

    def held(self, item: Expected) -> dict[str, Any]:
        """`TensorEntry.stored_as` and `.nbytes` of a parameter: its rows, and their scale."""
        info = self.info(item.huggingface)
        share = item.shape[0] / item.file_shape[0] if item.rows is not None else 1
        scale = self.tensors.get(item.huggingface + SCALE_SUFFIX) if item.ternary else None
        return {
            "stored_as": self.kinds.get(item.huggingface, info.dtype),
            "nbytes": round(info.nbytes * share) + (0 if scale is None else scale[1].nbytes),
        }

    def prefix(self, name: str, count: int) -> np.ndarray:
        """Reads its first elements."""
        return self.tensors[name][0].read_prefix(name, count)


def float_names(dtype: str) -> str:
    """The plain name of a safetensors float dtype: BF16 -> bfloat16."""
    return str(DTYPES[dtype])


def exact_scales(files: Iterable[SafetensorsFile]) -> dict[str, ExactScale]:
    """The exact scales that files written by us carry; empty for others."""
    found: dict[str, ExactScale] = {}
    for file in files:
        text = file.metadata.get(EXACT_KEY)
        if text is None:
            continue
        where = f"`{file.path}`: metadata `{EXACT_KEY}`"
        raw = load_json(text.encode(), code="huggingface.exact_scales", where=where)
        if not isinstance(raw, dict):
            raise BadData("huggingface.exact_scales", f"{where} is no JSON object")
        found |= {name: _exact(name, row, where) for name, row in raw.items()}
    return found


def _exact(name: str, row: object, where: str) -> ExactScale:
    known = ("float32", "bfloat16", "float16", "float64")
    match row:
        case [float() | int() as value, str(scale_dtype), str(dtype)] if (
            scale_dtype in known[:3] and dtype in known
        ):
            scale = np.float32(value)
            check_scales(name, np.array(scale), where)
            return ExactScale(scale, scale_dtype, dtype)
    raise TensorError(
        "huggingface.exact_scales",
        f"{where}: `{name}` must be [scale, scale dtype, dtype]",
        "the metadata was altered: convert again from the source",
        tensor=name,
    )


def exact_metadata(scales: Mapping[str, ExactScale]) -> dict[str, str]:
    """The metadata that `exact_scales` reads; a float32 is exact as JSON prints it."""
    rows = {name: [float(s.value), s.scale_dtype, s.dtype] for name, s in sorted(scales.items())}
    return {EXACT_KEY: json.dumps(rows, separators=(",", ":"))} if rows else {}


def look_ternary(matrices: Iterable[Expected], stored: Stored) -> bool:
    """True when the first rows of float matrices are ternary, each by a scale or by its groups.

    The first one that does not begin with zeros tells: they are ternary and float alike.
    """
    for item in matrices:
        inputs = item.file_shape[-1]
        rows = min(max(4096 // inputs, 1), item.shape[0] if item.rows else item.file_shape[0])
        values = stored.prefix(item.huggingface, rows * inputs)
        if values.any():
            return recover(values.reshape(rows, inputs)) is not None
    return True


def _weight_scale(
    item: Expected, stored: Stored, divides: bool, where: str
) -> tuple[np.float32, str]:
    """The multiplying scale that the stored one means, and its dtype."""
    raw = stored.read(item.huggingface + SCALE_SUFFIX)
    if raw.size != 1:
        raise TensorError(
            "huggingface.scale_shape",
            f"{where}: the scale of `{item.name}` has shape {list(raw.shape)}, not [1]",
            "only one scale for each tensor is known in this format",
            tensor=item.name,
        )
    value = raw.reshape(1).astype(np.float32)
    check_scales(item.name, value, where)
    if divides:
        with np.errstate(over="ignore"):
            inverse = np.float32(1) / value
        check_scales(item.name, inverse, where)
        return inverse[0], "float32"
    return value[0], str(raw.dtype) if raw.dtype != np.float64 else "float32"


def read_packed(
    item: Expected,
    stored: Stored,
    divides: bool,
    exact: ExactScale | None,
    dtype: str,
    where: str,
) -> QuantTensor:
    """Codes in U8 with a `weight_scale`."""
    scale, scale_dtype = _weight_scale(item, stored, divides, where)
    if exact is not None:
        _check_exact_packed(item, stored, divides, exact, where)
        scale, scale_dtype = exact.value, exact.scale_dtype
    outputs, inputs = item.file_shape
    if item.rows is not None:  # of several that are one matrix there
        trits = unpack(stored.read(item.huggingface), outputs, item.name, where)
        return _tensor(item, trits, scale, scale_dtype, dtype)
    codes = to_lines(stored.read(item.huggingface), outputs, item.name, where)
    tensor = QuantTensor(
        codes=codes,
        scale=np.array(scale, np.float32),
        shape=(outputs, inputs),
        dtype=dtype,
        stack_axes=(),
        out_axes=(0,),
        in_axes=(1,),
        scale_dtype=scale_dtype,
    )
    return _placed(item, tensor)


def _tensor(
    item: Expected,
    trits: np.ndarray,
    scale: Any,
    scale_dtype: str,
    dtype: str,
    *,
    scale_kind: str = "tensor",
    group_size: int = 0,
    taken: bool = False,
) -> QuantTensor:
    """The parameter whose trits a checkpoint holds as [out, in], with others' unless `taken`."""
    tensor = from_trits(
        np.ascontiguousarray(trits if taken else item.taken(trits)),
        np.array(scale, np.float32),
        scale_kind=scale_kind,
        group_size=group_size,
        scale_dtype=scale_dtype,
        dtype=dtype,
    )
    return _placed(item, tensor)


def _placed(item: Expected, tensor: QuantTensor) -> QuantTensor:
    """A tensor of the checkpoint's [out, in] as the parameter that it is."""
    if not item.transposed:
        return tensor
    return replace(tensor, shape=item.shape, out_axes=(1,), in_axes=(0,))


def turned(item: Expected, value: np.ndarray) -> np.ndarray:
    """A float parameter as a checkpoint holds it, from ours, or the other way round."""
    return np.ascontiguousarray(value.T) if item.transposed else value


def read_float(item: Expected, stored: Stored) -> np.ndarray:
    """A parameter that is not ternary."""
    return turned(item, item.taken(stored.read(item.huggingface)))


def scale_of_bias(item: Expected) -> str:
    """Where the scale of the linear lies whose bias `item` is."""
    return item.huggingface.removesuffix(BIAS_SUFFIX) + ".weight" + SCALE_SUFFIX


def read_scaled(item: Expected, stored: Stored, where: str) -> np.ndarray:
    """A bias that is added before `weight_scale` multiplies the sum: here, their product."""
    scale = stored.read(scale_of_bias(item)).reshape(-1).astype(np.float32)
    check_scales(item.name, scale, where)
    return stored.read(item.huggingface).astype(np.float32) * scale


def _check_exact_packed(
    item: Expected, stored: Stored, divides: bool, exact: ExactScale, where: str
) -> None:
    """The stored scale must be what the exact one becomes in its dtype, to 1 ULP."""
    raw = stored.read(item.huggingface + SCALE_SUFFIX).reshape(1)
    wanted = float(np.float32(1) / exact.value if divides else exact.value)
    if abs(float(raw[0]) - wanted) > _ulp(wanted, str(raw.dtype)):
        raise _mismatch(item, float(exact.value), float(raw[0]), where)


# Bits of the mantissa; a float64 holds a float32 that somebody widened.
_MANTISSA = {"float32": 23, "bfloat16": 7, "float16": 10, "float64": 23}


def _ulp(value: float, dtype: str) -> float:
    """Distance between neighbours of `value` in `dtype`."""
    return 2.0 ** (math.floor(math.log2(value)) - _MANTISSA[dtype])


def _mismatch(item: Expected, stated: float, found: float, where: str) -> TensorError:
    return TensorError(
        "huggingface.scale_mismatch",
        f"{where}, tensor `{item.name}`: the metadata says its scale is {stated!r}, which the "
        f"weights do not bear out ({found!r})",
        f"the weights were edited after the file was written: remove `{EXACT_KEY}` from its "
        "metadata, or convert again from the source",
        tensor=item.name,
    )


def read_master(
    item: Expected, stored: Stored, divides: bool, exact: ExactScale | None, where: str
) -> QuantTensor:
    """Float weights that the reference quantizes at load: its float32 mean is the scale."""
    del divides  # an online master has no stored scale
    weights = stored.read(item.huggingface)
    _check_finite(item, weights, where)
    scale = absmean_scale(weights, scale_dtype="float32")
    scale_dtype, dtype = "float32", str(weights.dtype)
    if exact is not None:
        limit = MASTER_TOLERANCE * float(exact.value)
        if stored.latent:  # here it is the mean rounded to its dtype, not s/p times p
            limit = max(limit, _ulp(float(exact.value), exact.scale_dtype))
        if weights.any() and abs(float(scale) - float(exact.value)) > limit:
            raise _mismatch(item, float(exact.value), float(scale), where)
        scale, scale_dtype, dtype = exact.value, exact.scale_dtype, exact.dtype
    return _tensor(item, trits_of(weights, np.asarray(scale)), scale, scale_dtype, dtype)


def read_latent(item: Expected, stored: Stored, where: str) -> np.ndarray:
    """The float weights of a master as they are: what training goes on from."""
    weights = stored.read(item.huggingface)
    _check_finite(item, weights, where)
    return turned(item, item.taken(weights))


def read_dequantized(
    item: Expected, stored: Stored, divides: bool, exact: ExactScale | None, where: str
) -> QuantTensor:
    """Floats that are only {-c, 0, c}, as a whole or by row or group: c is the scale.

    Times `weight_scale` where there is one.
    """
    del exact  # what is stored is exact here
    weights = item.taken(stored.read(item.huggingface))
    _check_finite(item, weights, where)
    found = recover(weights)
    if found is None:
        raise _not_ternary(item, weights, where)
    scale, scale_dtype = found.scale, str(weights.dtype)
    if item.huggingface + SCALE_SUFFIX in stored.tensors:
        outer, outer_dtype = _weight_scale(item, stored, divides, where)
        codes = found.scale_kind == "tensor" and (not found.trits.any() or float(scale) == 1)
        scale = np.asarray(outer if codes else scale * outer, np.float32)
        scale_dtype = outer_dtype if codes else "float32"
    check_scales(item.name, scale, where)
    return _tensor(
        item,
        found.trits,
        scale,
        "float32" if scale_dtype == "float64" else scale_dtype,
        str(weights.dtype),
        scale_kind=found.scale_kind,
        group_size=found.group_size,
        taken=True,
    )


def _not_ternary(item: Expected, weights: np.ndarray, where: str) -> TensorError:
    size = np.abs(weights.astype(np.float32))
    c = size.max(initial=0)
    bad = np.flatnonzero((size != 0) & (size != c))
    row, column = divmod(int(bad[0]), weights.shape[1])
    return TensorError(
        "tensor.not_ternary",
        f"{where}, tensor `{item.name}`: {bad.size} values are none of -{c}, 0 and {c}; the "
        f"first at [{row}, {column}]; nor has each row, or each group of its inputs, one value",
        "if these are the training weights, config.json must say quantization_mode: online; "
        "to make a float model ternary: `bitnet train qat`",
        tensor=item.name,
    )


def _check_finite(item: Expected, weights: np.ndarray, where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(weights.astype(np.float32)))
    if bad.size:
        row, column = divmod(int(bad[0]), weights.shape[1])
        raise TensorError(
            "tensor.not_finite",
            f"{where}, tensor `{item.name}`: {bad.size} weights are NaN or infinite; the first at "
            f"[{row}, {column}]",
            "the training diverged, or the file is damaged: take an earlier checkpoint",
            tensor=item.name,
        )
