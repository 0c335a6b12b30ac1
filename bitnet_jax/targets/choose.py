"""Which device a command runs on: what was asked for, or an error with the line that mends it.

Knows nothing of what runs there.
"""

from __future__ import annotations

from bitnet_jax.core.errors import Unavailable, UsageError, did_you_mean
from bitnet_jax.targets.detect import detect
from bitnet_jax.targets.target import Target

# What can be asked for -> the platforms that serve it (as JAX calls them), and what brings them.
DEVICES: dict[str, tuple[tuple[str, ...], str]] = {
    "auto": ((), ""),
    "cpu": (("cpu",), "unset JAX_PLATFORMS, or set it to cpu"),
    "gpu": (("gpu", "cuda", "rocm"), "pip install 'bitnet-jax[cuda]'"),
    "cuda": (("gpu", "cuda"), "pip install 'bitnet-jax[cuda]'"),
    "rocm": (("gpu", "rocm"), "install JAX's ROCm plugin: pip install jax-rocm7-plugin"),
    "tpu": (("tpu",), "pip install 'bitnet-jax[tpu]', on a machine with a TPU"),
    "metal": ((), "JAX has no current Metal plugin: use --device cpu"),
    "mlx": ((), "MLX is another framework, which this tool does not run on: use --device cpu"),
}


def choose(name: str) -> Target:
    """Makes `name` the default device of this process, and returns it.

    Raises:
      UsageError: no such name (``device.unknown``).
      Unavailable: it is not here (``device.missing``).
    """
    if name not in DEVICES:
        raise UsageError(
            "device.unknown", f"there is no device `{name}`", did_you_mean(name, DEVICES)
        )
    import jax

    if name == "auto":
        return detect()
    platforms, mend = DEVICES[name]
    for platform in platforms:
        try:
            devices = jax.devices(platform)
        except RuntimeError:  # JAX's way to say that it knows no such platform here
            continue
        if devices[0].platform != detect().platform:
            # The engine compiles for the process's default; another one is chosen at its start.
            raise Unavailable(
                "device.not_default",
                f"device `{name}` is here, but this process runs on `{detect().platform}`",
                f"set JAX_PLATFORMS={platform}",
            )
        return detect()
    there = ", ".join(sorted({device.platform for device in jax.devices()}))
    raise Unavailable(
        "device.missing", f"device `{name}` was asked for; this machine has {there}", mend
    )
