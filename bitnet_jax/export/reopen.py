"""Opening an ONNX file of ours again, to tell what is in it: codes, scales, digests.

By the reader of files, and the file's own table; not by what was meant to be written. Knows no
graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_jax.containers.onnx_file import OnnxFile, open_onnx
from bitnet_jax.formats.onnx_codes import quantized
from bitnet_jax.quant.digest import Digest, DigestBuilder
from bitnet_jax.quant.tensor import QuantTensor


@dataclass(frozen=True)
class Written:
    """A file that was just written, and its table."""

    file: OnnxFile
    rows: Mapping[str, Mapping[str, Any]]

    def tensors(self) -> Iterator[tuple[str, QuantTensor]]:
        """The quantized parameters, in the table's order."""
        for name, row in self.rows.items():
            if "kind" in row:
                held = quantized(self.file, name, row)
                yield name, held.tensor(held.read_codes(), self.file.read(held.scale))

    def digest(self) -> Digest:
        """Digests of the ternary parameters."""
        builder = DigestBuilder()
        for name, tensor in self.tensors():
            builder.add(name, tensor)
        return builder.result()


def reopen(path: Path) -> Written:
    """Opens a file that was just written.

    Raises:
      BadData: it is none that was written whole.
    """
    file = open_onnx(path)
    return Written(file, json.loads(file.metadata["bitnet.rows"]))
