"""`bitnet model convert`: a model in another format, with proof that nothing changed."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Any, Optional

from ... import batch
from ...context import Context
from ...fields import option
from ...options import (
    ManyModelsArgs,
    ModelArgs,
    allow_option,
    dump_passes_option,
    encoding_option,
    force_option,
    format_option,
    models_option,
    models_or_threads_option,
    no_probe_option,
    output_option,
)
from ...pages.convert import page
from ...result import CommandResult, Pairs, table_of

EXAMPLES = (
    "bitnet model convert model.hf --output model.bitnet",
    "bitnet model convert -i model.bitnet -o model.hf -f huggingface --encoding packed",
    "bitnet model convert model.hf -o model.bitnet --strict --no-probe",
    "bitnet model convert --input model.hf --output model.gguf --encoding tq2_0",
    "bitnet model convert --input runs/20261128/checkpoints/400 --output model.safetensors",
    "bitnet model convert --input a.hf b.hf c.hf --output-dir converted",
)

DETAILS = """\
The source's format is told by its content. Digests are taken before and after, the output
being opened again; they must be equal, or the scales that changed are listed. What a runtime
must know beside the weights (activation, norms, rotary embedding, end tokens, tokenizer) must be
the same, and so must be what the two models compute. The receipt holds all of it: `bitnet model
validate --receipt` derives it again. Several models go into --output-dir, in .bitnet files
unless --format says otherwise (`bitnet help batch`)."""


@dataclass
class ConvertArgs(ManyModelsArgs, ModelArgs):
    """Options of `bitnet model convert`."""

    model: list[str] = models_option("-i", "--input")
    output: Optional[str] = output_option(
        help="the file or folder to write", needed=True, unless=("output_dir", "manifest")
    )
    format: Optional[str] = format_option()
    encoding: Optional[str] = encoding_option()
    allow: list[str] = allow_option()
    strict: bool = option(
        default=False, help="refuse an output that holds any value otherwise than the source"
    )
    no_probe: bool = no_probe_option("do not run the two models side by side")
    jobs: Optional[int] = models_or_threads_option()
    force: bool = force_option()
    dump_passes: Optional[str] = dump_passes_option()


# What the output is called, of each format; the first is written unless another is asked for.
SUFFIXES = {
    "bitnet": ".bitnet",
    "huggingface": ".hf",
    "gguf": ".gguf",
    "safetensors": "/model.safetensors",  # with its config beside it: each in a folder of its own
    "onnx": ".onnx",
    "stablehlo": ".stablehlo",
}


def run(args: ConvertArgs, ctx: Context) -> CommandResult:
    return batch.each(convert, args, ctx, written=batch.Models(SUFFIXES, _made))


def _made(item: batch.Item) -> Any:
    """Returns the record of this conversion if it was made before and still holds."""
    from bitnet_jax import api

    args = item.args
    return api.converted(
        item.model,
        args.output,
        format=args.format,
        encoding=args.encoding,
        allow=tuple(args.allow),
        probe=not args.no_probe,
        strict=args.strict,
        offline=args.offline or None,
    )


def convert(model: str, args: ConvertArgs, ctx: Context) -> CommandResult:
    """Converts one model."""
    from bitnet_jax import api

    assert args.output is not None  # needed, or named by the batch
    record = api.convert(
        source=model,
        output=args.output,
        format=args.format,
        encoding=args.encoding,
        allow=tuple(args.allow),
        probe=not args.no_probe,
        strict=args.strict,
        jobs=args.jobs,
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
    if data.get("contract"):
        rows.append(("contract", f"{len(data['contract'])} checks hold"))
    if data.get("floats_changed"):
        rows.append(("floats changed", len(data["floats_changed"])))
    if data.get("max_logit_difference") is not None:
        rows.append(("largest logit difference", data["max_logit_difference"]))
    if data.get("wiring"):
        words = {True: "computes what its config says", None: "not compared: see the warning"}
        rows.append(("the source's own graph", words[data["wiring"]["holds"]]))
    if data.get("allowed"):
        rows.append(("passed by --allow", data["allowed"]))
    result.sections = [Pairs(rows)]
    if data.get("seconds"):
        rows += [(f"{name} (s)", value) for name, value in data["seconds"].items()]
    if data.get("findings"):
        result.sections.append(table_of(data["findings"], title="the doctor's findings"))
    if data.get("scales_changed"):
        result.sections.append(table_of(data["scales_changed"], title="scales changed"))
    if data.get("floats_changed"):
        result.sections.append(table_of(data["floats_changed"], title="floats changed"))
    return result
