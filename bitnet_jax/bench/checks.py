"""The checks of `bench validate`: is this machine fit to run models, and to measure them.

Each row of the table is a check that says in words what it found, or raises what is wrong with
the line that mends it. Knows nothing of when they run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bitnet_jax.bench.machine import load_average
from bitnet_jax.bench.probes import BUFFER, bandwidth, int8_peak
from bitnet_jax.core.errors import CheckFailed, Unavailable
from bitnet_jax.core.pages import huge_pages, memory_available
from bitnet_jax.core.system import usable_cores
from bitnet_jax.formats.create import create
from bitnet_jax.ops.native import build
from bitnet_jax.ops.native.library import library
from bitnet_jax.ops.native.selftest import ACCUMULATE, LAYOUT_IDS, SCALE_KINDS, expected
from bitnet_jax.ops.ternary_matmul import ternary_matmul
from bitnet_jax.quant.layouts import layout_of, pack_codes
from bitnet_jax.quant.packing import pack_trits
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.runtime.model import Model
from bitnet_jax.stats.medians import median
from bitnet_jax.targets.choose import choose

_MIB, _GIB = 1 << 20, 1 << 30
# Below this a model of 2 billion parameters does not load; a smaller one may.
_MEMORY = 2 * _GIB
# A memory slower than this is no memory but a disk that is swapped to.
_SLOWEST = 1.0
# Values of one probe that lie further apart than this were not taken on a quiet machine.
_STEADY = 0.25

# (tokens, out, in, kind of scale, group): the edges of tiles, then the shapes of 2B4T.
SMALL = (
    (1, 96, 160, "tensor", 0),
    (2, 70, 256, "row", 0),
    (7, 33, 320, "group", 64),
    (8, 128, 128, "tensor", 0),
    (33, 80, 272, "row", 0),
)
REAL = tuple(
    (tokens, out, inputs, kind, group)
    for out, inputs in ((2560, 2560), (640, 2560), (6912, 2560), (2560, 6912))
    for tokens, kind, group in ((1, "tensor", 0), (8, "row", 0), (33, "group", 128))
)


@dataclass(frozen=True)
class Found:
    """What a check found: words, figures for the record, and warnings."""

    message: str
    data: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """One row.

    Attributes:
      seconds: what it takes on two cores, for the budget that is told ahead.
      quick: it belongs to the quick checks.
      run: device name to what was found; raises a `BitnetError` when it does not hold.
    """

    name: str
    seconds: float
    quick: bool
    run: Callable[[str], Found]


def _device(name: str) -> Found:
    target = choose(name)
    result = jax.numpy.arange(1000).sum().block_until_ready()
    if int(result) != 499500:
        raise CheckFailed("bench.device", f"{target.kind} sums 0 to 999 to {int(result)}")
    return Found(f"{target.platform}: {target.devices} x {target.kind}, and it computes")


def _compiler(_: str) -> Found:
    found = build.find_compiler()
    if found is None:
        try:
            library()
        except Unavailable:
            raise build.no_compiler() from None
        return Found("no C++ compiler, and none is needed: the kernels are here already")
    return Found(f"{found.command[0]}: {found.version}")


def _library(_: str) -> Found:
    found = library()
    said = () if found.passed_over is None else (found.passed_over,)
    return Found(
        f"{found.path} ({found.origin}), instruction sets: {', '.join(found.usable_isas)}",
        {"origin": found.origin, "instruction_sets": list(found.usable_isas)},
        said,
    )


def _kernels(shapes: tuple[tuple[int, int, int, str, int], ...]) -> Callable[[str], Found]:
    def run(_: str) -> Found:
        native = library()
        threads = usable_cores() or 1
        rng = np.random.default_rng(1)
        for tokens, out, inputs, kind, group in shapes:
            x = rng.standard_normal((tokens, inputs), np.float32)
            trits = rng.integers(-1, 2, (out, inputs), np.int8)
            shape = {"tensor": (1,), "row": (out,), "group": (out, inputs // (group or 1))}[kind]
            scale = rng.random(shape, np.float32) + np.float32(0.01)
            want = expected(x, trits, scale, kind, group)
            packed = {layout: pack_codes(trits, layout) for layout in LAYOUT_IDS}
            q = rng.integers(-128, 128, (tokens, inputs), np.int8)
            sums = q.astype(np.int64) @ trits.T.astype(np.int64)
            for isa, (layout, codes) in itertools.product(native.usable_isas, packed.items()):
                if group % layout_of(layout).group_step:
                    continue
                y, acc = np.empty((tokens, out), np.float32), np.empty((tokens, out), np.int32)
                sizes, tail = (1, tokens, out, inputs), (0, 0, LAYOUT_IDS[layout])
                scaled = (*sizes, SCALE_KINDS[kind], group, *tail)
                native.run(isa, scaled, x, codes, scale, y, threads)
                native.run(isa, (*sizes, ACCUMULATE, 0, *tail), q, codes, scale, acc, threads)
                if not np.array_equal(y, want) or not np.array_equal(acc, sums):
                    raise CheckFailed(
                        "bench.kernel_differs",
                        f"the `{isa}` kernel differs from the reference: {tokens} tokens, "
                        f"{out}x{inputs}, a scale by {kind}, layout {layout}",
                        "set BITNET_NO_COMPILE=1 to go without, and report this",
                    )
        return Found(
            f"{len(native.usable_isas)} instruction sets, {len(shapes)} shapes: every bit equal"
        )

    return run


def _forms(_: str) -> Found:
    rng = np.random.default_rng(2)
    trits = rng.integers(-1, 2, (48, 96), np.int8)
    weight = QuantTensor(
        codes=jax.device_put(pack_trits(trits)),
        scale=jax.device_put(np.float32(0.02)),
        shape=(48, 96),
        dtype="float32",
        stack_axes=(),
        out_axes=(0,),
        in_axes=(1,),
    )
    x = jax.device_put(rng.standard_normal((3, 96), np.float32))
    names = ("reference", "xla", "auto")
    values = {n: np.asarray(ternary_matmul(x, weight, implementation=n)) for n in names}
    for name, value in values.items():
        if not np.array_equal(value, values["reference"]):
            raise CheckFailed(
                "bench.kernel_differs",
                f"`ternary_matmul` as `{name}` differs from the reference on this device",
                "report this, with `bitnet dev check`",
            )
    return Found("reference, XLA and what `auto` takes: every bit equal on this device")


def _model(_: str) -> Found:
    checkpoint = create("tiny", layers=1)
    ids = np.arange(24, dtype=np.int32).reshape(1, -1)
    fast, plain = (Model(checkpoint, implementation=n) for n in (None, "reference"))
    if not np.array_equal(fast.logits(ids), plain.logits(ids)):
        raise CheckFailed(
            "bench.model_differs",
            "a small model's logits differ between the best kernel and the reference",
            "report this, with `bitnet dev check`",
        )
    return Found("a small model's logits are the reference's, bit for bit")


def _memory(_: str) -> Found:
    free = memory_available()
    if free < _MEMORY:
        raise Unavailable(
            "bench.memory",
            f"{free / _GIB:.1f} GiB of memory are free; a model of 2B parameters takes 2",
            "end what else runs, or raise the limit of this process or container",
        )
    pages, warnings = huge_pages(), ()
    if pages == "never":
        warnings = (
            "the system gives no 2 MiB pages, which make decoding faster: "
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )
    return Found(f"{free / _GIB:.1f} GiB free, 2 MiB pages: {pages}", {"free": free}, warnings)


def _bandwidth(size: int) -> Callable[[str], Found]:
    def run(_: str) -> Found:
        found = bandwidth(size)
        if found.gb_s < _SLOWEST:
            raise CheckFailed(
                "bench.bandwidth",
                f"memory is read at {found.gb_s:.2f} GB/s",
                "is it swapped out? free some; a container may be limited, too",
            )
        for _again in range(5):
            found.again()
        values = found.values
        spread = (max(values) - min(values)) / median(values)
        warnings = ()
        if spread > _STEADY:
            warnings = (
                f"the bandwidth varies by {spread:.0%} within seconds: other work shares this "
                "machine, and figures taken now have wide intervals",
            )
        return Found(
            f"{found.gb_s:.1f} GB/s ({found.threads} threads, {found.pages} pages, "
            f"{found.bytes >> 20} MiB)",
            found.to_json(),
            warnings,
        )

    return run


def _peak(_: str) -> Found:
    peak = int8_peak()
    if peak.tops is None:
        raise Unavailable("bench.int8_peak", f"not measured: {peak.reason}", "see the check above")
    said = f"{peak.tops:.3g} TOP/s ({peak.form}, {peak.threads} threads)"
    return Found(said, {"tops": peak.tops, "form": peak.form})


def _quiet(_: str) -> Found:
    load, cores = load_average(), usable_cores() or 1
    if load is None:
        return Found(f"{cores} cores; the system does not say what else runs")
    warnings = ()
    if load > cores / 2:
        warnings = (f"{load:.1f} processes wanted to run on {cores} cores in the last minute",)
    return Found(f"{cores} cores, load {load:.1f}", {"load": load, "cores": cores}, warnings)


CHECKS: tuple[Check, ...] = (
    Check("device", 1, True, _device),
    Check("compiler", 0.2, True, _compiler),
    Check("kernel library", 8, True, _library),
    Check("kernels, edges of tiles", 1, True, _kernels(SMALL)),
    Check("forms on this device", 3, True, _forms),
    Check("other work", 0.1, True, _quiet),
    Check("memory", 0.1, True, _memory),
    Check("bandwidth, 256 MiB", 3, True, _bandwidth(256 * _MIB)),
    Check("int8 peak", 2, True, _peak),
    Check("a model, kernel against reference", 8, True, _model),
    Check("kernels, shapes of 2B4T", 40, False, _kernels(REAL)),
    Check("bandwidth, 2 GiB", 14, False, _bandwidth(BUFFER)),
)
