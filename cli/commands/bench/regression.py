"""`bitnet bench regression`: did it get slower."""

from dataclasses import dataclass

from bitnet_jax.core.errors import CheckFailed

from ...context import Context
from ...fields import named, option
from ...options import record_force_option
from ...pages.bench_regression import page
from ...result import CommandResult, table_of

EXAMPLES = (
    "bitnet bench regression --baseline baseline.json --current-results results.json",
    "bitnet bench regression baseline.json results.json --json",
)

DETAILS = """\
Both are records of `bench run`: of --export-json, of --json, or of --output-dir. Exits with 1
when a row is slower: when the interval of the ratio lies below one, as it is and beside what the
machine reached. Records of other machines, models or settings are refused (exit 65).
--emit github and --emit junit are for continuous integration."""

COLUMNS = ("name", "verdict", "baseline", "current", "ratio", "ratio_interval", "beside_interval")


@dataclass
class RegressionArgs:
    """Options of `bitnet bench regression`."""

    baseline: str = option(
        "-B",
        "--baseline",
        type=named,
        metavar="FILE",
        positional=True,
        needed=True,
        help="the JSON of an earlier `bench run`",
    )
    current_results: str = option(
        type=named,
        metavar="FILE",
        positional=True,
        needed=True,
        help="the JSON of the run to judge",
    )
    force: bool = record_force_option()


def run(args: RegressionArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.bench_regression(args.baseline, args.current_results)
    result = CommandResult.of(record, rows="comparisons", page=page, subject=args.current_results)
    data = result.data
    result.sections = [table_of(data["comparisons"], COLUMNS)]
    if not data["passed"]:
        result.fail(
            CheckFailed(
                "bench.regression",
                f"`{args.current_results}` is slower than `{args.baseline}`: "
                + ", ".join(data["slower"]),
                "`bitnet bench profile` shows where the time goes",
            )
        )
    return result
