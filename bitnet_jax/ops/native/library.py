"""Opens the kernel library, tests it, and keeps one per process.

Where it comes from, in this order: ``BITNET_KERNELS`` (a read-only folder of
prebuilt libraries), the cache, the wheel that this package was installed from, the
compiler. What is opened has been compared with
its digest and has computed a few small products on every instruction set of this
machine, equal bit for bit to numpy. Knows nothing of primitives or lowering.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.core.caches import cache_dir
from bitnet_jax.core.errors import BadData, BitnetError, Unavailable, UsageError, did_you_mean
from bitnet_jax.ops.native import build
from bitnet_jax.ops.native.selftest import LAYOUT_IDS, ROWS_LAYOUTS, SCALE_KINDS, selftest
from bitnet_jax.quant.layouts import layout_of

# The environment that decides which library is used; a change of it is seen.
SETTINGS = ("BITNET_KERNELS", "BITNET_NO_COMPILE", "BITNET_CACHE_DIR", "CXX", "PATH")
# Where a platform wheel holds its library; a source tree has no such folder.
WHEEL_DIR = build.SOURCE_DIR / "prebuilt"
FFI_TARGETS = (
    "bitnet_ternary_matmul",
    "bitnet_ternary_accumulate",
    "bitnet_fused_linears",
    "bitnet_rows_matmul",
    "bitnet_dense_matmul",
    "bitnet_attention",
    "bitnet_cached_attention",
    "bitnet_rms_norm",
)


# As many as any entry reads.
_SIZES = 9


@dataclass(frozen=True)
class Library:
    """An opened library that passed its self-test.

    Attributes:
      isas: every instruction set it was built with, best first; the index is the id.
      usable_isas: those that this processor has.
      origin: ``prebuilt`` (``BITNET_KERNELS``), ``cache``, ``wheel`` or ``built``.
      passed_over: why the wheel's own library was not taken, where it has one.
    """

    path: Path
    handle: ctypes.CDLL
    isas: tuple[str, ...]
    usable_isas: tuple[str, ...]
    origin: str = "prebuilt"
    passed_over: str | None = None

    def isa_id(self, name: str) -> int:
        return self.isas.index(name)

    def run(self, isa: str, sizes, x, codes, scale, y, threads: int = 1, entry="bitnet_run"):
        """One product on plain numpy arrays: see `entry` in library.cc."""
        sizes = (ctypes.c_int64 * _SIZES)(*sizes)  # the rest are zeros
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (x, codes, scale, y)]
        failed = getattr(self.handle, entry)(
            ctypes.c_int64(self.isa_id(isa)), ctypes.c_int64(threads), sizes, *pointers
        )
        if failed:
            raise Unavailable("kernel.run_failed", f"the `{isa}` kernel answered {failed}")

    def repack(self, codes: np.ndarray, to: str, in_features: int) -> np.ndarray:
        """Ternary codes [..., blocks, lines, 64] of one layout in the other, on all threads.

        Raises:
          BadData: a code is no trit (``tensor.not_ternary``).
        """
        codes = np.ascontiguousarray(codes)
        lines = layout_of(to).shape(1, in_features)[1]
        result = np.empty((*codes.shape[:-2], lines, codes.shape[-1]), np.uint8)
        illegal = self.handle.bitnet_repack(
            ctypes.c_int64(LAYOUT_IDS[to]),
            ctypes.c_int64(math.prod(codes.shape[:-2])),
            ctypes.c_int64(in_features),
            ctypes.c_void_p(codes.ctypes.data),
            ctypes.c_void_p(result.ctypes.data),
        )
        if illegal:
            raise BadData("tensor.not_ternary", "among the packed codes are some that are no trit")
        return result

    def quantize_rows(
        self, w: np.ndarray, layout: str, codes: np.ndarray, scale: np.ndarray
    ) -> bool:
        """Float32 or bfloat16 `w` [out, in] into `codes` and float32 `scale` [out].

        All C order. On all threads, as `quant.kinds.quantize_weights` does it, scales in float32.

        Returns:
          Whether all weights are numbers; of others the codes mean nothing.

        Raises:
          Unavailable: memory does not suffice (``memory.exhausted``).
        """
        answer = self.handle.bitnet_quantize_rows(
            *(ctypes.c_int64(size) for size in (ROWS_LAYOUTS[layout], *w.shape)),
            ctypes.c_int(w.dtype.itemsize == 2),
            *(ctypes.c_void_p(array.ctypes.data) for array in (w, codes, scale)),
        )
        if answer == 2:
            raise Unavailable("memory.exhausted", "memory does not suffice to quantize a row")
        return answer == 0


@dataclass(frozen=True)
class Status:
    """Whether the C++ kernels can be used here, and why not: for checks and receipts."""

    available: bool
    path: str | None
    origin: str | None
    isa: str | None
    usable_isas: tuple[str, ...]
    reason: str | None
    hint: str | None
    passed_over: str | None = None


def open_library(path: Path, origin: str = "prebuilt") -> Library:
    """Opens `path` after comparing its digest, and runs the self-test.

    Raises:
      PermissionDenied: somebody else could have written it.
      BadData: it is not the file that was built, or computes something else.
    """
    if origin != "wheel":  # there, whoever could change it could change this file
        build.check_private(path.parent)
        build.check_private(path)
    build.check_intact(path)
    try:
        handle = ctypes.CDLL(str(path))
        handle.bitnet_source_key.restype = ctypes.c_char_p
        handle.bitnet_isa_name.restype = ctypes.c_char_p
        handle.bitnet_isa_name.argtypes = [ctypes.c_int64]
        handle.bitnet_isa_usable.argtypes = [ctypes.c_int64]
        handle.bitnet_isa_count.restype = ctypes.c_int64
        key = handle.bitnet_source_key().decode()
    except (OSError, AttributeError) as error:
        raise BadData("kernel.corrupt", f"`{path}` cannot be loaded: {error}") from error
    if key != build.source_key():
        raise BadData("kernel.corrupt", f"`{path}` was built from other sources")
    ids = range(handle.bitnet_isa_count())
    isas = tuple(handle.bitnet_isa_name(isa).decode() for isa in ids)
    usable = tuple(isas[isa] for isa in ids if handle.bitnet_isa_usable(isa))
    library = Library(path, handle, isas, usable, origin)
    selftest(library)
    return library


def obtain(environ: Mapping[str, str] = os.environ) -> Library:
    """Finds, or builds, the library for `environ`.

    A cached library that is corrupt is built again once. One of the wheel's that does not
    fit is passed over, and what is found instead says why.

    Raises:
      Unavailable: there is none and none can be built.
      PermissionDenied: the folder is not safe to load code from.
    """
    if environ.get("BITNET_KERNELS"):
        return _prebuilt(Path(environ["BITNET_KERNELS"]))
    try:
        folder = cache_dir("kernels")
        build.check_private(folder)
    except BitnetError:
        # A read-only home, or a cache that is not safe: the wheel's library needs neither.
        found, _ = _of_wheel()
        if found is None:
            raise
        return found
    may_compile = environ.get("BITNET_NO_COMPILE", "0") in ("", "0")
    compiler = build.find_compiler(environ) if may_compile else None
    if compiler is None:
        return _without_compiler(folder, may_compile)
    path = folder / build.library_name(compiler)
    passed_over = None
    if not path.exists():  # asked before the lock, which a read-only cache would not give
        found, passed_over = _of_wheel()
        if found is not None:
            return found
    with build.wait_for_lock(folder / ".lock"):
        if path.exists():
            try:
                return open_library(path, "cache")
            except BadData:
                path.unlink()  # a crash or a bad disk: once more, and then it is an error
        build.compile_library(compiler, path)
        try:
            return replace(open_library(path, "built"), passed_over=passed_over)
        except BadData as error:
            raise Unavailable(
                "kernel.unusable",
                f"the C++ kernels were built, and fail: {error.message}",
                "set BITNET_NO_COMPILE=1 to go without them, and report this",
            ) from error


def _prebuilt(folder: Path) -> Library:
    suffix = build.this_system().suffix
    found = sorted(folder.glob(f"{build.name_prefix()}*{suffix}"))
    if not found:
        there = ", ".join(sorted(path.name for path in folder.glob(f"*{suffix}"))) or "no library"
        raise Unavailable(
            "kernel.prebuilt_missing",
            f"BITNET_KERNELS=`{folder}` holds no library for this processor, jaxlib and "
            f"version of bitnet-jax ({build.name_prefix()}*{suffix}); it holds {there}",
            "run `bitnet dev build --output DIR` with the same versions, or unset BITNET_KERNELS",
        )
    try:
        return open_library(found[0])
    except BadData as error:
        raise Unavailable(
            "kernel.prebuilt_corrupt",
            error.message,
            "run `bitnet dev build --output DIR --force`, or unset BITNET_KERNELS",
        ) from error


def _of_wheel() -> tuple[Library | None, str | None]:
    """The library that came in the wheel; or None, and why (None too: it holds none)."""
    suffix = build.this_system().suffix
    there = sorted(WHEEL_DIR.glob(f"*{suffix}"))
    reason = None
    for path in there:
        if not path.name.startswith(build.name_prefix()):
            reason = (
                f"the wheel's own library `{path.name}` does not fit: this processor, jaxlib "
                f"(XLA interface {build.ffi_version()}) and these sources need "
                f"`{build.name_prefix()}*{suffix}`"
            )
            continue
        try:
            return open_library(path, "wheel"), None
        except BadData as error:
            reason = f"the wheel's own library is refused: {error.message}"
    return None, reason


def _without_compiler(folder: Path, may_compile: bool) -> Library:
    for path in sorted(folder.glob(f"{build.name_prefix()}*{build.this_system().suffix}")):
        try:
            return open_library(path, "cache")
        except BadData:
            continue
    found, passed_over = _of_wheel()
    if found is not None:
        return found
    if may_compile:
        raise build.no_compiler(passed_over)
    raise Unavailable(
        "kernel.no_compile",
        "BITNET_NO_COMPILE is set, and no library is in the cache or in the wheel"
        + (f"; {passed_over}" if passed_over else ""),
        "unset BITNET_NO_COMPILE, or point BITNET_KERNELS at a prebuilt folder",
    )


_guard = threading.Lock()
_outcomes: dict[tuple[str | None, ...], Library | BitnetError] = {}
_registered: dict[Path, str] = {}


def library() -> Library:
    """This process's library; the outcome for an environment is found once.

    Raises:
      Unavailable, PermissionDenied: as `obtain`.
    """
    key = tuple(os.environ.get(name) for name in SETTINGS)
    with _guard:
        if key not in _outcomes:
            try:
                _outcomes[key] = obtain()
            except BitnetError as error:
                _outcomes[key] = error
        outcome = _outcomes[key]
    if isinstance(outcome, BitnetError):
        raise outcome
    return outcome


def forget() -> None:
    """Drops the outcomes found so far: the next use looks again."""
    with _guard:
        _outcomes.clear()


def chosen_isa(library: Library) -> str:
    """The instruction set to use: the best this processor has, or ``BITNET_ISA``.

    Raises:
      UsageError: `BITNET_ISA` names none that exists.
      Unavailable: it names one that this processor, or this library, lacks.
    """
    forced = os.environ.get("BITNET_ISA")
    if not forced:
        return library.usable_isas[0]
    if forced not in KNOWN_ISAS:
        raise UsageError(
            "kernel.isa_unknown",
            f"BITNET_ISA=`{forced}` is no instruction set",
            did_you_mean(forced, KNOWN_ISAS),
        )
    if forced not in library.usable_isas:
        raise Unavailable(
            "kernel.isa_missing",
            f"BITNET_ISA=`{forced}`: this processor lacks it",
            "unset BITNET_ISA, or choose one of " + ", ".join(library.usable_isas),
        )
    return forced


def raise_if_forced() -> None:
    """Raises what keeps ``BITNET_ISA`` from being used: a request by name never falls back."""
    if os.environ.get("BITNET_ISA"):
        chosen_isa(library())


KNOWN_ISAS = (
    *("avx512_vbmi", "avx512_vnni", "avx_vnni", "avx2"),
    *("neon_i8mm", "neon_dotprod", "portable"),
)


def status() -> Status:
    """What is there, without raising: for `bitnet dev check` and receipts."""
    try:
        found = library()
        isa = chosen_isa(found)
    except BitnetError as error:
        return Status(False, None, None, None, (), error.message, error.hint)
    return Status(
        *(True, str(found.path), found.origin, isa, found.usable_isas, None, None),
        passed_over=found.passed_over,
    )


def threads() -> int:
    """Threads of a kernel call, the caller's included.

    Raises:
      Unavailable, PermissionDenied: as `obtain`.
    """
    return int(_of_threads(library(), "bitnet_threads"))


def set_threads(count: int) -> None:
    """Threads of each kernel call of this process from now on; 0: one for each processor.

    Raises:
      Unavailable, PermissionDenied: as `obtain`.
    """
    _of_threads(library(), "bitnet_set_threads", ctypes.c_int64(count))


def _of_threads(found: Library, name: str, *arguments: Any) -> Any:
    function = getattr(found.handle, name)
    function.restype = None if arguments else ctypes.c_int64
    return function(*arguments)


def ffi_target(name: str) -> tuple[str, int]:
    """Registers the library with XLA once, and returns the target's name and the ISA id."""
    import jax.ffi

    found = library()
    isa = found.isa_id(chosen_isa(found))
    with _guard:
        if found.path not in _registered:
            # A second library in one process (another folder) gets names of its own.
            suffix = f".{len(_registered)}" if _registered else ""
            for target in FFI_TARGETS:
                capsule = jax.ffi.pycapsule(getattr(found.handle, target))
                jax.ffi.register_ffi_target(target + suffix, capsule, platform="cpu")
            _registered[found.path] = suffix
        return name + _registered[found.path], isa


__all__ = [
    "KNOWN_ISAS",
    "ROWS_LAYOUTS",
    "SCALE_KINDS",
    "Library",
    "Status",
    "chosen_isa",
    "ffi_target",
    "forget",
    "library",
    "obtain",
    "open_library",
    "raise_if_forced",
    "set_threads",
    "status",
    "threads",
]
