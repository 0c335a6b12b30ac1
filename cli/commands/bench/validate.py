"""`bitnet bench validate`: is this machine fit."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from bitnet_jax.core.errors import CheckFailed

from ...context import Context
from ...fields import option
from ...options import device_option, page_option, record_force_option
from ...pages.bench_validate import COLUMNS, page
from ...result import CommandResult, table_of

EXAMPLES = (
    "bitnet bench validate --quick",
    "bitnet bench validate --comprehensive --output validation-report.html",
)

DETAILS = """\
Kernels are compared with the reference, bit for bit, on every instruction set of this processor;
memory and arithmetic are measured. Says first how long it takes. Without an option it does the
quick checks. Exits with 1 when a check does not hold."""


@dataclass
class BenchValidateArgs:
    """Options of `bitnet bench validate`."""

    quick: bool = option("-Q", "--quick", default=False, help="the checks of a minute")
    comprehensive: bool = option(
        "-C", "--comprehensive", default=False, help="every check; says first how long it takes"
    )
    output: Optional[str] = page_option()
    device: str = device_option()
    force: bool = record_force_option()


def run(args: BenchValidateArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.bench_validate(
        quick=args.quick,
        comprehensive=args.comprehensive,
        device=args.device,
        say=ctx.say,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, rows="checks", page=page, subject="this machine")
    data = result.data
    known = [name for name in COLUMNS if any(row.get(name) for row in data["checks"])]
    result.sections = [table_of(data["checks"], known)]
    if not data["passed"]:
        result.fail(
            CheckFailed(
                "bench.machine_unfit",
                f"{len(data['failed'])} check(s) did not hold: {', '.join(data['failed'])}",
                "each check's `fix` says what to do",
            )
        )
    return result
