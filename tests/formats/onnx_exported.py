"""Graphs by PyTorch's exporters, both of them, and by ONNX Runtime's quantizers, made when asked.

A row is a model and its example inputs; the models of `transformers` are tiny, of random weights.
Needs torch: only heavy tests import it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t
from torch import nn

TINY: dict[str, Any] = dict(
    vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=2, max_position_embeddings=32, bos_token_id=1, eos_token_id=2,
    pad_token_id=0, attn_implementation="eager",
)  # fmt: skip
GROUPED = TINY | dict(num_key_value_heads=1)


@dataclass(frozen=True)
class Row:
    """One graph.

    Attributes:
      make: the module and its inputs by name.
      dynamo: which of the two exporters.
      quantize: what ONNX Runtime's tools do to the file then.
      free: input -> axes that stay free.
    """

    make: Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]
    dynamo: bool
    quantize: Callable[[Path, Path, dict[str, np.ndarray]], None] | None = None
    free: dict[str, dict[int, str]] = field(default_factory=dict)


class Only(nn.Module):
    """A model of `transformers` as a function of arrays to arrays."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], field: str, **settings: Any):
        super().__init__()
        self.model, self.names, self.field, self.settings = model, names, field, settings

    def forward(self, *values: torch.Tensor) -> Any:
        given = dict(zip(self.names, values, strict=True))
        return getattr(self.model(**given, **self.settings), self.field)


def ids(length: int = 7, batch: int = 2, vocab: int = 48) -> torch.Tensor:
    return torch.randint(3, vocab, (batch, length), generator=torch.Generator().manual_seed(0))


def decoder(kind: Any, config: Any) -> Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]:
    def make() -> tuple[nn.Module, dict[str, torch.Tensor]]:
        # Without a mask the older exporter meets an operator that it does not know.
        given = {"input_ids": ids(), "attention_mask": torch.ones(2, 7, dtype=torch.int64)}
        return Only(kind(config()), tuple(given), "logits", use_cache=False), given

    return make


def encoder(
    kind: Any, config: Any, result: str = "last_hidden_state"
) -> Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]:
    def make() -> tuple[nn.Module, dict[str, torch.Tensor]]:
        mask = torch.ones(2, 7, dtype=torch.int64)
        mask[1, 5:] = 0
        given = {"input_ids": ids(), "attention_mask": mask}
        return Only(kind(config()), tuple(given), result), given

    return make


def images(
    kind: Any, config: Any, result: str = "logits", size: int = 16
) -> Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]:
    def make() -> tuple[nn.Module, dict[str, torch.Tensor]]:
        given = {"pixel_values": torch.randn(2, 3, size, size)}
        return Only(kind(config()), tuple(given), result), given

    return make


