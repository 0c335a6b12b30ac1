"""How a `.bitnet` file's bytes hold codes: a row of `LAYOUTS` for each layout, with its checks.

Knows sizes and what is legal; what a code means is `quant`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bitnet_jax.containers.errors import TensorError

_DAMAGED = "the file is damaged: download or copy it again"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fault:
    """What is wrong with codes: an error's code and words, and where it is first."""

    code: str
    message: str


@dataclass(frozen=True)
class Layout:
    """One layout.

    Attributes:
      kind: of the codes that it holds.
      shape: (out, in) -> the U8 shape of one matrix.
      check: (codes U8 [*stack, *shape], out, in) -> the first fault, or None.
      group_step: inputs that share a scale of their own come in a multiple of it.
    """

    kind: str
    shape: Callable[[int, int], Shape]
    check: Callable[[np.ndarray, int, int], Fault | None]
    group_step: int = 1


PADDING = Fault("bitnet.padding", "its padding holds something else than zeros")


# ------------------------------------------------------------------ ternary, in blocks
@dataclass(frozen=True)
class _Blocks:
    """Blocks of rows by columns, 64 bytes each; code j of a byte is of column 4j + p.

    Attributes:
      zeros: the byte whose codes are all trit 0.
      words: what `illegal` finds, in an error's words.
      illegal: byte -> a bit for each thing in it that is no trit; bit 2j for code j.
      digits: byte -> its codes, one array each.
    """

    columns: int
    zeros: int
    words: str
    illegal: Callable[[np.ndarray], np.ndarray]
    digits: Callable[[np.ndarray], list[np.ndarray]]

    def shape(self, out: int, inputs: int) -> Shape:
        return (-(-out // _ROWS), -(-inputs // self.columns), 64)

    def check(self, codes: np.ndarray, out: int, inputs: int) -> Fault | None:
        bad = self.illegal(codes)
        if bad.any():
            at = np.unravel_index(int((bad != 0).argmax()), codes.shape)
            count = int(np.unpackbits(bad[bad != 0]).sum())
            where = self._element(at, int(bad[at]))
            return Fault("bitnet.illegal_code", f"{count} {self.words}; the first at {where}")
        lines = codes.reshape(-1, *codes.shape[-3:-1], _ROWS, 4)
        edge, inside = out % _ROWS, inputs % self.columns
        wrong = bool(edge) and bool((lines[:, -1, :, edge:] != self.zeros).any())
        if not wrong and inside:
            digits = self.digits(lines[:, :, -1])  # [j, ..., r, p]
            padding = np.arange(self.columns).reshape(-1, 4) >= inside  # [j, p]
            wrong = any(bool((digits[j][..., padding[j]] != 1).any()) for j in range(len(digits)))
        return PADDING if wrong else None

    def _element(self, at: tuple[np.intp, ...], bits: int) -> str:
        """Where the code of the lowest of `bits` in a byte lies, as [*stack, row, column]."""
        *stack, ob, ib, byte = map(int, at)
        column = ((bits & -bits).bit_length() - 1) // 2 * 4 + byte % 4
        return str([*stack, ob * _ROWS + byte // 4, ib * self.columns + column])


_ROWS = 16
_T2 = _Blocks(
    16,
    0x55,
    "codes are 0b11, which is no trit",
    lambda codes: codes & (codes >> np.uint8(1)) & np.uint8(0x55),
    lambda codes: [codes >> np.uint8(2 * j) & np.uint8(3) for j in range(4)],
)
_T1 = _Blocks(
    20,
    121,
    "bytes are above 242, which is no five trits",
    lambda codes: (codes > np.uint8(242)).view(np.uint8),
    lambda codes: [codes // np.uint8(3**j) % np.uint8(3) for j in range(5)],
)


# --------------------------------------------------------------- integers, row by row
@dataclass(frozen=True)
class _Rows:
    """Rows one after another, `step` codes of `bits` bits in `size` bytes, the first lowest."""

    bits: int
    step: int
    size: int

    def shape(self, out: int, inputs: int) -> Shape:
        return (out, -(-inputs // self.step) * self.size)

    def check(self, codes: np.ndarray, out: int, inputs: int) -> Fault | None:
        lowest = 1 << (self.bits - 1)  # symmetric: the most negative number is none
        fields = self._fields(codes)
        for place, field in enumerate(fields):
            bad = field == lowest
            if bad.any():
                *at, group = np.argwhere(bad)[0].tolist()
                where = [*at, group * self.step + place]
                return Fault(
                    "bitnet.illegal_code",
                    f"{sum(int((f == lowest).sum()) for f in fields)} codes are {-lowest}, which "
                    f"is none of kind int{self.bits}; the first at {where}",
                )
        inside = inputs % self.step
        if inside and any(field[..., -1].any() for field in fields[inside:]):
            return PADDING
        return None

    def _fields(self, codes: np.ndarray) -> list[np.ndarray]:
        """The codes as unsigned numbers: field i holds columns i, i + step, …"""
        if self.size == 1 and self.step == 1:
            return [codes]
        word = np.zeros((*codes.shape[:-1], codes.shape[-1] // self.size), np.uint32)
        for at in range(self.size):
            word |= codes[..., at :: self.size].astype(np.uint32) << np.uint32(8 * at)
        mask = np.uint32((1 << self.bits) - 1)
        return [word >> np.uint32(self.bits * at) & mask for at in range(self.step)]


_I8, _I6, _I4 = _Rows(8, 1, 1), _Rows(6, 4, 3), _Rows(4, 2, 1)

# Must-understand: a reader refuses a layout that it does not know.
LAYOUTS: dict[str, Layout] = {
    "t2.16x16": Layout("ternary", _T2.shape, _T2.check),
    "t1.16x20": Layout("ternary", _T1.shape, _T1.check, group_step=80),
    "i8.rows": Layout("int8", _I8.shape, _I8.check),
    "i6.rows": Layout("int6", _I6.shape, _I6.check),
    "i4.rows": Layout("int4", _I4.shape, _I4.check),
}
KINDS = tuple(dict.fromkeys(layout.kind for layout in LAYOUTS.values()))


def check_codes(
    name: str, codes: np.ndarray, layout: str, out: int, inputs: int, where: str
) -> None:
    """Raises on a code that its kind does not have, and on padding that is not 0.

    Args:
      codes: uint8 [*stack, *shape] of matrices [out, in].

    Raises:
      BadData: ``bitnet.illegal_code``, ``bitnet.padding``.
    """
    fault = LAYOUTS[layout].check(codes, out, inputs)
    if fault is not None:
        raise TensorError(
            fault.code, f"{where}, tensor `{name}`: {fault.message}", _DAMAGED, tensor=name
        )
