"""Reading a compiled module: its instructions, its buffers, and what it makes of packed weights.

The proof that weights stay packed: no float value in the module that depends on packed weights
alone is as large as one of them. Reads XLA's text and its buffer assignment. Knows nothing of
models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

BYTES = {
    "pred": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4,
    "s64": 8, "u64": 8, "f8e4m3fn": 1, "f8e5m2": 1, "f16": 2, "bf16": 2, "f32": 4, "f64": 8,
}  # fmt: skip
FLOATS = ("f16", "bf16", "f32", "f64")
# Results that are another name of an operand, or nothing at all.
NO_VALUE = ("parameter", "constant", "bitcast", "get-tuple-element", "tuple", "after-all")

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_LINE = re.compile(r"^  (?:ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_CALLS = re.compile(r"(?:calls|to_apply|body|condition)=%([\w.\-]+)")


@dataclass(frozen=True)
class Instruction:
    """One line of a module: what it gives, of what.

    Attributes:
      shapes: (dtype, dimensions) of each part of its result.
      operands: names of instructions of the same computation.
      op_name: where in the traced function it came from; "" if unknown.
      target: what a custom call calls; "" of all else.
      calls: computations that it runs.
    """

    name: str
    opcode: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    operands: tuple[str, ...]
    op_name: str
    target: str
    calls: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its result."""
        return sum(count(dims) * BYTES.get(dtype, 4) for dtype, dims in self.shapes)


@dataclass(frozen=True)
class Module:
    """A module's computations: name to instructions in the order they run; `entry` is one's."""

    entry: str
    computations: Mapping[str, tuple[Instruction, ...]]

    def run(self) -> Iterator[Instruction]:
        """The instructions that have buffers: of the entry, and of loops and branches in it."""
        seen, todo = set(), [self.entry]
        while todo:
            name = todo.pop()
            if name in seen or name not in self.computations:
                continue
            seen.add(name)
            for instruction in self.computations[name]:
                yield instruction
                if instruction.opcode in ("while", "conditional", "call"):
                    todo.extend(instruction.calls)


def count(dims: tuple[int, ...]) -> int:
    """How many elements an array of these dimensions has."""
    total = 1
    for size in dims:
        total *= size
    return total


def parse(text: str) -> Module:
    """Reads the text of an optimized module."""
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, name = "", ""
    lines: list[Instruction] = []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            name, lines = head[2], []
            entry = name if head[1] else entry
        elif line == "}" and name:
            computations[name], name = tuple(lines), ""
        elif name and (found := _LINE.match(line)):
            lines.append(_instruction(*found.groups()))
    return Module(entry, computations)


def _instruction(name: str, result: str, opcode: str, rest: str) -> Instruction:
    operands, _, attributes = rest.partition(")")
    op_name, target = _OP_NAME.search(attributes), _TARGET.search(attributes)
    return Instruction(
        name=name,
        opcode=opcode,
        shapes=tuple(
            (dtype, tuple(int(size) for size in dims.split(",") if size))
            for dtype, dims in _SHAPE.findall(result)
        ),
        operands=tuple(_NAME.findall(operands)),
        op_name=op_name[1].replace("\\'", "'") if op_name else "",
        target=target[1] if target else "",
        calls=tuple(_CALLS.findall(attributes)),
    )


def unpacked(module: Module, smallest: int) -> list[dict[str, Any]] | None:
    """The float values that are weights again: made of parameters alone, packed codes among them.

    A dequantized weight depends on nothing else; what depends on tokens too is an activation,
    whatever its shape. Parameters are the leaves of the module's first argument, and of them
    those of whole numbers are packed.

    Args:
      smallest: elements of the smallest packed weight; what is smaller is no weight.

    Returns:
      What was found, or None: nothing packed goes in, so that there is nothing to look for.
    """
    lines = module.computations.get(module.entry, ())
    inputs = [line for line in lines if line.opcode == "parameter"]
    root = _root(inputs[0]) if inputs else ""
    # name -> whether packed codes are in it, for all that is made of parameters and constants.
    made = {line.name: _whole(line) for line in inputs if root and _root(line) == root}
    if not any(made.values()):
        return None
    found = []
    for line in lines:
        if line.opcode == "parameter" or not all(name in made for name in line.operands):
            continue
        made[line.name] = any(made[name] for name in line.operands)
        if made[line.name] and line.opcode not in NO_VALUE:
            found += _floats(line, smallest)
    return found


def _whole(line: Instruction) -> bool:
    return any(dtype[0] in "su" and dims for dtype, dims in line.shapes)


def _root(line: Instruction) -> str:
    """The argument that a parameter is a leaf of: `args[0]`, or a name."""
    found = re.match(r"\w+(\[\d+\])?", line.op_name)
    return found[0] if found else ""


def _floats(line: Instruction, smallest: int) -> list[dict[str, Any]]:
    return [
        {"instruction": line.name, "dtype": dtype, "shape": list(dims)}
        for dtype, dims in line.shapes
        if dtype in FLOATS and count(dims) >= smallest
    ]


# ------------------------------------------------------------------ the buffer assignment
# Fields of XLA's BufferAssignmentProto, BufferAllocationProto and BufferAllocationProto.Assigned.
_ALLOCATIONS = 3
_THREAD_LOCAL, _PARAMETER, _CONSTANT, _ASSIGNED = 3, 5, 12, 9
_SIZE = 3


def largest_buffer(proto: bytes) -> int | None:
    """Bytes of the largest value that the module itself allots; None without an assignment.

    Arguments (weights, the cache) and constants are not counted.
    """
    sizes = []
    for number, allocation in _fields(proto):
        if number != _ALLOCATIONS or not isinstance(allocation, bytes):
            continue
        parts = list(_fields(allocation))
        if any(part in (_THREAD_LOCAL, _PARAMETER, _CONSTANT) for part, _ in parts):
            continue
        for part, assigned in parts:
            if part == _ASSIGNED and isinstance(assigned, bytes):
                sizes += [size for n, size in _fields(assigned) if n == _SIZE]
    return max((int(size) for size in sizes if isinstance(size, int)), default=None)


def _fields(proto: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of one protocol buffer message: number, and value."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = proto[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(proto):
        key = number()
        kind = key & 7
        if kind == 0:
            yield key >> 3, number()
            continue
        size = number() if kind == 2 else {1: 8, 5: 4}[kind]
        yield key >> 3, proto[at : at + size]
        at += size
