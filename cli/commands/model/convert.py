"""`bitnet model convert`: a model in another format, with proof that nothing changed."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...context import Context
from ...fields import option
from ...options import (
    ModelArgs,
    check_suffix,
    dump_passes_option,
    force_option,
    format_option,
    model_option,
    output_option,
)
from ...pages.convert import page
from ...result import CommandResult, Pairs, table_of

EXAMPLES = (
    "bitnet model convert model.hf --output model.bitnet",
    "bitnet model convert -i model.bitnet -o model.hf -f huggingface --encoding packed",
)

DETAILS = """\
The source's format is told by its content. Digests are taken before and after, the output
being opened again; they must be equal, or the scales that changed are listed."""


@dataclass
class ConvertArgs(ModelArgs):
    """Options of `bitnet model convert`."""

    model: str = model_option("-i", "--input")
    output: str = output_option(help="the file or folder to write", needed=True)
    format: Optional[str] = format_option()
    encoding: Optional[str] = option(
        "-E",
        "--encoding",
        help="the format's variant: packed, master, latent, ...",
        shown_default="the source's, where the format has it",
    )
    allow: list[str] = option(
        "-a",
        "--allow",
        default_factory=list,
        type=str,
        repeat=True,
        commas=True,
        metavar="CODE",
        help="go on past this finding of the checks, and record it; may be repeated",
    )
    force: bool = force_option()
    dump_passes: Optional[str] = dump_passes_option()


def run(args: ConvertArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    check_suffix(args.output, args.format)
    record = api.convert(
        source=args.model,
        output=args.output,
        format=args.format,
        encoding=args.encoding,
        allow=tuple(args.allow),
        force=args.force,
        offline=args.offline or None,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, page=page, subject=args.output)
    data = result.data
    before, after = data["digest_before"], data["digest_after"]
    rows: list[tuple[str, object]] = [("outputs", data["outputs"])]
    # What was inferred is said: the format by the name, the encoding by the source.
    rows += [(name, data[name]) for name in ("format", "encoding", "receipt") if name in data]
    for name in ("trits", "trits_scales"):
        verdict = "equal" if before[name] == after[name] else "DIFFERENT"
        rows.append((f"digest {name}", f"{after[name]} ({verdict})"))
    rows.append(("scales changed", len(data.get("scales_changed") or [])))
    if data.get("max_logit_difference") is not None:
        rows.append(("largest logit difference", data["max_logit_difference"]))
    if data.get("allowed"):
        rows.append(("passed by --allow", data["allowed"]))
    result.sections = [Pairs(rows)]
    if data.get("scales_changed"):
        result.sections.append(table_of(data["scales_changed"], title="scales changed"))
    return result
