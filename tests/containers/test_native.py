"""`.bitnet` files: round trip, determinism, and every single flipped bit."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import safetensors

from bitnet_jax.containers.native import checksum, header_checksum, open_native
from bitnet_jax.containers.native_table import Row
from bitnet_jax.containers.native_write import NativeWriter
from bitnet_jax.containers.safetensors import open_safetensors
from bitnet_jax.core.errors import BadData, CannotCreate

SHAPE = (17, 18)  # two blocks each way, both with padding


def codes_of(seed: int = 0) -> np.ndarray:
    """Random legal codes of a 17x18 matrix, padding 1 (trit 0)."""
    codes = np.ones((32, 32), np.uint8)
    codes[:17, :18] = np.random.default_rng(seed).integers(0, 3, SHAPE)
    lines = codes.reshape(2, 16, 2, 4, 4).transpose(0, 2, 1, 4, 3)  # ob ib r p j
    return (lines << np.array([0, 2, 4, 6], np.uint8)).sum(-1).astype(np.uint8).reshape(2, 2, 64)


def row(**changes) -> Row:
    values = dict(
        shape=SHAPE, dtype="bfloat16", stack_axes=(), out_axes=(0,), in_axes=(1,),
        scale_kind="row", group_size=0, scale_dtype="bfloat16", scales=(0, 0),
    )  # fmt: skip
    return Row(**(values | changes))


def build(codes=None, scale=None, floats=None) -> bytes:
    stream = io.BytesIO()
    floats = {"norm": np.arange(5, dtype="<f4")} if floats is None else floats
    writer = NativeWriter(
        stream,
        spec={"family": "bitnet", "é": 1},
        ternary={"q": (SHAPE, "bfloat16"), "r": (SHAPE, "bfloat16")},
        floats={name: (value.shape, value.dtype) for name, value in floats.items()},
        files={"tokenizer.json": b'{"a":1}'},
        origin={"format": "test"},
        producer="test",
    )
    scale = np.linspace(1, 2, 17, dtype="<f4") if scale is None else scale
    writer.add_ternary("q", row(), codes_of() if codes is None else codes, scale)
    writer.add_ternary("r", row(scale_kind="tensor"), codes_of(1), np.array(0.5, "<f4"))
    for name, value in floats.items():
        writer.add_float(name, value)
    writer.finish({"trits": "00", "trits_scales": "11"})
    return stream.getvalue()


def save(tmp_path, data: bytes):
    path = tmp_path / "m.bitnet"
    path.write_bytes(data)
    return path


def test_round_trip(tmp_path):
    file = open_native(save(tmp_path, build()))
    file.verify_all()
    np.testing.assert_array_equal(file.read_codes("q"), codes_of())
    np.testing.assert_array_equal(file.read_scale("q"), np.linspace(1, 2, 17, dtype="<f4"))
    assert file.read_scale("r").shape == () and file.read_scale("r") == 0.5
    np.testing.assert_array_equal(file.read_float("norm"), np.arange(5))
    assert file.read_file("tokenizer.json") == b'{"a":1}'
    assert (file.files, file.floats) == (("tokenizer.json",), ("norm",))
    assert file.spec == {"family": "bitnet", "é": 1}
    assert file.digests == {"trits": "00", "trits_scales": "11"}
    assert file.origin == {"format": "test"}


def test_same_input_same_bytes():
    assert build() == build()


def test_is_a_safetensors_file_with_each_tensor_on_a_64_byte_line(tmp_path):
    path = save(tmp_path, build())
    with safetensors.safe_open(path, "np") as real:
        np.testing.assert_array_equal(real.get_tensor("q"), codes_of())
        assert real.metadata()["format"] == "bitnet"
    for name, info in open_safetensors(path).tensors.items():
        assert name.startswith("__pad__") or info.begin % 64 == 0


def test_a_stacked_tensor_with_group_scales(tmp_path):
    stream = io.BytesIO()
    shape = (2, 32, 16)  # [layers, in, out]
    writer = NativeWriter(stream, {}, {"w": (shape, "float32")}, {}, {}, {}, "test")
    stacked = row(
        shape=shape, dtype="float32", stack_axes=(0,), in_axes=(1,), out_axes=(2,),
        scale_kind="group", group_size=16, scale_dtype="float32",
    )  # fmt: skip
    scale = np.arange(1, 65, dtype="<f4").reshape(2, 16, 2)
    writer.add_ternary("w", stacked, np.full((2, 1, 2, 64), 0x55, np.uint8), scale)
    writer.finish({})
    file = open_native(save(tmp_path, stream.getvalue()))
    np.testing.assert_array_equal(file.read_scale("w"), scale)
    assert file.read_codes("w").shape == (2, 1, 2, 64)


@pytest.mark.parametrize("change", [{"kind": "int8"}, {"layout": "i8.rows"}], ids=str)
def test_a_kind_or_layout_that_version_1_lacks_is_not_written(change):
    writer = NativeWriter(io.BytesIO(), {}, {"w": (SHAPE, "float32")}, {}, {}, {}, "test")
    with pytest.raises(CannotCreate, match="tensor `w` is") as caught:
        writer.add_ternary("w", row(**change), np.zeros(SHAPE, np.int8), np.ones(17, "<f4"))
    assert caught.value.code == "bitnet.kind"


def test_every_flipped_bit_is_noticed(tmp_path):
    good = build()
    header = 8 + int.from_bytes(good[:8], "little")
    rng = np.random.default_rng(0)
    for position in {*range(8), *rng.integers(8, header, 150), *range(header, len(good), 3)}:
        data = bytearray(good)
        data[position] ^= 1 << int(rng.integers(0, 8))
        path = save(tmp_path, bytes(data))
        with pytest.raises(BadData):
            open_native(path).verify_all()


def test_a_flipped_weight_names_the_tensor_and_can_be_let_through(tmp_path):
    good = bytearray(build())
    info = open_safetensors(save(tmp_path, bytes(good))).tensors["norm"]
    good[info.begin + 2] ^= 1
    path = save(tmp_path, bytes(good))
    with pytest.raises(BadData, match="`norm`") as caught:
        open_native(path).read_float("norm")
    assert caught.value.code == "bitnet.checksum" and caught.value.tensor == "norm"
    assert open_native(path, verify=False).read_float("norm").size == 5


def edited(change) -> bytes:
    """A file whose metadata `change` altered, sealed again as an honest writer would."""
    good = build()
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    metadata = header["__metadata__"]
    change(metadata)
    metadata["header_checksum"] = "0" * 16
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw = raw.ljust(length + max(0, -(-(len(raw) - length) // 64) * 64))
    seal = header_checksum(raw, "0" * 16).encode()
    raw = raw.replace(b'"header_checksum":"' + b"0" * 16, b'"header_checksum":"' + seal)
    return len(raw).to_bytes(8, "little") + raw + good[8 + length :]


def table_with(**changes):
    def change(metadata):
        table = json.loads(metadata["tensors"])
        table["q"] |= changes
        metadata["tensors"] = json.dumps(table)

    return change


CASES = {
    "version": (lambda m: m.update(version="2"), "bitnet.version"),
    "feature": (lambda m: m.update(must_understand='["zip"]'), "bitnet.unknown_feature"),
    "layout": (table_with(layout="t9"), "bitnet.unknown_layout"),
    "kind": (table_with(kind="int3"), "bitnet.unknown_kind"),
    "a layout of another kind": (table_with(kind="int4"), "bitnet.table"),
    "scale kind": (table_with(scale_kind="column"), "bitnet.table"),
    "scale dtype": (table_with(scale_dtype="int8"), "bitnet.table"),
    "shape": (table_with(shape=[17, 40]), "bitnet.table"),
    "shape of nothing": (table_with(shape=[0, 18]), "bitnet.table"),
    "negative": (table_with(shape=[-17, 18]), "bitnet.table"),
    "axes": (table_with(out_axes=[1]), "bitnet.table"),
    "group": (table_with(scale_kind="group", group_size=7), "bitnet.table"),
    "slice moved": (table_with(scales=[1, 17]), "bitnet.scale_slice"),
    "slice length": (table_with(scales=[0, 16]), "bitnet.table"),
    "no spec": (lambda m: m.pop("spec"), "bitnet.metadata"),
    "spec": (lambda m: m.update(spec="{"), "bitnet.metadata"),
    "spec list": (lambda m: m.update(spec="[]"), "bitnet.metadata"),
    "duplicate": (lambda m: m.update(tensors='{"q":{},"q":{}}'), "bitnet.metadata"),
    "no checksum": (lambda m: m.update(checksums="{}"), "bitnet.table"),
    "no table": (lambda m: m.update(tensors="{}"), "bitnet.scale_slice"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_impossible_header_is_refused_though_its_checksum_holds(tmp_path, case):
    change, code = CASES[case]
    with pytest.raises(BadData) as caught:
        open_native(save(tmp_path, edited(change)))
    assert caught.value.code == code


def test_an_illegal_code_is_counted_and_located(tmp_path):
    codes = codes_of()
    codes[0, 1, 4 * 3 + 1] |= 3  # row 3, column 16 + 1, pair 0
    with pytest.raises(BadData, match=r"1 codes are 0b11.*\[3, 17\]") as caught:
        open_native(save(tmp_path, build(codes))).read_codes("q")
    assert caught.value.code == "bitnet.illegal_code"


@pytest.mark.parametrize("place", [(0, 1, 2), (1, 0, 4)])  # column 18, row 17
def test_padding_codes_must_be_zero(tmp_path, place):
    codes = codes_of()
    codes[place] = codes[place] & 0xFC | 2
    with pytest.raises(BadData) as caught:
        open_native(save(tmp_path, build(codes))).read_codes("q")
    assert caught.value.code == "bitnet.padding"


def dense_file(tmp_path, place=None, byte=0):
    """A matrix in layout t1.16x20, one byte changed."""
    codes = np.full((2, 1, 64), 121, np.uint8)  # 17 x 18: 20 columns are one line
    if place:
        codes[place] = byte
    stream = io.BytesIO()
    writer = NativeWriter(stream, {}, {"w": (SHAPE, "bfloat16")}, {}, {}, {}, "test")
    writer.add_ternary("w", row(layout="t1.16x20"), codes, np.ones(17, "<f4"))
    writer.finish({})
    return open_native(save(tmp_path, stream.getvalue())), codes


def test_five_trits_a_byte_are_read_as_written(tmp_path):
    file, codes = dense_file(tmp_path, (0, 0, 2), 121 - 27)  # column 14
    np.testing.assert_array_equal(file.read_codes("w"), codes)


@pytest.mark.parametrize("place", [(0, 0, 2), (1, 0, 4)])  # column 18 + ..., row 17
def test_padding_of_five_trits_a_byte_must_be_zero(tmp_path, place):
    file, _ = dense_file(tmp_path, place, 121 + 81)  # the fifth: columns 16 to 19
    with pytest.raises(BadData) as caught:
        file.read_codes("w")
    assert caught.value.code == "bitnet.padding"


def test_a_byte_that_is_no_five_trits_is_counted_and_located(tmp_path):
    file, _ = dense_file(tmp_path, (0, 0, 4 * 3 + 1), 243)
    with pytest.raises(BadData, match=r"1 bytes are above 242.*\[3, 1\]") as caught:
        file.read_codes("w")
    assert caught.value.code == "bitnet.illegal_code"


def test_groups_of_five_trits_a_byte_are_whole_lines(tmp_path):
    def change(metadata):
        table = json.loads(metadata["tensors"])
        table["q"].update(layout="t1.16x20", scale_kind="group", group_size=9)
        metadata.update(tensors=json.dumps(table))

    with pytest.raises(BadData, match="groups of a multiple of 80"):
        open_native(save(tmp_path, edited(change)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0, 1e-40])
def test_an_impossible_scale_is_refused(tmp_path, value):
    scale = np.ones(17, "<f4")
    scale[4] = value
    with pytest.raises(BadData, match="index 4") as caught:
        open_native(save(tmp_path, build(scale=scale))).read_scale("q")
    assert caught.value.code == "scale.invalid"


def test_an_ordinary_safetensors_file_is_not_taken_for_one(tmp_path):
    import safetensors.numpy

    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(3)}, path)
    with pytest.raises(BadData) as caught:
        open_native(path)
    assert caught.value.code == "bitnet.format"


def test_checksum_is_xxh3_64():
    assert checksum(np.zeros(0, np.uint8)) == "2d06800538d394c2"
