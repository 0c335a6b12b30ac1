"""The coverage-guided fuzzer of one container: atheris chooses bytes, `trial` judges.

    python -m tests.fuzz.run CONTAINER [libFuzzer's options and files]
    make fuzz CONTAINER=bitnet ARGS=-max_total_time=300

Half of the changes are libFuzzer's, half those of the container's row, which know JSON and
checksums. What is found is written as ``crash-…``; that file as argument shows it again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

# Only what is imported in here is watched: all that reads a stranger's bytes.
with atheris.instrument_imports(
    include=["bitnet_jax.containers", "bitnet_jax.formats", "bitnet_jax.runtime.tokenizer"]
):
    from tests.hostile import trial

from tests.fuzz.samples import join, names_of, split, write_seeds
from tests.hostile.containers import CONTAINERS
from tests.hostile.mutate import Seeded, damage


def main(container: str, options: list[str]) -> None:
    """Fuzzes until an option, a fault or a person ends it."""
    row, names = CONTAINERS[container], names_of(container)
    # A row with mutations that seal makes other good files: which one is right, nobody can say.
    judge = None if row.free else lambda sample: lambda ours: row.judge(ours, sample, {})

    def once(data: bytes) -> None:
        sample = split(data, names)
        trial.read(container, sample, ["fuzzing"], judge and judge(sample))

    def change(data: bytes, most: int, seed: int) -> bytes:
        if seed % 2:
            return atheris.Mutate(data, most)
        sample, _ = damage(Seeded(seed), split(data, names), row.mutations)
        return join(sample)[:most]

    with tempfile.TemporaryDirectory() as folder:
        write_seeds(container, Path(folder))
        files = [word for word in options if not word.startswith("-")]
        corpus = [] if files else [folder]
        atheris.Setup([sys.argv[0], *options, *corpus], once, custom_mutator=change)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], ["-max_len=65536", "-timeout=30", "-rss_limit_mb=4096", *sys.argv[2:]])
