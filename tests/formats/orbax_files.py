"""Orbax checkpoints written by Orbax itself, from the tensors of `checkpoints.py`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from tests.formats import checkpoints

# How Orbax lays a tree out: its own default, a folder an array, Zarr 3.
LAYOUTS = {"ocdbt": {}, "plain": {"use_ocdbt": False}, "zarr3": {"use_zarr3": True}}


def nested(flat: dict) -> dict:
    """{"a.b": x} as {"a": {"b": x}}."""
    out: dict = {}
    for name, value in flat.items():
        *above, last = name.split(".")
        place = out
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return out


def save(path: Path, tree: dict, layout: str = "ocdbt") -> Path:
    """Writes a tree as one checkpoint."""
    import orbax.checkpoint as ocp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handler = ocp.PyTreeCheckpointHandler(**LAYOUTS[layout])
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(path.absolute(), tree)
    return path


def write(
    folder: Path, layout: str = "ocdbt", form: str = "auto", spec=checkpoints.TINY, wrap=nested
) -> Path:
    """A model's checkpoint ``ck`` in `folder`, with its config.json beside it."""
    rows = {"auto": checkpoints.AUTO, "bit": checkpoints.BIT, "master": checkpoints.ONLINE}
    data, _, _ = checkpoints.tensors(spec, form)
    config = checkpoints.config(spec, rows[form])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return save(folder / "ck", wrap(data), layout)
