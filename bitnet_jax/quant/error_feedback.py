"""GPTQ for codes of any kind: each column's rounding error is fed into the columns after it.

Minimizes tr(E H Eᵀ) of E = W - s·codes, the squared error of a linear's output over the inputs
that H = Σ x xᵀ was summed over, greedily, one input after another:

    for column j:   q = clamp(rint(W[:, j] / s)); e = (W[:, j] - s·q) / C[j, j]
                    W[:, j+1:] -= e · C[j, j+1:]

with C the upper Cholesky factor of (H + λI)⁻¹ (Frantar et al., "GPTQ", ICLR 2023, Algorithm 1;
here without its blocks' order of memory, which changes no value). The scale is fixed
before: fed errors cannot move it. Since the best scale for fed errors is not absmean's, a few
multiples of it are tried, plain rounding among them, and the one with the least error is kept:
the result is never worse on H than plain rounding. A baseline: it trains nothing.

Numpy, float64. Knows nothing of activations' codes, files or models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.quant.guards import round_scale
from bitnet_jax.quant.kinds import SMALLEST_SCALE, kind_codes, kind_of, kind_scale
from bitnet_jax.quant.tensor import broadcast_scale

# λ, as a share of the mean of H's diagonal; raised tenfold until the factor exists.
DAMPING = 0.01
_MOST_DAMPING = 1.0
# Of the plain scale; ternary weights like smaller ones than absmean once errors are fed on.
MULTIPLES = (0.8, 0.9, 1.0, 1.1, 1.25)
_BLOCK = 128


@dataclass(frozen=True)
class Fed:
    """What came of one matrix.

    Attributes:
      codes: int8 [out, in].
      scale: float32, as `kind_scale` shapes it.
      error, plain_error: tr(E H Eᵀ), of the result and of plain rounding.
      multiple: of the plain scale; None where plain rounding was best.
      damping: λ over the mean of H's diagonal.
      dead: inputs that were 0 in every sample.
    """

    codes: np.ndarray
    scale: np.ndarray
    error: float
    plain_error: float
    multiple: float | None
    damping: float
    dead: int


def feed_errors(
    weight: np.ndarray,
    hessian: np.ndarray,
    kind: str = "ternary",
    scale_kind: str = "tensor",
    group_size: int = 0,
    scale_dtype: str = "bfloat16",
    *,
    damping: float = DAMPING,
) -> Fed:
    """Quantizes one matrix.

    Args:
      weight: [out, in], any float dtype.
      hessian: [in, in], Σ x xᵀ over samples.

    Raises:
      UsageError: shapes do not fit (``quant.hessian_shape``), or `damping` is not positive
        (``quant.damping``).
      BadData: `hessian` holds NaN or infinity, or is not that of any inputs
        (``quant.hessian``).
    """
    weight = np.asarray(weight, np.float32)
    hessian = np.asarray(hessian, np.float64)
    inputs = weight.shape[-1]
    if weight.ndim != 2 or hessian.shape != (inputs, inputs):
        raise UsageError(
            "quant.hessian_shape",
            f"a weight {list(weight.shape)} with the Hessian {list(hessian.shape)}",
            "[out, in] and [in, in]",
        )
    if not 0 < damping <= _MOST_DAMPING:
        raise UsageError("quant.damping", f"damping is {damping}", "above 0, at most 1")
    diagonal = np.diag(hessian)
    if not np.isfinite(hessian).all() or (diagonal < 0).any():
        raise BadData(
            "quant.hessian",
            "the sums of the inputs' products are no finite numbers, or of no inputs",
            "look at the model: `bitnet model validate`",
        )
    plain_scale = kind_scale(weight, kind, scale_kind, group_size, scale_dtype)
    plain = kind_codes(weight, plain_scale, kind, scale_kind, group_size)

    def error_of(codes: np.ndarray, scale: np.ndarray) -> float:
        left = weight - codes * broadcast_scale(scale, scale_kind, group_size)
        return float(np.einsum("oi,ij,oj->", left, hessian, left, optimize=True))

    plain_error = error_of(plain, plain_scale)
    best = Fed(plain, plain_scale, plain_error, plain_error, None, damping, 0)
    dead = diagonal == 0
    if dead.all():
        return best  # nothing was multiplied: there is no error to feed on
    factor, damping = _factor(hessian, dead, damping)
    for multiple in MULTIPLES:
        scale = round_scale(
            np.maximum(plain_scale * np.float32(multiple), SMALLEST_SCALE), scale_dtype
        )
        wide = np.broadcast_to(broadcast_scale(scale, scale_kind, group_size), weight.shape)
        codes = _fed(weight, wide, factor, kind_of(kind).high)
        # An input that is never there decides nothing: its codes are those of plain rounding.
        codes[:, dead] = kind_codes(weight, scale, kind, scale_kind, group_size)[:, dead]
        error = error_of(codes, scale)
        if error < best.error:
            best = Fed(codes, scale, error, plain_error, multiple, damping, int(dead.sum()))
    return best


def _factor(hessian: np.ndarray, dead: np.ndarray, damping: float) -> tuple[np.ndarray, float]:
    """The upper Cholesky factor of the damped inverse, and the damping that it took."""
    mean = float(np.diag(hessian)[~dead].mean())
    damped = hessian.copy()
    damped[dead, dead] = mean
    while True:
        try:
            lower = np.linalg.cholesky(damped + np.eye(len(damped)) * (damping * mean))
            inverse = np.linalg.inv(lower)
            return np.linalg.cholesky(inverse.T @ inverse).T, damping
        except np.linalg.LinAlgError as error:
            damping *= 10
            if damping > _MOST_DAMPING:
                raise BadData(
                    "quant.hessian",
                    "the sums of the inputs' products have no inverse, however damped",
                    "calibrate on more text",
                ) from error


def _fed(weight: np.ndarray, scale: np.ndarray, factor: np.ndarray, high: int) -> np.ndarray:
    """The codes; errors reach the columns of a block at once, those beyond it at its end."""
    left = weight.astype(np.float64)
    codes = np.empty(weight.shape, np.int8)
    for start in range(0, left.shape[1], _BLOCK):
        end = min(start + _BLOCK, left.shape[1])
        errors = np.empty((len(left), end - start))
        for column in range(start, end):
            s = scale[:, column].astype(np.float64)
            code = np.clip(np.rint(left[:, column] / s), -high, high)
            codes[:, column] = code
            error = (left[:, column] - s * code) / factor[column, column]
            left[:, column + 1 : end] -= np.outer(error, factor[column, column + 1 : end])
            errors[:, column - start] = error
        left[:, end:] -= errors @ factor[start:end, end:]
    return codes
