"""The commands of `bitnet model` that are not built yet: none."""

from ...planned import Planned

PLANNED: dict[str, Planned] = {}
