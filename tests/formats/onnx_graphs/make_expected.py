"""Writes `expected.npz`: inputs for each graph of this folder, and what ONNX Runtime makes of them.

python -m tests.formats.onnx_graphs.make_expected
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.formats.onnx_exported import run_onnxruntime

FOLDER = Path(__file__).parent
SIZES = {"batch": 2, "past": 3, "sequence": 4, "num_channels": 3, "height": 16, "width": 16}


def inputs_of(path: Path) -> dict[str, np.ndarray]:
    """Inputs that a graph takes: its free axes sized by `SIZES`."""
    import onnx

    rng = np.random.default_rng(0)
    given = onnx.load(path).graph.input
    cached = any("past" in item.name for item in given)
    found: dict[str, np.ndarray] = {}
    for item in given:
        kind = item.type.tensor_type
        shape = [
            dim.dim_value
            or sum(
                next(SIZES[key] for key in SIZES if key in term)
                for term in dim.dim_param.split("+")
            )
            for dim in kind.shape.dim
        ]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if item.name == "attention_mask":
            value = np.ones(shape, dtype)
        elif item.name == "position_ids":
            value = np.tile(np.arange(shape[1]) + (3 if cached else 0), (shape[0], 1))
        elif item.name == "token_type_ids":
            value = np.zeros(shape)
        elif dtype.kind == "i":
            value = rng.integers(3, 48, shape)
        else:
            value = rng.standard_normal(shape)
        found[item.name] = value.astype(dtype)
    return found


def main() -> None:
    kept: dict[str, np.ndarray] = {}
    for path in sorted(FOLDER.glob("*.onnx")):
        given = inputs_of(path)
        kept |= {f"{path.stem}/in/{name}": value for name, value in given.items()}
        made = run_onnxruntime(path, given)
        kept |= {f"{path.stem}/out/{name}": value for name, value in made.items()}
    np.savez_compressed(FOLDER / "expected.npz", **kept)


if __name__ == "__main__":
    main()
