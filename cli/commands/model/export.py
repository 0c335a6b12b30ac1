"""`bitnet model export`: a model as a graph for another runtime, with proof of what is in it."""

from dataclasses import dataclass

from ...context import Context
from ...fields import option
from ...options import (
    ModelArgs,
    allow_option,
    force_option,
    model_option,
    no_probe_option,
    output_option,
)
from ...pages.export import page
from ...result import CommandResult, Pairs, Section, table_of

EXAMPLES = (
    "bitnet model export --input model.bitnet --output model.onnx --optimize-for inference",
    "bitnet model export model.bitnet -o model.onnx",
)

DETAILS = """\
Writes OUTPUT, the graph, and OUTPUT.data, the weights. Inputs and results are named as Optimum
names them: input_ids, attention_mask, position_ids, past_key_values.N.key, logits, present.N.key;
batch and lengths are open, and rows may be padded. portable: INT8 codes, exact. size: two bits a
weight on disk, exact. inference: ONNX Runtime's own 2-bit kernels, not exact; the error is
measured. accuracy: as portable, with every float weight stored as float32. Where ONNX Runtime is
installed (pip install onnxruntime) the file is run and compared with our logits; else it is said
that it was not. A layer or so is in memory at a time; --no-probe leaves it out."""


@dataclass
class ExportArgs(ModelArgs):
    """Options of `bitnet model export`."""

    model: str = model_option("-i", "--input")
    output: str = output_option(help="the file to write (.onnx)", needed=True)
    optimize_for: str = option(
        choices=("portable", "size", "inference", "accuracy"),
        default="portable",
        help="the profile: exact everywhere, small on disk, ONNX Runtime's kernels, float edges",
    )
    allow: list[str] = allow_option()
    no_probe: bool = no_probe_option("write the file without running it or the model")
    force: bool = force_option()


def run(args: ExportArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.export_model(
        source=args.model,
        output=args.output,
        optimize_for=args.optimize_for,
        allow=tuple(args.allow),
        probe=not args.no_probe,
        force=args.force,
        offline=args.offline or None,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, page=page, subject=args.output)
    data = result.data
    rows: list[tuple[str, object]] = [("outputs", data["outputs"]), ("profile", data["encoding"])]
    for name in ("trits", "trits_scales"):
        before, after = data["digest_before"][name], data["digest_after"][name]
        rows.append((f"digest {name}", f"{after} ({'equal' if before == after else 'DIFFERENT'})"))
    rows.append(("scales changed", len(data["scales_changed"])))
    measured = data["max_logit_difference"]
    difference: object = "not measured" if measured is None else measured
    rows.append(("largest logit difference", difference))
    if data.get("runtime"):
        rows.append(("measured by", data["runtime"]))
    if data.get("allowed"):
        rows.append(("passed by --allow", data["allowed"]))
    rows += [(f"{name} (s)", value) for name, value in data.get("seconds", {}).items()]
    sections: list[Section] = [Pairs(rows), table_of(data["passes"], title="after each step")]
    if data["scales_changed"]:
        sections.append(table_of(data["scales_changed"], title="scales changed"))
    result.sections = sections
    return result
