"""Energy that the processor says it took (RAPL), where it can be read.

The counters are those of whole processor packages: what else runs on the machine is in them.
Knows nothing of what ran.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Energy:
    """The counters of every package: where they stand, and where they begin again."""

    counters: tuple[tuple[Path, int], ...]

    def read(self) -> tuple[int, ...]:
        """The counters, in microjoules."""
        return tuple(int(path.read_text("ascii")) for path, _ in self.counters)

    def since(self, before: tuple[int, ...]) -> float:
        """Joules since `before`; a counter that began again in between did so once."""
        used = 0
        for now, then, (_, limit) in zip(self.read(), before, self.counters, strict=True):
            used += now - then if now >= then else now + limit - then
        return used / 1e6


def energy(root: Path = POWERCAP) -> tuple[Energy | None, str]:
    """The counters of this machine, and in words where they are, or why there are none."""
    packages = sorted(root.glob("*-rapl:[0-9]*")) if root.is_dir() else []
    # A package is `intel-rapl:0`; `intel-rapl:0:1` is a part of it.
    packages = [path for path in packages if path.name.count(":") == 1]
    if not packages:
        return None, f"`{root}` has no RAPL counters: a virtual machine, or no such driver"
    try:
        counters = tuple(
            (path / "energy_uj", int((path / "max_energy_range_uj").read_text("ascii")))
            for path in packages
        )
        found = Energy(counters)
        found.read()
    except (OSError, ValueError) as error:
        return None, f"the RAPL counters cannot be read: {error} (they are root's)"
    return found, ", ".join(path.name for path in packages)
