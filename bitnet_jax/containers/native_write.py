"""Writing `.bitnet` files, version 1, one tensor at a time.

The scales come last, since their number is known only once every tensor has
passed by; the header goes in after them. The same input gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from bitnet_jax.containers.dtypes import NAMES
from bitnet_jax.containers.native import (
    FILE_PREFIX,
    FORMAT,
    RESERVED,
    SCALES,
    VERSION,
    ZERO_CHECKSUM,
    checksum,
    header_checksum,
)
from bitnet_jax.containers.native_table import KINDS, LAYOUTS, Row
from bitnet_jax.containers.safetensors_write import (
    Planned,
    SafetensorsWriter,
    encode_header,
)
from bitnet_jax.core.errors import CannotCreate, InternalError
from bitnet_jax.core.pages import ALIGNMENT

_DIGEST = "0" * 64


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class NativeWriter:
    """Writes one file: `add_ternary` and `add_float` in any order, then `finish`.

    Args:
      stream: a seekable binary file, empty.
      spec: the model's spec, JSON.
      ternary: name -> (shape, dtype, codes shape) of the ternary tensors to come.
      floats: name -> (shape, dtype) of the others.
      files: what is carried along, whole.
      origin: what the source was; no paths, no times: they would change the bytes.
      metadata: what the model says of itself; without any the file has no such key.
    """

    def __init__(
        self,
        stream: BinaryIO,
        spec: Mapping[str, Any],
        ternary: Mapping[str, tuple[tuple[int, ...], str]],
        floats: Mapping[str, tuple[tuple[int, ...], np.dtype]],
        files: Mapping[str, bytes],
        origin: Mapping[str, Any],
        producer: str,
        metadata: Mapping[str, Any] | None = None,
    ):
        self._fixed = {
            "format": FORMAT,
            "version": str(VERSION),
            "producer": producer,
            "spec": _json(spec),
            "origin": _json(origin),
            **({"metadata": _json(dict(sorted(metadata.items())))} if metadata else {}),
        }
        self._files = dict(files)
        self._rows: dict[str, Row] = {}
        self._checksums: dict[str, str] = {}
        self._scales: list[np.ndarray] = []
        self._count = 0
        reserve = self._upper_bound(ternary, floats)
        self._writer = SafetensorsWriter(stream, reserve, ALIGNMENT)

    def _upper_bound(
        self,
        ternary: Mapping[str, tuple[tuple[int, ...], str]],
        floats: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    ) -> int:
        """Length no header of these tensors can exceed, from names and shapes alone."""
        most = sum(int(np.prod(shape, dtype=object)) for shape, _ in ternary.values())
        plan, rows = [], {}
        for name, (shape, _) in ternary.items():
            axes = tuple(range(len(shape)))
            rows[name] = Row(
                shape, "bfloat16", axes, (), (), "tensor", most, "bfloat16", (most, most)
            ).to_json()
            # Its codes have at most two axes more than it, none longer than it is.
            plan.append(Planned(name, "U8", (*shape, 64, 64)))
        plan += [Planned(name, NAMES[dtype], shape) for name, (shape, dtype) in floats.items()]
        plan += [Planned(FILE_PREFIX + name, "U8", (len(d),)) for name, d in self._files.items()]
        plan.append(Planned(SCALES, "F32", (most,)))
        checksums = {tensor.name: ZERO_CHECKSUM for tensor in plan}
        metadata = self._metadata(rows, checksums, {"trits": _DIGEST, "trits_scales": _DIGEST})
        rows_at = [(tensor, 10 * most) for tensor in _padded_everywhere(plan)]
        return len(encode_header(rows_at, metadata))

    def _metadata(
        self, rows: Mapping[str, Any], checksums: Mapping[str, str], digests: Mapping[str, str]
    ) -> dict[str, str]:
        return {
            **self._fixed,
            "tensors": _json(rows),
            "checksums": _json(dict(sorted(checksums.items()))),
            "digests": _json(digests),
            "header_checksum": ZERO_CHECKSUM,
        }

    def add_ternary(self, name: str, row: Row, codes: np.ndarray, scale: np.ndarray) -> None:
        """Appends one ternary tensor; `row.scales` is filled in here.

        Raises:
          CannotCreate: version 1 of the format holds no such kind (``bitnet.kind``).
        """
        if row.kind not in KINDS or row.layout not in LAYOUTS:
            raise CannotCreate(
                "bitnet.kind",
                f"tensor `{name}` is {row.kind} in layout {row.layout}; a .bitnet file of version "
                f"{VERSION} holds {', '.join(KINDS)} in {', '.join(LAYOUTS)}",
                "keep it float, or make it ternary, by a rule",
            )
        fields = {**vars(row), "scales": (self._count, scale.size)}
        self._rows[name] = Row(**fields)
        self._scales.append(np.ascontiguousarray(scale, "<f4").reshape(-1))
        self._count += scale.size
        self._add(name, codes)

    def add_float(self, name: str, data: np.ndarray) -> None:
        """Appends one float tensor."""
        self._add(name, data)

    def _add(self, name: str, data: np.ndarray, reserved: bool = False) -> None:
        if name.startswith(RESERVED) and not reserved:
            raise InternalError("bitnet.reserved_name", f"tensor name `{name}` is reserved")
        data = np.ascontiguousarray(data)
        self._checksums[name] = checksum(data)
        self._writer.write(Planned(name, NAMES[data.dtype], data.shape), data)

    def finish(self, digests: Mapping[str, str]) -> None:
        """Appends files and scales, and writes the header."""
        for name in sorted(self._files):
            data = np.frombuffer(self._files[name], np.uint8)
            self._add(FILE_PREFIX + name, data, reserved=True)
        scales = np.concatenate(self._scales) if self._scales else np.zeros(0, "<f4")
        self._add(SCALES, scales, reserved=True)
        rows = {name: self._rows[name].to_json() for name in sorted(self._rows)}
        self._writer.finish(
            self._metadata(rows, self._checksums, digests),
            seal=lambda header: header.replace(
                f'"header_checksum":"{ZERO_CHECKSUM}"'.encode(),
                f'"header_checksum":"{header_checksum(header, ZERO_CHECKSUM)}"'.encode(),
            ),
        )


def _padded_everywhere(plan: Iterable[Planned]) -> list[Planned]:
    """`plan` with the longest padding tensor before each: more than there can be."""
    rows: list[Planned] = []
    plan = list(plan)
    for tensor in plan:
        rows += [Planned(f"__pad__.{len(plan)}{len(rows)}", "U8", (63,)), tensor]
    return rows
