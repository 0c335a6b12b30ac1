"""Which stored form a `transformers` checkpoint gets: what was asked, or what can hold it.

``packed`` becomes whichever of the two packed forms the source was. Decides from
names and shapes alone; writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from bitnet_jax.core.errors import CannotCreate, UsageError, did_you_mean
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.models.families import family_of
from bitnet_jax.models.linear_norms import linear_norm_eps
from bitnet_jax.models.names import expected

ENCODINGS = (
    "master",
    "packed",
    "autobitlinear",
    "bitlinear",
    "latent",
    "dequantized",
    "float",
)
# Written without a `quantization_config`: transformers loads plain float linears.
UNQUANTIZED = ("dequantized", "float")


def choose_encoding(checkpoint: Checkpoint, asked: str | None) -> tuple[str, list[str]]:
    """Resolves ``packed`` and None to what can be written; returns it with warnings.

    Raises:
      UsageError: `asked` is no encoding of this format.
      CannotCreate: it would not hold the model exactly, or not load.
    """
    if asked is not None and asked not in ENCODINGS:
        raise UsageError(
            "format.encoding",
            f"encoding `{asked}` is not one of the huggingface format",
            did_you_mean(asked, ENCODINGS),
        )
    ternary = {name: entry for name, entry in checkpoint.entries.items() if entry.ternary}
    _check_floats(checkpoint, ternary)
    if not ternary:
        return "float", []
    if asked == "float":
        raise CannotCreate(
            "huggingface.encoding",
            "the model is ternary; plain floats would be loaded without activation quantization",
            "use --encoding master",
        )
    if asked == "dequantized":
        _check_dequantized(checkpoint, ternary)
        return "dequantized", [
            "transformers computes with dequantized weights and float activations: its results are "
            "those of the model only where its activations are not quantized"
        ]
    if asked == "latent":
        if any(entry.latent is None for entry in ternary.values()):
            raise CannotCreate(
                "huggingface.no_latent",
                f"`{checkpoint.source.path}` holds trits, not the weights they came from",
                "use --encoding master",
            )
        return "latent", []
    if asked == "master":
        return "master", []
    biased = [name for name in ternary if f"{name}.bias" in checkpoint.entries]
    if biased and asked == "autobitlinear":
        raise CannotCreate(
            "huggingface.biases",
            f"`{biased[0]}` has a bias: an autobitlinear of transformers multiplies that by the "
            "scale too, and divided by it first it would not be the same",
            "use --encoding bitlinear or master",
        )
    wanted = expected(checkpoint.spec)
    rows = {name: wanted[name].file_shape[0] for name in ternary}
    uneven = [name for name, count in rows.items() if count % 4]
    if uneven and asked in (None, "packed"):
        return "master", [
            f"`{uneven[0]}` has {rows[uneven[0]]} rows, no multiple of 4, which "
            "transformers cannot load packed: written as master"
        ]
    if uneven:
        raise CannotCreate(
            "huggingface.rows",
            f"`{uneven[0]}` has {rows[uneven[0]]} rows, no multiple of 4: transformers "
            "cannot load it packed",
            "use --encoding master",
        )
    if asked in ("autobitlinear", "bitlinear"):
        return str(asked), []
    origin = checkpoint.source.detail.get("linear_class")
    multiplies = origin == "autobitlinear" and not biased
    return ("autobitlinear" if multiplies else "bitlinear"), []


def _check_floats(checkpoint: Checkpoint, ternary: Mapping[str, object]) -> None:
    """Raises `CannotCreate` for float matrices that would be loaded as something else."""
    spec = checkpoint.spec
    kept = [n for n, item in expected(spec).items() if item.ternary and n not in ternary]
    config_of = family_of(spec.family).huggingface
    if config_of is not None and config_of.masters and kept and not ternary:
        raise CannotCreate(
            "huggingface.masters",
            f"the model is float, and `{config_of.architecture}` quantizes what it loads",
            "make it ternary (`bitnet train qat`), or keep it as --format bitnet",
        )
    if kept and "linear_norms" in spec.extra and linear_norm_eps(spec):
        raise CannotCreate(
            "huggingface.linear_norms",
            f"`{kept[0]}` is float and has a norm inside; in transformers only quantized linears "
            "have those",
            "make it ternary too, or keep it as --format bitnet",
        )


def _check_dequantized(checkpoint: Checkpoint, ternary: Mapping[str, object]) -> None:
    """Raises `CannotCreate` where the floats would be read as something else."""
    spec = checkpoint.spec
    kept = [n for n, item in expected(spec).items() if item.ternary and n not in ternary]
    if kept:
        raise CannotCreate(
            "huggingface.dequantized",
            f"`{kept[0]}` is float: beside ternary floats nothing would tell which are which",
            "use --encoding master",
        )
    config_of = family_of(spec.family).huggingface
    if config_of is not None and config_of.masters:
        raise CannotCreate(
            "huggingface.dequantized",
            f"`{config_of.architecture}` quantizes what it loads: dequantized weights would get "
            "other scales",
            "use --encoding master",
        )
