"""Records as `quant_analyze`, `quant_convert` and `quant_validate` return them, made small."""

DIGEST = {"trits": "aa" * 32, "trits_scales": "bb" * 32}
TEXT = {
    "source": "python standard library, held-out part",
    "windows": 32,
    "length": 128,
    "tokens": 4096,
    "sha256": "cc" * 32,
}
RULES = [{"path": "layers.*.mlp.*_proj", "use": "dot", "to": "ternary", "scale": "tensor"}]


def about(value, width=0.1):
    return {"value": value, "low": value - width * abs(value), "high": value + width * abs(value)}


def losses():
    return {
        "loss_before": about(3.5),
        "loss_after": about(4.25),
        "loss_change": about(0.75),
        "perplexity_before": about(33.0),
        "perplexity_after": about(70.0),
        "perplexity_ratio": about(2.117),
        "top1_agreement": about(0.5),
    }


def _layer(name, kl, gain, quick):
    row = {
        "name": name,
        "shape": [64, 32],
        "parameters": 2048,
        "kind": "ternary",
        "scale": "tensor",
        "bits_per_weight": 2.016,
        "nmse": 0.25,
        "sqnr_db": 6.02,
        "zero_share": 0.3125,
        "output_nmse": 0.26,
        "activations": {"rms": 1.0, "absmax": 5.0, "crest": 2.5, "outlier_channels": 0.0},
        "alone": {"predicted_kl": kl * 1.1},
        "kept": {"predicted_kl_gain": gain * 0.9},
    }
    if not quick:
        row["alone"] |= {"kl": about(kl), "loss_change": about(kl)}
        row["kept"] |= {"kl_gain": about(gain), "loss_gain": about(gain)}
    return row


def analyze_record(quick=False):
    names = ["layers.0.mlp.down_proj", "layers.0.mlp.gate_proj", "layers.0.mlp.up_proj"]
    layers = [
        _layer(name, kl, gain, quick)
        for name, kl, gain in zip(names, (0.3, 0.1, 0.2), (0.2, 0.1, -0.05), strict=True)
    ]
    order = {"predicted": names}
    if not quick:
        order |= {"measured": names, "agreement": {"spearman": 0.9, "low": 0.7, "high": 1.0}}
    price = {name: value for name, value in losses().items() if "perplexity_" not in name}
    return {
        "model": "model.hf",
        "source": {"path": "model.hf"},
        "precision": "1.58",
        "rules": RULES,
        "text": TEXT,
        "price": {**price, "perplexity_ratio": about(2.117), "kl": about(0.6)},
        "layers": layers,
        "order": {"alone": dict(order), "kept": dict(order)},
        "keep": {
            "by": "predicted gain" if quick else "measured gain",
            "order": names,
            "curve": [
                {
                    "count": count,
                    "share_of_weights": count / 3,
                    "loss_change": about(0.75 - count / 4),
                    "kl": about(0.6 - count / 5),
                }
                for count in (0, 1, 2, 3)
            ],
            "halves_the_kl": names[:2],
        },
        "recovery": {"recipe": "unknown", "tokens": "unknown"},
    }


def convert_record():
    return {
        "source": {"path": "model.hf"},
        "source_format": "huggingface",
        "format": "bitnet",
        "encoding": "packed",
        "digest_before": DIGEST,
        "digest_after": DIGEST,
        "scales_changed": [],
        "max_logit_difference": 0.0,
        "findings": [],
        "allowed": [],
        "outputs": ["model.bitnet"],
        "receipt": "model.receipt.json",
        "quantized": {
            "precision": "1.58",
            "method": "absmean",
            "rules": RULES,
            "linears": 3,
            "weights": 6144,
        },
        "losses": losses(),
        "text": TEXT,
    }


def validate_record(passed=True, metric="ppl"):
    value = 0.02 if passed else 0.5
    return {
        "metric": metric,
        **about(value),
        "tolerance": 0.03,
        "passed": passed,
        "certain": True,
        **losses(),
        "model": {"path": "quantized.bitnet"},
        "reference": {"path": "original.hf"},
        "text": TEXT,
    }
