"""Folders of exported programs: opened to be checked, refused as a source, damage named."""

from __future__ import annotations

import json
import shutil

import pytest

from bitnet_jax.core.errors import BadData, BitnetError
from bitnet_jax.export.stablehlo import write_folder
from bitnet_jax.export.stablehlo_run import check_programs, open_stablehlo
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.stablehlo import is_stablehlo, read_folder
from tests.export.models import small_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    checkpoint = small_checkpoint(folder, num_layers=1)
    write_folder(checkpoint, folder / "m.stablehlo")
    return folder / "m.stablehlo", checkpoint


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "m.stablehlo")


def code_of(call, *given, **named) -> str:
    with pytest.raises(BitnetError) as caught:
        call(*given, **named)
    return caught.value.code


def test_it_is_opened_to_be_checked_and_is_no_source(made):
    path, checkpoint = made
    assert is_stablehlo(path)
    found = open_checkpoint(path, check=True)
    assert found.digest() == checkpoint.digest() and found.source.format == "stablehlo"
    assert set(found.source.detail["files"]) == {file.name for file in path.iterdir()}
    for source in (path, path / "prefill.stablehlo"):
        with pytest.raises(BadData) as caught:
            open_checkpoint(source)
        assert caught.value.code == "stablehlo.not_a_source"
        assert "weights.bitnet" in caught.value.hint
    assert open_checkpoint(path / "weights.bitnet").digest() == checkpoint.digest()


def test_the_programs_hold_no_weights_and_no_path_of_this_machine(made):
    path, _ = made
    folder = read_folder(path)
    for data in folder.programs.values():
        assert b".py" not in data and b"/home" not in data and str(path).encode() not in data
    assert sum(map(len, folder.programs.values())) < 200_000


def test_a_changed_or_missing_file_is_named(copy):
    check_programs(copy)
    program = copy / "decode.stablehlo"
    data = bytearray(program.read_bytes())
    data[len(data) // 2] ^= 1
    program.write_bytes(data)
    assert code_of(check_programs, copy) == "stablehlo.checksum"
    assert code_of(open_checkpoint, copy, check=True) == "stablehlo.checksum"
    program.unlink()
    assert code_of(open_checkpoint, copy, check=True) == "io.not_found"


MANIFESTS = {
    "no JSON": (lambda raw: "{", "stablehlo.manifest"),
    "another format": (lambda raw: {**raw, "format": "x"}, "stablehlo.manifest"),
    "a later version": (lambda raw: {**raw, "version": 2}, "stablehlo.version"),
    "other programs": (lambda raw: {**raw, "programs": {}}, "stablehlo.manifest"),
    "a path": (
        lambda raw: {**raw, "programs": dict.fromkeys(raw["programs"], {"file": "../x"})},
        "stablehlo.manifest",
    ),
    "of other weights": (
        lambda raw: {**raw, "weights": {"digests": {"trits": "0"}}}, "stablehlo.manifest",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_damaged_manifest_is_refused(copy, name):
    change, code = MANIFESTS[name]
    file = copy / "manifest.json"
    changed = change(json.loads(file.read_text()))
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    assert code_of(open_checkpoint, copy, check=True) == code


def put_program(folder, name, data):
    """As a hostile writer seals it: with its own checksum."""
    import xxhash

    (folder / f"{name}.stablehlo").write_bytes(data)
    raw = json.loads((folder / "manifest.json").read_text())
    raw["programs"][name] |= {"bytes": len(data), "xxh3": xxhash.xxh3_64_hexdigest(data)}
    (folder / "manifest.json").write_text(json.dumps(raw))


def test_a_program_that_is_none_or_takes_other_weights_is_refused(copy):
    import jax
    from jax import export

    for data in (b"", b"\0" * 64, (copy / "decode.stablehlo").read_bytes()[:5000]):
        put_program(copy, "decode", data)
        assert code_of(check_programs, copy) == "stablehlo.program"
    other = export.export(jax.jit(lambda w, t, p, c: (t, c)))
    put_program(copy, "decode", bytes(other({"x": 1.0}, 1, 1, [(1.0, 1.0)]).serialize()))
    assert code_of(check_programs, copy) == "stablehlo.inputs"


def test_a_program_that_calls_what_is_outside_of_it_is_refused(copy):
    import jax
    import jax.numpy as jnp
    from jax import export

    from bitnet_jax.containers.native import open_native
    from bitnet_jax.export.stablehlo import parameters_of

    given = parameters_of(open_native(copy / "weights.bitnet"))

    def run(weights, tokens):
        out = jax.ShapeDtypeStruct((2,), jnp.float32)
        return jax.ffi.ffi_call("some_code_of_the_machine", out)(tokens)

    checks = [export.DisabledSafetyCheck.custom_call("some_code_of_the_machine")]
    made = export.export(jax.jit(run), disabled_checks=checks)
    tokens = jax.ShapeDtypeStruct((2,), jnp.float32)
    put_program(copy, "decode", bytes(made(given, tokens).serialize()))
    assert code_of(open_stablehlo, copy) == "stablehlo.custom_call"
