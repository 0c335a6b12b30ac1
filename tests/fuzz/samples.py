"""Samples as one run of bytes, which is what a fuzzer changes; and the first ones to change."""

from __future__ import annotations

from pathlib import Path

from tests.hostile.containers import CONTAINERS
from tests.hostile.fixtures import FOLDER
from tests.hostile.mutate import Sample

# Between the files of a sample; no container has such a line.
BORDER = b"\n--8<-- %s\n"

# Container -> the folder of hostile fixtures that are of its kind.
FIXTURES = {"safetensors": "file", "bitnet": "bitnet", "tokenizer": "tokenizer"}


def names_of(container: str) -> tuple[str, ...]:
    """Every file that a sample of the container may have, the first one first."""
    samples = CONTAINERS[container].seeds().values()
    return tuple(dict.fromkeys(name for sample in samples for name in sample))


def join(sample: Sample) -> bytes:
    """A sample as one input."""
    return b"".join(BORDER % name.encode() + data for name, data in sample.items())


def split(data: bytes, names: tuple[str, ...]) -> Sample:
    """The sample that an input stands for; one without borders is the first file alone."""
    borders = {name: BORDER % name.encode() for name in names}
    starts = sorted((data.find(border), name) for name, border in borders.items() if border in data)
    if not starts:
        return {names[0]: data}
    ends = [at for at, _ in starts[1:]] + [len(data)]
    return {
        name: data[at + len(borders[name]) : end]
        for (at, name), end in zip(starts, ends, strict=True)
    }


def write_seeds(container: str, folder: Path) -> None:
    """Writes the first inputs into `folder`: good samples, and what is known to be hostile."""
    for number, sample in enumerate(CONTAINERS[container].seeds().values()):
        (folder / f"good-{number}").write_bytes(join(sample))
    for file in (FOLDER / FIXTURES[container]).iterdir() if container in FIXTURES else ():
        (folder / file.name).write_bytes(file.read_bytes())
