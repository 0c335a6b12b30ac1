"""`bitnet model inspect`: what is in a model, and where it will run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ... import batch
from ...context import Context
from ...fields import option
from ...options import (
    ManyModelsArgs,
    ModelArgs,
    jobs_option,
    models_option,
    record_force_option,
)
from ...pages.inspect import page
from ...result import CommandResult, Pairs, Section, flat, table_of

EXAMPLES = (
    "bitnet model inspect model.bitnet",
    "bitnet model inspect --input model.bitnet --show-layers --show-parameters --export-json",
)

DETAILS = """\
The record (--json, --export-json) always holds everything; the options choose what the page
for people shows."""

LAYER_COLUMNS = ("name", "shape", "trits.minus", "trits.zero", "trits.plus", "scale")
PARAMETER_COLUMNS = ("name", "shape", "dtype", "stored_as")
# A row for each of several models.
SUMMARY = ("architecture.family", "parameters", "bits_per_weight", "file_bytes")
TABLES = ("layers", "runs_in")


@dataclass
class InspectArgs(ManyModelsArgs, ModelArgs):
    """Options of `bitnet model inspect`."""

    model: list[str] = models_option("-i", "--input")
    show_layers: bool = option(
        default=False, help="a row for each ternary matrix: shares of -1, 0, +1, and scale"
    )
    show_parameters: bool = option(
        default=False, help="a row for each parameter: name, shape, type, what holds it"
    )
    jobs: int = jobs_option("how many models at once, each in a process")
    force: bool = record_force_option(several=True)


def run(args: InspectArgs, ctx: Context) -> CommandResult:
    shown = args.show_layers or args.show_parameters
    return batch.each(inspect, args, ctx, columns=SUMMARY, pages=shown)


def inspect(model: str, args: InspectArgs, ctx: Context) -> CommandResult:
    """Looks into one model."""
    from bitnet_jax import api

    record = api.inspect(model, offline=args.offline or None, progress=ctx.progress)
    result = CommandResult.of(record, rows="layers", page=page, subject=model)
    result.sections = sections(result.data, args.show_layers, args.show_parameters)
    return result


def sections(data: Mapping[str, Any], layers: bool, parameters: bool) -> list[Section]:
    """Returns the page: summary, layers, parameters, where it runs."""
    parts: list[Section] = [Pairs(flat({k: v for k, v in data.items() if k not in TABLES}))]
    if layers:
        ternary = [row for row in data["layers"] if row.get("trits")]
        parts.append(table_of(ternary, LAYER_COLUMNS, title="ternary matrices"))
    if parameters:
        parts.append(table_of(data["layers"], PARAMETER_COLUMNS, title="parameters"))
    parts.append(table_of(runs_in_rows(data["runs_in"]), title="runs in"))
    return parts


def runs_in_rows(runs_in: Any) -> list[dict[str, Any]]:
    """Returns the rows of "runs in", from a list of records or a mapping by runtime."""
    if not isinstance(runs_in, Mapping):
        return list(runs_in)
    return [
        {"runtime": name, **(how if isinstance(how, Mapping) else {"how": how})}
        for name, how in runs_in.items()
    ]
