"""The digests against their definition, written out in twenty lines of numpy."""

import hashlib

import numpy as np
import pytest

from bitnet_jax.quant.digest import DigestBuilder, digest
from bitnet_jax.quant.tensor import from_codes
from bitnet_jax.quant.ternary import from_trits


def by_definition(tensors):
    trits_hash = hashlib.sha256(b"bitnet-trits/1\n")
    scales = b""
    for name, (trits, scale, kind) in sorted(tensors.items(), key=lambda item: item[0].encode()):
        shape = ",".join(map(str, trits.shape)).encode()
        trits_hash.update(name.encode() + b"\0" + shape + b"\n")
        codes = [int(t) + 1 for t in trits.reshape(-1)]
        codes += [0] * (-len(codes) % 4)
        for a, b, c, d in zip(*[iter(codes)] * 4, strict=True):
            trits_hash.update(bytes([a | b << 2 | c << 4 | d << 6]))
        scale_shape = ",".join(map(str, scale.shape)).encode()
        scales += name.encode() + b"\0" + kind.encode() + b"\0" + scale_shape + b"\n"
        scales += scale.astype("<f4").tobytes()
    whole = hashlib.sha256(b"bitnet-trits-scales/1\n" + trits_hash.digest() + scales)
    return trits_hash.hexdigest(), whole.hexdigest()


def cases():
    rng = np.random.default_rng(0)
    return {
        "b": (rng.integers(-1, 2, (5, 7)).astype(np.int8), np.float32(0.5).reshape(()), "tensor"),
        "a.1": (rng.integers(-1, 2, (3, 4)).astype(np.int8), np.ones(3, np.float32) / 3, "row"),
        "é": (rng.integers(-1, 2, (2, 3, 5)).astype(np.int8), np.ones(2, np.float32), "tensor"),
    }


def test_whole_bytes_and_odd_widths_agree_with_the_definition():
    rng = np.random.default_rng(1)
    for shape in [(16, 16), (5, 4), (33, 20), (3, 18), (40, 17), (2, 3, 24)]:
        scale = np.ones(shape[:-2], np.float32)
        case = {"w": (rng.integers(-1, 2, shape).astype(np.int8), scale, "tensor")}
        found = digest(packed(case))
        assert (found.trits, found.trits_scales) == by_definition(case), shape


def packed(tensors):
    return {
        name: from_trits(trits, scale, scale_kind=kind)
        for name, (trits, scale, kind) in tensors.items()
    }


def test_the_definition_holds():
    found = digest(packed(cases()))
    assert (found.trits, found.trits_scales) == by_definition(cases())


def test_pinned():
    """Digests are forever: a change of this number breaks every receipt ever written."""
    tensor = from_trits(np.array([[1, 0, -1], [0, 0, 1]], np.int8), np.float32(0.25))
    assert digest({"w": tensor}).to_json() == {
        "trits": "2bc8b6e448f6fd18b584de25f95666a2da4a5a349ff03c764b83ab8dd34609a0",
        "trits_scales": "b4268f2fa449c995f9a71170bb6548c2921ea391b2f44cfb261c6d7f63011127",
    }


@pytest.mark.parametrize("what", ["trit", "name", "shape", "scale", "kind"])
def test_any_change_changes_it(what):
    base, changed = cases(), cases()
    trits, scale, kind = changed["b"]
    if what == "trit":
        trits[0, 0] = (trits[0, 0] + 2) % 3 - 1
    changed["b"] = {
        "trit": (trits, scale, kind),
        "name": (trits, scale, kind),
        "shape": (trits.reshape(7, 5), scale, kind),
        "scale": (trits, np.nextafter(scale, np.float32(1)), kind),
        "kind": (trits, np.full(5, scale, np.float32), "row"),
    }[what]
    if what == "name":
        changed["c"] = changed.pop("b")
    before, after = digest(packed(base)), digest(packed(changed))
    assert before.trits_scales != after.trits_scales
    assert (before.trits == after.trits) == (what in ("scale", "kind"))


def test_other_kinds_are_passed_over():
    tensors = packed(cases())
    other = from_codes(np.ones((4, 8), np.int8), np.float32(0.5), kind="int8")
    assert digest({**tensors, "embed": other}) == digest(tensors)


def test_names_must_come_in_order():
    builder = DigestBuilder()
    tensors = packed(cases())
    builder.add("b", tensors["b"])
    with pytest.raises(ValueError, match="ascending"):
        builder.add("a.1", tensors["a.1"])
