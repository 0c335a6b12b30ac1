"""Every container under thousands of damages: a typed error or the right model, nothing else.

What is done to a file stands in `mutate.py`, what must come of it in `containers.py`.
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.containers import CONTAINERS
from tests.hostile.mutate import Drawn, Seeded
from tests.hostile.trial import good, trial

SEEDED = {
    "safetensors": 1500, "bitnet": 600, "huggingface": 600, "gguf": 60, "tokenizer": 400,
    "onnx": 400, "onnx, ours": 150, "orbax": 25,
}  # fmt: skip
# Twice so many; a trial of some takes a multiple of the others' time.
LONG, LONG_OF = 15_000, {"gguf": 3_000, "orbax": 2_500}


@pytest.fixture
def memory():
    """Measures what the test allocates."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def every_seed():
    return [(name, seed) for name, row in CONTAINERS.items() for seed in row.seeds()]


@pytest.mark.parametrize(("name", "seed"), every_seed())
def test_the_undamaged_file_is_read(name, seed):
    row = CONTAINERS[name]
    reading = good(name, seed)
    assert reading or seed == "none"
    assert row.judge(reading, row.seeds()[seed], reading) is None


@pytest.mark.parametrize("name", CONTAINERS)
def test_damage_gives_an_error_or_the_right_model(name, memory):
    ended = {trial(name, Seeded(number)) for number in range(SEEDED[name])}
    # Were all of them refused at the first look, nothing behind it would have been tried.
    assert "read" in ended and len(ended) > 3


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", CONTAINERS)
def test_damage_that_hypothesis_chooses(name, memory):
    @settings(
        max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
    )
    @given(data=st.data())
    def run(data):
        trial(name, Drawn(data))

    run()


# Address space that a process of ours may take: jax alone reserves some gigabytes of it.
LIMIT = 12 << 30
IN_A_CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from tests.hostile.mutate import Seeded
from tests.hostile.trial import trial
for number in range({first}, {last}):
    trial({name!r}, Seeded(number))
print("done")
"""


@pytest.mark.heavy
@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("name", CONTAINERS)
def test_damage_at_length(name, part, repo):
    """In a child whose memory is limited: a crash of a library shows, and kills only that."""
    runs = LONG_OF.get(name, LONG)
    first = 100_000 + part * runs
    code = IN_A_CHILD.format(limit=LIMIT, first=first, last=first + runs, name=name)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, timeout=1700
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("done\n")
