"""The kernels on processors that this machine is not, under qemu's user emulation.

The library that is built here (and a wheel ships) runs whole, with a small program in place of
Python; its outputs are compared with numpy's, made here. What qemu cannot emulate is not shown:
AVX-512 and AVX-VNNI run on real processors only, and no emulation says anything of speed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.ops.native import build
from bitnet_jax.ops.native.selftest import (
    ACCUMULATE,
    LAYOUT_IDS,
    ROWS_LAYOUTS,
    SCALE_KINDS,
    dense_expected,
    expected,
    scales,
)
from bitnet_jax.quant.layouts import layout_of, pack_codes

pytestmark = pytest.mark.heavy


@dataclass(frozen=True)
class Machine:
    """An architecture as Debian's packages bring it: its compiler, qemu and libraries."""

    compiler: str
    emulator: str


NEEDS = "install what tests/debian-packages-heavy.txt lists"
# One of the compilers is this machine's own.
MACHINES = {
    "x86_64": Machine("x86_64-linux-gnu-g++", "qemu-x86_64-static"),
    "aarch64": Machine("aarch64-linux-gnu-g++", "qemu-aarch64-static"),
}
# (architecture, qemu's processor, what must be usable there and nothing else)
PROCESSORS = [
    ("x86_64", "qemu64", ()),  # the baseline: SSE2
    ("x86_64", "Nehalem", ()),
    ("x86_64", "SandyBridge", ()),  # AVX without AVX2
    ("x86_64", "Haswell", ("avx2",)),
    ("x86_64", "EPYC", ("avx2",)),
    ("aarch64", "cortex-a53", ()),
    ("aarch64", "cortex-a72", ()),
    ("aarch64", "cortex-a76", ("neon_dotprod",)),
    ("aarch64", "neoverse-n1", ("neon_dotprod",)),
    ("aarch64", "max", ("neon_i8mm", "neon_dotprod")),
]

