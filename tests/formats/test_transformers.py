"""The real counterpart: what `transformers` writes we read, what we write it loads.

Everything in eager float32: the reference's other dtypes differ among themselves.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from bitnet_jax.formats.create import create, save_created
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from tests.formats.checkpoints import AUTO, BF16, BIT, TINY, config, tensors, write

pytestmark = [
    pytest.mark.heavy,
    # transformers' and torch's own, at import and at load
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]

IDS = [[256, 5, 17, 200, 3, 99, 40, 41]]


@pytest.fixture(scope="module")
def hf():
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    return torch, transformers


def load(hf, path, **options):
    _, transformers = hf
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        path, output_loading_info=True, **options
    )
    assert not any(info.values()), info  # nothing missing, unexpected or misshaped
    return model.eval()


def logits(hf, model):
    torch, _ = hf
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.float().numpy()


def reference_trits(hf, linear):
    """What the loaded layer multiplies by: trits and the multiplying scale."""
    torch, _ = hf
    from transformers.integrations.bitnet import BitLinear, WeightQuant, unpack_weights

    if isinstance(linear, BitLinear):
        return unpack_weights(linear.weight, torch.float32).numpy(), 1 / linear.weight_scale.item()
    if linear.online_quant:
        used = WeightQuant.apply(linear.weight.data).float()
        peak = used.abs().max()
        return torch.sign(used).numpy(), peak.item()
    return linear.weight.detach().float().numpy(), linear.weight_scale.item()


def compare(hf, model, checkpoint, rel=2e-6):
    """Every matrix that the loaded model uses is the checkpoint's."""
    for name, entry in checkpoint.entries.items():
        if not entry.ternary:
            continue
        trits, scale = reference_trits(hf, model.get_submodule("model." + name))
        ours = entry.read()
        np.testing.assert_array_equal(ours.trits(), trits[: ours.out_features])
        assert float(ours.scale) == pytest.approx(scale, rel=rel)


@pytest.mark.parametrize("encoding", ["master", "bitlinear", "autobitlinear"])
def test_transformers_loads_what_we_write(hf, encoding, tmp_path):
    # float32 scales, so that nothing is exact by chance
    data, _, _ = tensors(form="master", dtype=np.float32)
    source = write(tmp_path / "s", data, config(quantization=AUTO | {"quantization_mode": "online"},
                                                dtype="float32"))  # fmt: skip
    checkpoint = open_checkpoint(source)
    save_checkpoint(checkpoint, tmp_path / "m", format="huggingface", encoding=encoding)
    model = load(hf, tmp_path / "m")
    compare(hf, model, checkpoint)
    # and it computes what the source computes, to the order of float32 additions
    wanted = logits(hf, load(hf, source))
    np.testing.assert_allclose(logits(hf, model), wanted, atol=3e-5 * np.abs(wanted).max())
    assert open_checkpoint(tmp_path / "m").digest() == checkpoint.digest()


def test_a_bf16_packed_model_loads_as_it_did(hf, tmp_path):
    source = write(tmp_path / "s", tensors()[0], config(quantization=AUTO))
    save_checkpoint(open_checkpoint(source), tmp_path / "m", format="huggingface")
    ours, theirs = load(hf, tmp_path / "m"), load(hf, source)
    assert str(ours.dtype) == str(theirs.dtype) == "torch.bfloat16"
    compare(hf, ours, open_checkpoint(source), rel=0)
    np.testing.assert_array_equal(logits(hf, ours), logits(hf, theirs))


@pytest.mark.parametrize("kept", [True, False], ids=["some float", "all ternary"])
@pytest.mark.parametrize("encoding", ["master", "bitlinear"])
def test_through_bitnet_to_transformers(hf, encoding, kept, tmp_path):
    data, _, _ = tensors()
    quantization = dict(AUTO)
    if kept:
        name = "model.layers.0.mlp.up_proj.weight"
        del data[name + "_scale"]
        data[name] = np.random.default_rng(0).standard_normal((128, 64)).astype(BF16)
        quantization["modules_to_not_convert"] = ["model.layers.0.mlp.up_proj", "lm_head"]
    checkpoint = open_checkpoint(write(tmp_path / "s", data, config(quantization=quantization)))
    save_checkpoint(checkpoint, tmp_path / "m.bitnet")
    native = open_checkpoint(tmp_path / "m.bitnet")
    save_checkpoint(native, tmp_path / "m.hf", encoding=encoding)
    compare(hf, load(hf, tmp_path / "m.hf"), native)


