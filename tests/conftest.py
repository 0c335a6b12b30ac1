"""What every test runs under: CPU, no network, a private environment, strict JAX.

The environment is set before anything imports jax, which reads it once.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# The same cases on every run, and no clock: a busy machine is not a failing test.
hypothesis.settings.register_profile("bitnet", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("bitnet")

ROOT = Path(__file__).parent.parent

# A developer's own settings must not change a result.
for _name in [name for name in os.environ if name.startswith("BITNET_")]:
    if _name not in ("BITNET_ISA", "BITNET_TEST_CACHE"):  # chosen for this run, on purpose
        del os.environ[_name]
os.environ["XDG_CONFIG_HOME"] = str(ROOT / ".cache/tests/config")  # nor a profile of theirs

# Kernels are built once, not once a test or once a worker. What is in the folder is keyed by
# source, flags, compiler and jaxlib, so keeping it between runs is safe; `make clean` empties it.
os.environ["BITNET_CACHE_DIR"] = os.environ.get("BITNET_TEST_CACHE") or str(ROOT / ".cache/tests")

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TORCHDYNAMO_DISABLE="1",  # parity is stated for eager float32
    TOKENIZERS_PARALLELISM="false",
    NO_COLOR="1",
    COLUMNS="100",
    LC_ALL="C.UTF-8",
    BITNET_VERIFY_PASSES="1",  # every program that any test makes must hold
)
# Nor may the place they run at: under CI a command asks nobody, on GitHub it makes annotations.
for _name in ("FORCE_COLOR", "CLICOLOR_FORCE", "COLORTERM", "CI", "GITHUB_ACTIONS"):
    os.environ.pop(_name, None)

# What takes long to compile is compiled once a run, in whichever process: an entry is found by the
# whole program, so nothing stale can be. `make clean` empties it.
os.environ.update(
    JAX_COMPILATION_CACHE_DIR=str(ROOT / ".cache/tests/xla"),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0.3",
    JAX_COMPILATION_CACHE_MAX_SIZE=str(4 << 30),
)

import jax  # noqa: E402

# Meshes of up to four devices, before any test starts the backend; not by the environment:
# the processes that tests start see the machine as it is.
jax.config.update("jax_num_cpu_devices", 4)

from tests.skip_ledger import pytest_sessionfinish, pytest_terminal_summary  # noqa: E402, F401
from tests.thin import pytest_collection_modifyitems  # noqa: E402, F401

# Here an implicit float32 x bfloat16 or int x float would change bits without a word. Not
# everywhere: optax's own schedules multiply an int32 step by a float.
STRICT_PROMOTION = ("quant", "ops", "models")


@pytest.fixture(autouse=True)
def _strict_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    folder = request.path.relative_to(ROOT / "tests").parts[0]
    if folder not in STRICT_PROMOTION:
        yield
        return
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Code under test takes its seeds as values; this is for what libraries do behind it."""
    import numpy

    random.seed(0)
    numpy.random.seed(0)


@pytest.fixture
def rng():
    """A numpy generator that gives the same numbers on every run."""
    import numpy

    return numpy.random.default_rng(0)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the working tree."""
    return ROOT
