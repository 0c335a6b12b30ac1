"""The profiles: how parameters are stored and by which nodes products are made. One table.

    portable    INT8 codes, MatMulInteger: sums exact on any runtime with opset 23
    size        codes in as few bits as ONNX has, widened as the file is loaded: as exact
    inference   ONNX Runtime's MatMulNBits, which rounds activations by blocks of its own:
                fast there, and not exact; its error is measured
    accuracy    as `portable`, every float parameter stored as float32

Source of what runs where: ONNX 1.23, ONNX Runtime 1.32. Its CPU kernels of Attention are those
of opsets 23 and 24, so graphs are written in 23; INT2 needs 25. DequantizeLinear of INT2 has
no kernel in opset 28, and none stands in our graphs, which widen by Cast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitnet_jax.core.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Profile:
    """One row.

    Attributes:
      name: as the command line and the file's metadata have it.
      opset: of ONNX's own operators.
      storage: kind of weight -> what its codes are stored as.
      nbits: ternary weights without stacked axes are multiplied by MatMulNBits.
      accuracy_level: of MatMulNBits: 4 multiplies activations rounded to 8 bits by blocks.
      widen: float parameters are stored as float32.
      exact: its logits are ours by the parity rules; else its error is measured and stated.
    """

    name: str
    opset: int
    storage: Mapping[str, str] = field(default_factory=dict)
    nbits: bool = False
    accuracy_level: int = 0
    widen: bool = False
    exact: bool = True


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("portable", 23),
        Profile("size", 25, {"ternary": "int2", "int4": "int4"}),
        Profile("inference", 23, nbits=True, accuracy_level=4, exact=False),
        Profile("accuracy", 23, widen=True),
    )
}


DEFAULT = "portable"


def profile_of(name: str) -> Profile:
    """The row of that name.

    Raises:
      UsageError: there is none (``export.profile``).
    """
    if name not in PROFILES:
        raise UsageError(
            "export.profile", f"profile `{name}` is unknown", did_you_mean(name, PROFILES)
        )
    return PROFILES[name]
