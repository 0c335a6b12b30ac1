"""The commands of `bitnet model` that are not built yet: their options and examples."""

from dataclasses import dataclass

from ...fields import option
from ...options import ModelArgs, force_option, model_option, output_option
from ...planned import Planned


@dataclass
class ExportArgs(ModelArgs):
    """Options of `bitnet model export`."""

    model: str = model_option("-i", "--input")
    output: str = output_option(help="the file to write (.onnx, .stablehlo)", needed=True)
    optimize_for: str = option(
        choices=("portable", "size", "inference", "accuracy"),
        default="portable",
        help="the profile: exact everywhere, small on disk, ONNX Runtime's kernels, float edges",
    )
    force: bool = force_option()


PLANNED = {
    "export": Planned(
        ExportArgs,
        "bitnet model export --input model.bitnet --output model.onnx --optimize-for inference",
        "bitnet model export model.bitnet -o model.onnx",
    ),
}
