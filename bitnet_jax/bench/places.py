"""Which layer and which op of the model an instruction of a compiled program belongs to.

The layer is told by the weights that it reads, or by what it is made of; the op by the source
that it came from. Knows no family: layers are the numbers in parameters' names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bitnet_jax.bench.hlo import Instruction, Module

BEFORE, AFTER = "embedding", "head"
_LEAF = re.compile(r"\['([^']+)'\]")
_NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
_TABLE = re.compile(r"^(FileNames|FileLocations|StackFrames)\n((?:\d+ .*\n)*)", re.MULTILINE)
_FIELD = re.compile(r"(\w+)=(\d+)")
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_OP = re.compile(r"[/\\]ops[/\\](\w+)[/\\]")
_FILE = re.compile(r"[/\\]bitnet_jax[/\\](?:models|runtime)[/\\](\w+)\.py$")


@dataclass(frozen=True)
class Place:
    """Where an instruction belongs.

    Attributes:
      layer: ``layer 3``, ``embedding`` before the first, ``head`` behind the last.
      op: an op of this package, a file of the model, or what XLA calls the instruction.
      weights: the parameters that it reads.
    """

    layer: str
    op: str
    weights: tuple[str, ...]


def places(module: Module, text: str) -> dict[str, Place]:
    """The place of each instruction of the entry; `text` is the module's, with its tables."""
    lines = module.computations.get(module.entry, ())
    names = {line.name: _parameter(line) for line in lines if line.opcode == "parameter"}
    numbers = [n for name in names.values() if (n := _layer(name)) is not None]
    last = max(numbers, default=-1) + 1
    operations = Sources(module, text)
    at: dict[str, int] = {}
    seen: dict[str, tuple[str, ...]] = {}
    found = {}
    for line in lines:
        weights = _weights(line, names, seen)
        seen[line.name] = weights if line.opcode in ("bitcast", "copy") else ()
        at[line.name] = _number(line, weights, at, last)
        words = {-1: BEFORE, last: AFTER}.get(at[line.name], f"layer {at[line.name]}")
        found[line.name] = Place(words, operations.op(line), weights)
    return found


def _number(line: Instruction, weights: tuple[str, ...], at: Mapping[str, int], last: int) -> int:
    """-1 before the layers, `last` behind them: a layer's own weights say it, else the latest."""
    own = [n for name in weights if (n := _layer(name)) is not None]
    if own:
        return max(own)
    before = max((at.get(name, -1) for name in line.operands), default=-1)
    # A parameter of no layer that is no embedding is behind all: the last norm, the head.
    behind = any(not name.split(".")[0].startswith("embed_") for name in weights)
    return last if behind and line.opcode != "parameter" else before


def _parameter(line: Instruction) -> str:
    """The dotted name of the model's parameter that an input is; "" for tokens and cache."""
    found = _LEAF.search(line.op_name)
    return found[1].partition("@")[0] if found and "leaves" in line.op_name else ""


def _layer(name: str) -> int | None:
    found = _NUMBER.search(name)
    return int(found[1]) if found else None


def _weights(
    line: Instruction, names: Mapping[str, str], seen: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    read: list[str] = []
    for operand in line.operands:
        read += [names[operand]] if names.get(operand) else seen.get(operand, ())
    return tuple(dict.fromkeys(read))


class Sources:
    """The tables of source places at the head of a module's text."""

    def __init__(self, module: Module, text: str):
        self._module = module
        tables = {name: rows.splitlines() for name, rows in _TABLE.findall(text)}
        self._files = {
            int(row.split(" ", 1)[0]): row.split('"')[1] for row in tables.get("FileNames", ())
        }
        self._locations = _rows(tables.get("FileLocations", ()))
        self._frames = _rows(tables.get("StackFrames", ()))
        self._lines = {
            name: int(frame[1])
            for row in text.splitlines()
            if (frame := _FRAME.search(row)) and (name := _defined(row))
        }

    def op(self, line: Instruction) -> str:
        """The op that an instruction came from."""
        if line.target:
            return line.target
        # XLA leaves some fusions without a source: then what is fused says it, last first.
        fused = (self._module.computations.get(name, ()) for name in line.calls)
        names = [line.name, *(inner.name for lines in fused for inner in reversed(lines))]
        for path in (path for name in names for path in self._path(name)):
            found = _OP.search(path) or _FILE.search(path)
            if found:
                return found[1]
        return line.op_name.rpartition("/")[2] or line.opcode

    def _path(self, name: str) -> list[str]:
        """The files that the instruction was traced through, innermost first."""
        frame, found = self._lines.get(name, 0), []
        for _ in range(len(self._frames)):
            row = self._frames.get(frame)
            if row is None:
                break
            place = self._locations.get(row.get("file_location_id", 0), {})
            found.append(self._files.get(place.get("file_name_id", 0), ""))
            frame = row.get("parent_frame_id", 0) - 1  # 1 says that there is none
        return found


def _rows(lines: object) -> dict[int, dict[str, int]]:
    assert isinstance(lines, list | tuple)
    return {
        int(row.split(" ", 1)[0]): {key: int(value) for key, value in _FIELD.findall(row)}
        for row in lines
    }


def _defined(row: str) -> str:
    found = re.match(r"\s+(?:ROOT )?%([\w.\-]+) = ", row)
    return found[1] if found else ""