def plain(model: Callable[[], nn.Module], *shape: int) -> Callable[[], Any]:
    def make() -> tuple[nn.Module, dict[str, torch.Tensor]]:
        return model(), {"x": torch.randn(*shape)}

    return make


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.LayerNorm(48), nn.Linear(48, 16))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, groups=2), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 5),
    )  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 12, num_layers=2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(24, 6, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(self.lstm(x)[0])[0]


class UNet(nn.Module):
    """Down, up, and what was there before beside it: transposed convolutions and resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 8, 4, 2, 1), nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1)
        self.out = nn.Conv2d(7, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = nn.functional.leaky_relu(self.norm(self.down(x)))
        high = torch.cat([self.up(low), x], 1)
        wide = nn.functional.interpolate(
            self.out(high), scale_factor=2, mode="bilinear", align_corners=False
        )
        near = nn.functional.interpolate(low, scale_factor=4, mode="nearest")
        return wide + near[:, :2]


# ------------------------------------------------------------------------ quantizers
def dynamic(source: Path, target: Path, inputs: dict[str, np.ndarray]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QInt8)


class _Samples:
    def __init__(self, inputs: dict[str, np.ndarray]):
        self.left = [inputs]

    def get_next(self) -> Any:
        return self.left.pop() if self.left else None


def static_qdq(source: Path, target: Path, inputs: dict[str, np.ndarray]) -> None:
    from onnxruntime.quantization import QuantFormat, quantize_static

    quantize_static(
        source, target, _Samples(inputs), quant_format=QuantFormat.QDQ, per_channel=True
    )


def static_qoperator(source: Path, target: Path, inputs: dict[str, np.ndarray]) -> None:
    from onnxruntime.quantization import QuantFormat, quantize_static

    quantize_static(source, target, _Samples(inputs), quant_format=QuantFormat.QOperator)


def four_bits(source: Path, target: Path, inputs: dict[str, np.ndarray]) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    made = MatMulNBitsQuantizer(onnx.load(source), bits=4, block_size=16, is_symmetric=False)
    made.process()
    made.model.save_model_to_file(str(target))


def _t5() -> Any:
    return t.T5Config(vocab_size=48, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2)


def _gpt2() -> Any:
    return t.GPT2Config(vocab_size=48, n_embd=32, n_layer=2, n_head=2, n_positions=32,
                        attn_implementation="eager")  # fmt: skip


def _vit() -> Any:
    return t.ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_labels=4,
                       num_attention_heads=2, image_size=16, patch_size=8,
                       attn_implementation="eager")  # fmt: skip


def _convnext() -> Any:
    return t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_labels=4, num_stages=2,
                            patch_size=4)  # fmt: skip


def _whisper() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = t.WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48,
        num_mel_bins=8, max_source_positions=16, attn_implementation="eager",
    )  # fmt: skip
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    given = {"input_features": torch.randn(1, 8, 32)}
    return Only(WhisperEncoder(config), tuple(given), "last_hidden_state"), given


def _llama() -> Any:
    return t.LlamaConfig(**GROUPED)


def _bert() -> Any:
    return t.BertConfig(**TINY)


LLAMA = decoder(t.LlamaForCausalLM, _llama)
FREE = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}
# Those that the lowering was written with.
FIRST: dict[str, Row] = {
    "mlp": Row(plain(mlp, 4, 32), False),
    "mlp, dynamo": Row(plain(mlp, 4, 32), True),
    "cnn": Row(plain(cnn, 2, 3, 16, 16), False),
    "cnn, dynamo": Row(plain(cnn, 2, 3, 16, 16), True),
    "lstm and gru": Row(plain(Recurrent, 2, 5, 8), False),
    "u-net": Row(plain(UNet, 1, 3, 16, 16), False),
    "llama": Row(LLAMA, False, free=FREE),
    "llama, dynamo": Row(LLAMA, True),
    "gpt2": Row(decoder(t.GPT2LMHeadModel, _gpt2), False, free=FREE),
    "gpt2, dynamo": Row(decoder(t.GPT2LMHeadModel, _gpt2), True),
    "qwen2, dynamo": Row(decoder(t.Qwen2ForCausalLM, lambda: t.Qwen2Config(**GROUPED)), True),
    "bert": Row(encoder(t.BertModel, _bert), False),
    "bert, dynamo": Row(encoder(t.BertModel, _bert), True),
    "t5 encoder": Row(encoder(t.T5EncoderModel, _t5), False),
    "whisper encoder, dynamo": Row(_whisper, True),
    "vit, dynamo": Row(images(t.ViTForImageClassification, _vit), True),
    "convnext": Row(images(t.ConvNextForImageClassification, _convnext, size=32), False),
    "mlp, dynamic int8": Row(plain(mlp, 4, 32), False, dynamic),
    "bert, dynamic int8": Row(encoder(t.BertModel, _bert), False, dynamic),
    "cnn, static QDQ": Row(plain(cnn, 2, 3, 16, 16), False, static_qdq),
    "mlp, static QOperator": Row(plain(mlp, 4, 32), False, static_qoperator),
    "llama, 4 bits": Row(LLAMA, False, four_bits, FREE),
}


def _steps(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    for i in range(3):
        if bool(x.sum() > -100.0):
            x = torch.tanh(x @ w) + i
    return x


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scripts are deprecated; graphs with their loops are about
    steps = torch.jit.script(_steps)


class Looping(nn.Module):
    """A loop and a choice that are kept by a script, the choice by the values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return steps(x, self.weight)


class Cached(nn.Module):
    """A decoder with its cache as inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.model = t.LlamaForCausalLM(_llama())

    def forward(self, input_ids: torch.Tensor, *past: torch.Tensor) -> Any:
        cache = t.DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        mask = torch.ones(1, past[0].shape[2] + input_ids.shape[1], dtype=torch.int64)
        out = self.model(input_ids, past_key_values=cache, attention_mask=mask, use_cache=True)
        layers = out.past_key_values.layers
        return out.logits, *(x for layer in layers for x in (layer.keys, layer.values))


def _cached() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    names = [f"past.{layer}.{what}" for layer in range(2) for what in ("key", "value")]
    past = {name: torch.randn(1, 1, 3, 16) for name in names}
    return Cached(), {"input_ids": ids(4, 1), **past}


def _swin() -> Any:
    return t.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2],
                        window_size=4, num_labels=4)  # fmt: skip


def _gemma() -> Any:
    return t.GemmaConfig(**GROUPED | {"head_dim": 16})


def _phi() -> Any:
    return t.PhiConfig(**TINY | {"partial_rotary_factor": 0.5})


def _opt() -> Any:
    return t.OPTConfig(**TINY | {"ffn_dim": 48, "word_embed_proj_dim": 32})


def _mobilenet() -> Any:
    return t.MobileNetV2Config(num_labels=4, depth_multiplier=0.25, image_size=32)


def _wav2vec() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = t.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        conv_dim=(8, 8), conv_stride=(4, 2), conv_kernel=(8, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, attn_implementation="eager",
    )  # fmt: skip
    given = {"input_values": torch.randn(1, 160)}
    return Only(t.Wav2Vec2Model(config), tuple(given), "last_hidden_state"), given


# Those that were added when the lowering was done, and that it had never seen.
LATER: dict[str, Row] = {
    "mistral, dynamo": Row(decoder(t.MistralForCausalLM, lambda: t.MistralConfig(**GROUPED)), True),
    "gemma": Row(decoder(t.GemmaForCausalLM, _gemma), False, free=FREE),
    "phi, dynamo": Row(decoder(t.PhiForCausalLM, _phi), True),
    "opt": Row(decoder(t.OPTForCausalLM, _opt), False, free=FREE),
    "bitnet, dynamo": Row(decoder(t.BitNetForCausalLM, lambda: t.BitNetConfig(**GROUPED)), True),
    "qwen3": Row(
        decoder(t.Qwen3ForCausalLM, lambda: t.Qwen3Config(**GROUPED | {"head_dim": 16})), False
    ),
    "llama with its cache": Row(_cached, False),
    "distilbert, dynamo": Row(
        encoder(
            t.DistilBertModel,
            lambda: t.DistilBertConfig(vocab_size=48, dim=32, hidden_dim=48, n_layers=2, n_heads=2),
        ),
        True,
    ),
    "roberta, dynamic int8": Row(
        encoder(t.RobertaModel, lambda: t.RobertaConfig(**TINY | {"max_position_embeddings": 40})),
        False,
        dynamic,
    ),
    "swin": Row(images(t.SwinForImageClassification, _swin, size=32), False),
    "mobilenet": Row(images(t.MobileNetV2ForImageClassification, _mobilenet, size=32), False),
    "mobilenet, static QDQ": Row(
        images(t.MobileNetV2ForImageClassification, _mobilenet, size=32), False, static_qdq
    ),
    "wav2vec": Row(_wav2vec, False),
    "a loop": Row(plain(Looping, 4, 8), False),
    "gpt2, 4 bits": Row(decoder(t.GPT2LMHeadModel, _gpt2), False, four_bits, FREE),
}


@dataclass(frozen=True)
class Exported:
    """A file, its inputs, and what ONNX Runtime makes of them."""

    path: Path
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def export(row: Row, folder: Path) -> Exported:
    """Makes a row's file."""
    torch.manual_seed(0)
    model, given = row.make()
    model.eval()
    for module in model.modules():  # statistics that are not all 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    path = folder / "model.onnx"
    shapes: dict[str, Any] = {}
    if row.free:
        shapes = {"dynamic_axes": row.free}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            torch.onnx.export(
                model, tuple(given.values()), str(path), input_names=list(given),
                dynamo=row.dynamo, **shapes,
            )  # fmt: skip
            inputs = {name: value.numpy() for name, value in given.items()}
            if row.quantize is not None:
                row.quantize(path, folder / "quantized.onnx", inputs)
                path = folder / "quantized.onnx"
        finally:
            logging.disable(logging.NOTSET)
    return Exported(path, inputs, run_onnxruntime(path, inputs, plain=row.quantize is not None))


def export_named(name: str, folder: Path) -> Exported:
    """As `export`, of a row's name: for a process of its own."""
    return export((FIRST | LATER)[name], folder)


def run_onnxruntime(
    path: Path, inputs: dict[str, np.ndarray], *, plain: bool = False
) -> dict[str, np.ndarray]:
    """All outputs; `plain`: without the fusions that round activations to 8 bits."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}
    names = [item.name for item in session.get_outputs()]
    found = session.run(names, {k: v for k, v in inputs.items() if k in wanted})
    return dict(zip(names, found, strict=True))
