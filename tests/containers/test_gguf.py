"""GGUF files byte by byte: what is written, and what is refused before it is believed."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from bitnet_jax.containers import gguf_types as types
from bitnet_jax.containers.gguf import open_gguf_file
from bitnet_jax.containers.gguf_write import GgufWriter, Planned
from bitnet_jax.core.errors import BadData, CannotCreate, InternalError

Q, I = "<Q", "<I"


def text(word: str | bytes) -> bytes:
    data = word.encode() if isinstance(word, str) else word
    return struct.pack(Q, len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack(I, kind) + value


def tensor(name="t", sizes=(8,), kind=0, offset=0) -> bytes:
    shape = b"".join(struct.pack(Q, size) for size in sizes)
    return text(name) + struct.pack(I, len(sizes)) + shape + struct.pack("<IQ", kind, offset)


def file(keys=(), tensors=(), data=b"", version=3, counts=None, align=32) -> bytes:
    """A whole file, its header padded."""
    n_tensors, n_keys = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys)
    head += b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % align) + data


NAMED = key("general.architecture", 8, text("bitnet"))
ONE = file([NAMED], [tensor()], bytes(range(32)))


def opened(tmp_path, data: bytes):
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    return open_gguf_file(path)


def test_a_file_made_by_hand(tmp_path):
    keys = [
        NAMED,
        key("u8", 0, b"\xff"),
        key("i8", 1, b"\xff"),
        key("u16", 2, b"\1\2"),
        key("f32", 6, struct.pack("<f", 0.5)),
        key("yes", 7, b"\1"),
        key("u64", 10, struct.pack(Q, 1 << 63)),
        key("f64", 12, struct.pack("<d", 1e-300)),
        key("words", 9, struct.pack("<IQ", 8, 2) + text("a") + text("é")),
        key("numbers", 9, struct.pack("<IQ", 5, 3) + struct.pack("<3i", 1, -2, 3)),
        key("truths", 9, struct.pack("<IQ", 7, 2) + b"\0\1"),
    ]
    data = bytes(range(24)) + bytes(8) + bytes(range(6)) + bytes(26)
    rows = [tensor("a", (3, 2), 0), tensor("b", (3,), 1, 32)]
    found = opened(tmp_path, file(keys, rows, data))
    assert found.version == 3 and found.metadata["u8"] == 255 and found.metadata["i8"] == -1
    assert found.metadata["u16"] == 513 and found.metadata["f32"] == 0.5
    assert found.metadata["yes"] is True and found.metadata["u64"] == 1 << 63
    assert found.metadata["f64"] == 1e-300 and found.metadata["words"] == ["a", "é"]
    np.testing.assert_array_equal(found.metadata["numbers"], [1, -2, 3])
    np.testing.assert_array_equal(found.metadata["truths"], [False, True])
    assert found.info("a").shape == (2, 3) and found.info("b").type.name == "F16"
    assert found.read_bytes("a").tobytes() == bytes(range(24))
    assert found.read_prefix("b", 4).tobytes() == bytes(range(4))
    with pytest.raises(BadData, match="has no tensor `c`"):
        found.info("c")


def test_the_writer_gives_those_bytes(tmp_path):
    stream = io.BytesIO()
    metadata = {
        "general.architecture": ("string", "bitnet"),
        "u16": ("u16", 513),
        "words": ("[string]", ["a", "é"]),
        "numbers": ("[i32]", np.array([1, -2, 3])),
        "yes": ("bool", True),
    }
    plan = [Planned("a", types.TYPES["F32"], (2, 3)), Planned("b", types.TYPES["F16"], (3,))]
    writer = GgufWriter(stream, metadata, plan)
    a, b = np.arange(6, dtype="<f4").reshape(2, 3), np.arange(3, dtype="<f2")
    with pytest.raises(InternalError, match="planned"):
        writer.write("b", b)
    writer.write("a", a.T.copy().T)  # of another layout in memory
    with pytest.raises(InternalError, match="was not written"):
        writer.finish()
    writer.write("b", b)
    writer.finish()
    keys = [
        NAMED,
        key("u16", 2, b"\1\2"),
        key("words", 9, struct.pack("<IQ", 8, 2) + text("a") + text("é")),
        key("numbers", 9, struct.pack("<IQ", 5, 3) + struct.pack("<3i", 1, -2, 3)),
        key("yes", 7, b"\1"),
    ]
    data = a.tobytes() + bytes(8) + b.tobytes() + bytes(26)
    rows = [tensor("a", (3, 2), 0), tensor("b", (3,), 1, 32)]
    assert stream.getvalue() == file(keys, rows, data)
    assert opened(tmp_path, stream.getvalue()).metadata["words"] == ["a", "é"]


def test_a_name_that_ggml_cannot_hold_is_not_written():
    plan = [Planned("n" * 64, types.TYPES["F32"], (1,))]
    with pytest.raises(CannotCreate, match="63 bytes"):
        GgufWriter(io.BytesIO(), {}, plan)


@pytest.mark.parametrize("version", [2, 3])
def test_versions_that_are_read(version, tmp_path):
    assert opened(tmp_path, file([NAMED], [], version=version)).version == version


def test_data_at_another_alignment(tmp_path):
    aligned = key("general.alignment", 4, struct.pack(I, 64))
    rows = [tensor("a", (1,)), tensor("b", (1,), 0, 64)]
    data = struct.pack("<f", 1) + bytes(60) + struct.pack("<f", 2)
    found = opened(tmp_path, file([aligned], rows, data, align=64))
    assert found.read_bytes("b").view("<f4")[0] == 2


HUGE = (1 << 64) - 1
# case -> (the file, the code, a word of the message)
REFUSED = {
    "no magic": (b"GGUB" + ONE[4:], "file.wrong_kind", "GGUF file was expected"),
    "three bytes": (b"GGU", "file.wrong_kind", "expected"),
    "the magic alone": (b"GGUF", "gguf.truncated", "version"),
    "version 1": (file(version=1), "gguf.version", "version 1"),
    "version 4": (file(version=4), "gguf.version", "version 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "gguf.big_endian", "big-endian"),
    # CVE-2024-21802, CVE-2025-53630, CVE-2026-27940: counts whose product overflows
    "tensors without number": (file(counts=(HUGE, 0)), "gguf.count", "tensors"),
    "tensors that overflow": (file(counts=(1 << 60, 0)), "gguf.count", "tensors"),
    "tensors more than fit": (file([NAMED], counts=(9, 1)), "gguf.count", "tensors"),
    "keys without number": (file(counts=(0, HUGE)), "gguf.count", "keys"),
    "a key as long as the world": (
        file([struct.pack(Q, HUGE) + b"a"], counts=(0, 1), data=bytes(99)), "gguf.string", "key"),
    "a key beyond the file": (
        file([struct.pack(Q, 5000) + b"a"], counts=(0, 1), data=bytes(99)),
        "gguf.truncated", "key"),
    "a string beyond the file": (
        file([key("k", 8, struct.pack(Q, 1 << 62))], data=bytes(99)), "gguf.truncated", "claims"),
    "a string that wraps around": (
        file([key("k", 8, struct.pack(Q, HUGE))], data=bytes(99)), "gguf.truncated", "claims"),
    "a string that is not UTF-8": (file([key("k", 8, text(b"\xff"))]), "gguf.string", "UTF-8"),
    "an empty key": (file([key("", 0, b"\0")]), "gguf.key", "no name"),
    "a key with a control character": (file([key("a\n", 0, b"\0")]), "gguf.key", "no name"),
    "a key twice": (file([NAMED, NAMED]), "gguf.duplicate", "twice"),
    "a value of no type": (file([key("k", 13, b"\0")]), "gguf.value_type", "type 13"),
    "a truth of 2": (file([key("k", 7, b"\2")]), "gguf.value", "value 2"),
    "an array of arrays": (
        file([key("k", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 0, 0))]),
        "gguf.value_type", "array of arrays"),
    "an array of no type": (
        file([key("k", 9, struct.pack("<IQ", 99, 1))]), "gguf.value_type", "type 99"),
    "an array that overflows": (
        file([key("k", 9, struct.pack("<IQ", 10, 1 << 61))], data=bytes(64)),
        "gguf.truncated", "claims"),
    "strings without number": (
        file([key("k", 9, struct.pack("<IQ", 8, HUGE))], data=bytes(64)), "gguf.count", "strings"),
    "an alignment of 0": (
        file([key("general.alignment", 4, struct.pack(I, 0))]), "gguf.alignment", "power of two"),
    "an alignment of 24": (
        file([key("general.alignment", 4, struct.pack(I, 24))]), "gguf.alignment", "is 24"),
    "an alignment of 2^31": (
        file([key("general.alignment", 4, struct.pack(I, 1 << 31))]), "gguf.alignment", "power"),
    "an alignment in words": (
        file([key("general.alignment", 8, text("32"))]), "gguf.alignment", "power"),
    "a tensor without a name": (file([], [tensor("")], bytes(32)), "gguf.name", "empty"),
    "a name of 65 letters": (file([], [tensor("n" * 65)], bytes(32)), "gguf.string", "65 bytes"),
    "a name twice": (
        file([], [tensor("a"), tensor("a", offset=32)], bytes(64)), "gguf.duplicate", "twice"),
    "rank 5": (file([], [tensor(sizes=(1,) * 5)], bytes(32)), "gguf.shape", "rank 5"),
    "rank 2^32": (
        file([], [text("a") + struct.pack(I, (1 << 32) - 1)], bytes(64)), "gguf.shape", "rank"),
    "a size of 0": (file([], [tensor(sizes=(0, 8))]), "gguf.shape", "empty"),
    # CVE-2026-33298: sizes whose product is small again
    "a product that overflows": (
        file([], [tensor(sizes=(1 << 32, 1 << 32))], bytes(32)), "gguf.shape", "overflows"),
    "an absurd size": (file([], [tensor(sizes=(1 << 63,))]), "gguf.shape", "overflows"),
    "a type of no number": (file([], [tensor(kind=999)], bytes(32)), "gguf.type", "type is 999"),
    "a type not read here": (
        file([], [tensor(kind=12, sizes=(256,))], bytes(160)), "gguf.type", "Q4_K"),
    "a negative type": (
        file([], [tensor(kind=(1 << 32) - 1)], bytes(32)), "gguf.type", "4294967295"),
    "half a block": (
        file([], [tensor(kind=35, sizes=(128, 2))], bytes(96)), "gguf.shape", "multiple of TQ2_0"),
    # 130 columns: what bitnet.cpp's own converter dies of
    "130 columns of I2_S": (
        file([], [tensor(kind=36, sizes=(130, 128))], bytes(4192)), "gguf.shape", "I2_S's 128"),
    "64 columns of I2_S": (  # only the 64/16 layout has such rows
        file([], [tensor(kind=36, sizes=(192, 128))], bytes(6176)), "gguf.shape", "I2_S's 128"),
    "an offset between": (file([], [tensor(offset=4)], bytes(64)), "gguf.offset", "multiple of 32"),
    "an offset beyond": (file([], [tensor(offset=1 << 40)], bytes(64)), "gguf.truncated", "cut"),
    "an offset that wraps around": (
        file([], [tensor(offset=HUGE - 31)], bytes(64)), "gguf.truncated", "cut"),
    # CVE-2026-7482: a tensor larger than the file
    "a tensor beyond the end": (
        file([], [tensor(sizes=(1000,))], bytes(32)), "gguf.truncated", "cut short"),
    "two tensors in one place": (
        file([], [tensor("a"), tensor("b")], bytes(32)), "gguf.overlap", "ends at byte"),
    "overlapping tensors": (
        file([], [tensor("a", (16,)), tensor("b", offset=32)], bytes(64)), "gguf.overlap", "begin"),
    "a hole": (
        file([], [tensor("a"), tensor("b", offset=64)], bytes(96)), "gguf.hole", "begin at byte"),
    "a hole at the start": (file([], [tensor(offset=32)], bytes(64)), "gguf.hole", "begin"),
    "bytes in the padding": (
        file([], [tensor("a", (1,)), tensor("b", (1,), offset=32)], b"\0\0\0\0\1" + bytes(31)),
        "gguf.padding", "not zero"),
    "bytes after the end": (ONE + bytes(32), "gguf.trailing", "32 bytes stand after"),
    "few bytes after the end": (ONE + b"GGUF", "gguf.padding", "not zero"),
    "cut in the header": (ONE[:60], "gguf.truncated", "left"),
    "cut in the data": (ONE[:-1], "gguf.truncated", "cut short"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case, tmp_path):
    data, code, words = REFUSED[case]
    with pytest.raises(BadData, match=words) as caught:
        opened(tmp_path, data)
    assert caught.value.code == code


@pytest.mark.heavy
def test_the_gguf_package_reads_what_we_write_and_we_what_it_writes(tmp_path):
    import gguf

    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 256)).astype("<f4")
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "bitnet")
    writer.add_uint32("a.number", 7)
    writer.add_array("a.list", ["x", "y"])
    writer.add_tensor("plain", values)
    writer.add_tensor("blocks", gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0),
                      raw_dtype=gguf.GGMLQuantizationType.Q8_0)  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = open_gguf_file(path)
    assert found.metadata["a.number"] == 7 and found.metadata["a.list"] == ["x", "y"]
    assert found.read_bytes("plain").tobytes() == values.tobytes()
    ours = tmp_path / "ours.gguf"
    with open(ours, "wb") as stream:
        plan = [Planned(i.name, i.type, i.shape) for i in found.tensors.values()]
        again = GgufWriter(stream, {"a.list": ("[string]", ["x", "y"])}, plan)
        for planned in plan:
            again.write(planned.name, found.read_bytes(planned.name))
        again.finish()
    reader = gguf.GGUFReader(ours)
    assert {t.name: t.tensor_type.name for t in reader.tensors} == {
        "plain": "F32",
        "blocks": "Q8_0",
    }
    np.testing.assert_array_equal(reader.tensors[0].data, values)
    assert reader.fields["a.list"].contents() == ["x", "y"]