@pytest.mark.parametrize("tied", [True, False])
def test_we_read_what_save_pretrained_writes_online(hf, tied, tmp_path):
    _, transformers = hf
    model = transformers.BitNetForCausalLM(hf_config(transformers, tied, AUTO_ONLINE))
    model.save_pretrained(tmp_path / "m")
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.spec.tie_embeddings is tied and checkpoint.source.encoding == "master"
    compare(hf, load(hf, tmp_path / "m"), checkpoint)


def test_we_read_what_save_pretrained_writes_packed(hf, tmp_path):
    # bitlinear saves; autobitlinear offline raises NotImplementedError in save_pretrained
    source = write(tmp_path / "s", tensors(form="bit")[0], config(quantization=BIT))
    model = load(hf, source)
    model.save_pretrained(tmp_path / "m")
    checkpoint = open_checkpoint(tmp_path / "m")
    compare(hf, model, checkpoint)
    assert checkpoint.digest().trits == open_checkpoint(source).digest().trits


AUTO_ONLINE = {
    "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online",
}  # fmt: skip


def hf_config(transformers, tied, quantization):
    return transformers.BitNetConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
        bos_token_id=256, eos_token_id=257, quantization_config=quantization,
    )  # fmt: skip


def test_our_packing_is_transformers_packing(hf):
    torch, _ = hf
    from transformers.integrations.bitnet import pack_weights, unpack_weights

    from bitnet_jax.formats.huggingface_packing import pack, unpack

    rng = np.random.default_rng(0)
    for out in (4, 8, 10, 64, 130, 131):
        trits = rng.integers(-1, 2, (out, 12)).astype(np.int8)
        theirs = pack_weights(torch.from_numpy(trits.copy())).numpy()
        np.testing.assert_array_equal(pack(trits), theirs)
        np.testing.assert_array_equal(unpack(theirs, out, "x", "y"), trits)
        whole = unpack_weights(torch.from_numpy(theirs), torch.int8).numpy()
        np.testing.assert_array_equal(whole[:out], trits)


@pytest.mark.parametrize("encoding", ["packed", "master"])
def test_the_twin_loads_with_its_tokenizer_and_template(hf, encoding, tmp_path):
    _, transformers = hf
    twin = create("tiny")
    save_created(twin, tmp_path / "m", encoding=encoding)
    model = load(hf, tmp_path / "m", trust_remote_code=False)
    assert np.isfinite(logits(hf, model)).all()
    compare(hf, model, open_checkpoint(tmp_path / "m"), rel=5e-3)  # it loads in bfloat16
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    assert len(tokenizer) == twin.spec.vocab_size
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": " hi "}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|begin_of_text|>User: hi<|eot_id|>Assistant: "


def test_our_config_is_what_transformers_understands(hf, tmp_path):
    _, transformers = hf
    checkpoint = open_checkpoint(write(tmp_path / "s", tensors()[0], config(quantization=AUTO)))
    save_checkpoint(checkpoint, tmp_path / "m", format="huggingface")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "m")
    spec = checkpoint.spec
    assert theirs.rope_parameters["rope_theta"] == spec.rope_theta == 10000.0
    assert theirs.tie_word_embeddings is spec.tie_embeddings
    assert theirs.rms_norm_eps == spec.rms_norm_eps
    assert theirs.max_position_embeddings == spec.max_positions
    written = json.loads((tmp_path / "m" / "config.json").read_text())
    again = json.loads(theirs.to_json_string(use_diff=False))
    assert {key: again[key] for key in written if key in again and key != "dtype"} == {
        key: value for key, value in written.items() if key in again and key != "dtype"
    }
    assert TINY.family == theirs.model_type