# (tokens, out, in, scale kind, group, threads, dtype): edges of blocks, lines, tiles, segments.
CASES = [
    (1, 70, 250, "tensor", 0, 1, "float32"),
    (1, 33, 96, "group", 32, 2, "bfloat16"),
    (2, 17, 33, "row", 0, 1, "bfloat16"),
    (3, 17, 50, "row", 0, 2, "float32"),
    (4, 100, 2560, "tensor", 0, 3, "float32"),
    (5, 18, 64, "group", 32, 2, "float32"),
    (6, 35, 130, "row", 0, 1, "bfloat16"),
    (9, 37, 160, "group", 16, 1, "float32"),
    (17, 50, 1600, "group", 16, 2, "float32"),
    (7, 20, 320, "group", 80, 2, "float32"),
    (8, 33, 96, "tensor", 0, 1, "float32"),
    (19, 16, 304, "tensor", 0, 2, "bfloat16"),
    (70, 19, 48, "row", 0, 2, "float32"),
]
# Of weights in rows (each in every layout) and of float weights (held as the dtype).
ROWS_CASES = [
    (1, 70, 250, "row", 0, 1, "float32"),
    (1, 33, 160, "group", 80, 2, "bfloat16"),
    (2, 5, 64, "group", 32, 1, "float32"),
    (3, 9, 2561, "tensor", 0, 2, "float32"),
    (4, 3, 330, "row", 0, 1, "float32"),
    (5, 8, 192, "group", 48, 2, "float32"),
    (7, 11, 66, "tensor", 0, 1, "bfloat16"),
    (9, 21, 96, "group", 16, 1, "float32"),
    (67, 5, 70, "row", 0, 1, "float32"),  # a unit of tokens, and one with few
    (70, 6, 130, "row", 0, 2, "bfloat16"),
]
DENSE_CASES = [
    (1, 70, 250, 1, "bfloat16"),
    (2, 9, 2570, 2, "float32"),
    (33, 21, 48, 2, "bfloat16"),
]
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def activations(rng, tokens: int, inputs: int, dtype: str) -> np.ndarray:
    """Ordinary tokens, and among them zeros, tiny and huge values, and halves."""
    x = rng.standard_normal((tokens, inputs), np.float32)
    special = [
        np.zeros(inputs),
        x[-1] * 1e-30,
        x[-1] * 1e30,
        np.concatenate([[127], (np.arange(inputs - 1) - inputs // 2) / 2]),
    ]
    for row, value in zip(range(1, tokens), special, strict=False):
        x[row] = value
    return x.astype(DTYPES[dtype])


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> tuple[Path, bytes]:
    """The cases as the driver reads them, and what each instruction set must write."""
    rng = np.random.default_rng(4)
    parts: list[bytes] = []
    wanted: list[np.ndarray] = []

    def add(entry, sizes, threads, x, codes, scale, y):
        sizes = (*sizes, *[0] * (9 - len(sizes)))
        arrays = (x, codes, scale)
        lengths = [array.nbytes for array in (*arrays, y)]
        parts.append(np.array([entry, *sizes, threads, *lengths], np.int64).tobytes())
        parts.extend(array.tobytes() for array in arrays)
        wanted.append(y)

    for tokens, out, inputs, kind, group, threads, dtype in CASES:
        x = activations(rng, tokens, inputs, dtype)
        trits = rng.integers(-1, 2, (out, inputs), np.int8)
        scale = scales(rng, out, inputs, kind, group)
        narrow = int(dtype == "bfloat16")
        want = expected(x.astype(np.float32), trits, scale, kind, group).astype(DTYPES[dtype])
        q = rng.integers(-128, 128, (tokens, inputs), np.int8)
        acc = (q.astype(np.int64) @ trits.astype(np.int64).T).astype(np.int32)
        for layout, at in LAYOUT_IDS.items():
            if group % layout_of(layout).group_step:
                continue
            codes = pack_codes(trits, layout)
            sizes = (1, tokens, out, inputs, SCALE_KINDS[kind], group, narrow, narrow, at)
            add(0, sizes, threads, x, codes, scale, want)
            add(0, (*sizes[:4], ACCUMULATE, 0, 0, 0, at), threads, q, codes, scale, acc)
    for layout, number in ROWS_LAYOUTS.items():
        half = 1 << (int(layout[1]) - 1)
        for tokens, out, inputs, kind, group, threads, dtype in ROWS_CASES:
            x = activations(rng, tokens, inputs, dtype)
            codes = rng.integers(-half, half, (out, inputs)).astype(np.int8)
            scale = scales(rng, out, inputs, kind, group)
            narrow = int(dtype == "bfloat16")
            want = expected(x.astype(np.float32), codes, scale, kind, group).astype(DTYPES[dtype])
            sizes = (1, tokens, out, inputs, SCALE_KINDS[kind], group, narrow, narrow, number)
            add(1, sizes, threads, x, pack_codes(codes, layout), scale, want)
    for tokens, out, inputs, threads, dtype in DENSE_CASES:
        x = rng.standard_normal((tokens, inputs), np.float32)
        x[-1] *= np.float32(1e-38)  # subnormal products
        w = rng.standard_normal((out, inputs), np.float32).astype(DTYPES[dtype])
        sizes = (tokens, out, inputs, int(dtype == "bfloat16"))
        add(2, sizes, threads, x, w, x[:0], dense_expected(x, w))
    path = tmp_path_factory.mktemp("golden") / "cases"
    path.write_bytes(np.int64(len(wanted)).tobytes() + b"".join(parts))
    return path, b"".join(array.tobytes() for array in wanted)


def compiler_of(architecture: str) -> build.Compiler:
    command = MACHINES[architecture].compiler
    found = build.find_compiler({"CXX": command, "PATH": os.environ["PATH"]})
    assert found is not None and Path(found.command[0]).name == command, NEEDS
    return found


def emulator_of(architecture: str, processor: str) -> list[str]:
    program = MACHINES[architecture].emulator
    assert shutil.which(program), NEEDS
    foreign = architecture != platform.machine()  # then its C library lies here:
    return [program, "-cpu", processor, *(["-L", f"/usr/{architecture}-linux-gnu"] * foreign)]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """For an architecture: the driver, and the library as `compile_library` makes it."""
    made: dict[str, tuple[Path, Path]] = {}

    def programs_for(architecture: str) -> tuple[Path, Path]:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            compiler = compiler_of(architecture)
            build.compile_library(compiler, folder / "library.so", build.SYSTEMS["Linux"])
            source = str(Path(__file__).with_name("driver.cc"))
            command = [*compiler.command, "-std=c++17", "-O1", source, "-ldl"]
            subprocess.run([*command, "-o", str(folder / "driver")], check=True)
            made[architecture] = (folder / "driver", folder / "library.so")
        return made[architecture]

    return programs_for


@pytest.mark.parametrize(("architecture", "processor", "sets"), PROCESSORS)
def test_equal_bits_and_no_illegal_instruction_on(
    golden, programs, tmp_path, architecture, processor, sets
):
    cases, wanted = golden
    driver, library = programs(architecture)
    emulator = emulator_of(architecture, processor)
    outputs = tmp_path / "outputs"
    done = subprocess.run(
        [*emulator, str(driver), str(library), str(cases), str(outputs)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-500:]}"
    lines = [line.split() for line in done.stdout.splitlines()]
    usable = [name for name, state, _ in lines if state == "usable"]
    assert usable == [*sets, "portable"]
    # What is missing is refused with 1 when it is asked for by number, and does not run.
    assert {(state, answer) for _, state, answer in lines} <= {("usable", "0"), ("missing", "1")}
    assert outputs.read_bytes() == wanted * len(usable)


@pytest.mark.parametrize(
    ("architecture", "processor"),
    [("x86_64", "SandyBridge"), ("aarch64", "cortex-a72"), ("aarch64", "neoverse-n1")],
)
def test_the_emulator_would_have_caught(
    golden, programs, tmp_path, monkeypatch, architecture, processor
):
    """A library that takes every instruction set for usable is killed: the test above can fail."""
    cases, _ = golden
    driver, _ = programs(architecture)
    sources = Path(shutil.copytree(build.SOURCE_DIR, tmp_path / "sources"))
    for path in sources.glob("kernel_*.h"):
        every = re.compile(r"^static bool Usable\(\) \{.*?\}$", re.M | re.S)
        text, count = every.subn("static bool Usable() { return true; }", path.read_text())
        assert count, path
        path.write_text(text)
    monkeypatch.setattr(build, "SOURCE_DIR", sources)
    library = tmp_path / "library.so"
    build.compile_library(compiler_of(architecture), library, build.SYSTEMS["Linux"])
    command = [*emulator_of(architecture, processor), str(driver), str(library), str(cases)]
    done = subprocess.run([*command, str(tmp_path / "outputs")], capture_output=True, timeout=600)
    assert done.returncode == -signal.SIGILL
