"""Compiling a function ahead of time into an `Executable` with its receipt.

The receipt is read off what was compiled, not off what was asked for: kernels are
counted in the compiled module, bytes are those of the buffers it takes. Knows
nothing of models or files.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from bitnet_jax.core.errors import Unavailable
from bitnet_jax.ops.native.library import library
from bitnet_jax.ops.select import select
from bitnet_jax.quant.tensor import is_quant
from bitnet_jax.targets.detect import detect

# What multiplies by weights natively; a suffix tells two libraries in a process apart.
_NATIVE_TARGETS = (
    "bitnet_ternary_matmul",
    "bitnet_fused_linears",
    "bitnet_rows_matmul",
)
# A native kernel in a compiled module, and the instruction set it was lowered for.
_NATIVE_CALL = re.compile(
    rf'custom_call_target="(?:{"|".join(_NATIVE_TARGETS)})(?:\.\d+)?".*?\bisa = (\d+)'
)
# What says where the source stood, not what is computed.
_METADATA = re.compile(r", (metadata|frontend_attributes)=\{[^{}]*\}")
_TABLES = re.compile(
    r"^(FileNames|FunctionNames|FileLocations|StackFrames)\n(\d+ .*\n)*\n?", re.MULTILINE
)


@dataclass(frozen=True)
class Receipt:
    """What an executable is, read off the compiled module.

    Attributes:
      kernel: implementation of `ternary_matmul`; of a native one, the instruction set
        that stands in the module.
      kernel_reason: why that one.
      kernel_calls: how many native calls the module holds.
      hlo_sha256: of the optimized module's text, less names and paths of the source.
      weight_bytes: bytes of packed codes and scales that it is given.
      float_bytes: bytes of its other parameters.
      temp_bytes: memory it needs beside arguments and results.
      compile_seconds: wall time of compiling, when that was done.
      kept: it was not compiled by this process, but taken from the disk (`kept.py`).
    """

    platform: str
    kernel: str
    kernel_reason: str
    kernel_calls: int
    hlo_sha256: str
    weight_bytes: int
    float_bytes: int
    temp_bytes: int
    compile_seconds: float
    kept: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it stands in records."""
        return asdict(self)


@dataclass(frozen=True)
class Executable:
    """A compiled function and its receipt."""

    compiled: Any
    receipt: Receipt

    def __call__(self, *args: Any) -> Any:
        """Runs on arguments of the compiled shapes."""
        return self.compiled(*args)


def compile_function(
    fn: Callable[..., Any],
    params: Any,
    *args: Any,
    donate: Sequence[int] = (),
    implementation: str | None = None,
) -> Executable:
    """Compiles ``fn(params, *args)`` for the default device.

    Args:
      params: parameters (`Packed` or a pytree), arrays or abstract values.
      args: arrays or abstract values.
      donate: positions in `args` whose buffers the result may reuse.
      implementation: that `fn` was made with, for the receipt.

    Raises:
      Unavailable: a kernel named in `fn` cannot run, or memory does not suffice.
    """
    started = time.perf_counter()
    jitted = jax.jit(fn, donate_argnums=tuple(index + 1 for index in donate))
    compiled = compile_ahead(jitted, params, *args)
    seconds = time.perf_counter() - started
    return Executable(compiled, _receipt(compiled, params, implementation, seconds))


def compile_ahead(jitted: Any, *args: Any) -> Any:
    """Compiles a jitted function for arguments of these shapes, without running it.

    Raises:
      Unavailable: memory does not suffice.
    """
    try:
        return jitted.lower(*args).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise Unavailable(
            "compile.memory",
            f"compiling needs more memory than there is: {str(error).splitlines()[0]}",
            "use a smaller batch or length",
        ) from error


def hlo_sha256(text: str) -> str:
    """Hash of an optimized module: the same wherever its source stands."""
    return hashlib.sha256(_METADATA.sub("", _TABLES.sub("", text)).encode()).hexdigest()


def _kernel(text: str, packed: bool, platform: str, implementation: str | None) -> tuple[str, str]:
    """Which kernel stands in the module, and why."""
    found = sorted({int(index) for index in _NATIVE_CALL.findall(text)})
    choice = select("ternary_matmul", platform, implementation)
    if found:
        names = ", ".join(library().isas[index] for index in found)
        return f"native ({names})", choice.reason
    if not packed or choice.implementation == "native":
        return "none", "the compiled module multiplies no packed weight"
    return choice.implementation, choice.reason


def _receipt(compiled: Any, params: Any, implementation: str | None, seconds: float) -> Receipt:
    text = compiled.as_text()
    platform = detect().platform
    leaves = jax.tree_util.tree_leaves(params, is_leaf=is_quant)
    packed = [leaf for leaf in leaves if is_quant(leaf)]
    kernel, reason = _kernel(text, bool(packed), platform, implementation)
    memory = compiled.memory_analysis()
    return Receipt(
        platform=platform,
        kernel=kernel,
        kernel_reason=reason,
        kernel_calls=len(_NATIVE_CALL.findall(text)),
        hlo_sha256=hlo_sha256(text),
        weight_bytes=sum(leaf.nbytes for leaf in packed),
        float_bytes=sum(_nbytes(leaf) for leaf in leaves if not is_quant(leaf)),
        temp_bytes=int(getattr(memory, "temp_size_in_bytes", 0) or 0),
        compile_seconds=seconds,
    )


def _nbytes(leaf: Any) -> int:
    return int(np.prod(leaf.shape)) * leaf.dtype.itemsize
