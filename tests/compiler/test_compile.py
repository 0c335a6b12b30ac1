"""Receipts are read off what was compiled."""

import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.compiler.compile import compile_function, hlo_sha256
from bitnet_jax.ops.native import library
from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.transform import ternarize
from bitnet_jax.quant.rules import Rule

RULES = [Rule("w")]
X = jnp.ones((3, 32))


def product(p, x):
    return x + x @ p["w"].T


def packed():
    w = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    return pack(product, {"w": jnp.asarray(w)}, RULES, X)


def receipt_of(fn, implementation=None):
    run = ternarize(fn, RULES, "packed", implementation=implementation)
    return compile_function(run, packed(), X, implementation=implementation).receipt


def test_the_kernel_is_the_one_in_the_module():
    native, xla = receipt_of(product), receipt_of(product, "xla")
    assert native.kernel == f"native ({library.status().isa})"
    assert (native.kernel_calls, native.kernel_reason) == (1, "the fastest here")
    assert (xla.kernel, xla.kernel_calls, xla.kernel_reason) == ("xla", 0, "asked for by name")
    assert native.weight_bytes == 2 * 2 * 64 + 4


def test_a_module_without_the_weight_claims_no_kernel():
    assert receipt_of(lambda p, x: x * 2).kernel == "none"


def test_another_instruction_set_is_another_hash(monkeypatch):
    usable = library.status().usable_isas
    if len(usable) < 2:
        pytest.fail("every machine has two paths: its own, and the portable one")
    found = []
    for isa in usable[:1] + usable[-1:]:
        monkeypatch.setenv("BITNET_ISA", isa)
        found.append(receipt_of(product))
    assert found[0].kernel != found[1].kernel
    assert found[0].hlo_sha256 != found[1].hlo_sha256


def test_the_same_function_elsewhere_is_the_same_hash(tmp_path):
    source = "def product(p, x):\n    return x + x @ p['w'].T\n"
    hashes = set()
    for name, blank in (("a.py", 0), ("b.py", 7)):
        scope: dict = {}
        exec(compile("\n" * blank + source, str(tmp_path / name), "exec"), scope)
        hashes.add(receipt_of(scope["product"]).hlo_sha256)
    assert len(hashes) == 1


def test_the_hash_keeps_what_is_computed():
    text = (
        'HloModule m\n\nFileNames\n1 "/a.py"\n\nROOT %a = f32[] add(%b, %c), metadata={op_name="x"}'
    )
    assert hlo_sha256(text) == hlo_sha256(text.replace("/a.py", "/b.py").replace('"x"', '"y"'))
    assert hlo_sha256(text) != hlo_sha256(text.replace("add", "subtract"))
