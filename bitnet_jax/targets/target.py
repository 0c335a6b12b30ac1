"""`Target`: what to compile for, as a plain value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A platform and the numerics asked of it.

    Attributes:
      platform: ``cpu``, ``cuda``, ``rocm`` or ``tpu``.
      devices: how many.
      kind: the device's own name.
      profile: ``exact`` (float32 attention and head); parity is stated for it.
    """

    platform: str
    devices: int
    kind: str
    profile: str = "exact"
