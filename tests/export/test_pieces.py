"""A written decoder cut into pieces: together they are the graph, and compute what it computes."""

import dataclasses
import functools

import ml_dtypes
import numpy as np
import onnx
import pytest

from bitnet_jax.core.errors import InternalError
from bitnet_jax.export import pieces
from bitnet_jax.export.decoder import past_names, present_names
from bitnet_jax.export.measure import row_logits, session
from bitnet_jax.export.measure_pieces import WrittenDecoder
from bitnet_jax.export.model import describe, write_model
from bitnet_jax.export.pieces import Piece, check_cut, cut, weights
from bitnet_jax.export.profiles import PROFILES
from bitnet_jax.models.families import FAMILIES
from bitnet_jax.runtime.stepwise import Stepwise, form_of, narrow_floats
from bitnet_jax.workflows.by_piece import judged
from tests.export.models import small_checkpoint, some_tokens
from tests.tiny import tiny_of

LAYER = 40_000  # a little more than a layer has
LENGTHS = (12, 3, 11, 9)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Checkpoint and file of three layers in a profile; each made once."""

    @functools.cache
    def make(profile="portable", tied=True):
        folder = tmp_path_factory.mktemp(profile)
        checkpoint = small_checkpoint(
            folder, num_layers=3, dtype=ml_dtypes.bfloat16, tie_embeddings=tied
        )
        write_model(checkpoint, describe(checkpoint), PROFILES[profile], folder / "m.onnx")
        return checkpoint, folder / "m.onnx"

    return make


def graph_of(made, **which):
    checkpoint, path = made(**which)
    names = past_names(checkpoint.spec), present_names(checkpoint.spec)
    return onnx.load(path, load_external_data=False), dict(zip(*names, strict=True))


def test_few_weights_are_one_piece(made):
    model, carried = graph_of(made)
    (piece,) = cut(model, carried)
    assert len(piece.nodes) == len(model.graph.node)
    assert sorted(piece.inputs) == sorted(item.name for item in model.graph.input)
    assert sorted(piece.outputs) == sorted(item.name for item in model.graph.output)


@pytest.mark.parametrize("most", [LAYER, LAYER // 8, 1])
def test_the_pieces_are_the_graph(made, most):
    model, carried = graph_of(made)
    found = cut(model, carried, most)
    check_cut(model, found)
    assert len(found) > 3
    for name, result in carried.items():  # who reads a layer's cache makes what it becomes
        assert any(name in piece.inputs and result in piece.outputs for piece in found)
        assert sum(name in piece.inputs for piece in found) == 1


def test_a_piece_holds_no_more_than_it_may(made):
    model, carried = graph_of(made)
    large = weights(model)
    found = cut(model, carried, LAYER)
    for piece in found:
        read = {name for node in piece.nodes for name in node.input
                if name in large and node.op_type != "Gather"}  # fmt: skip
        assert sum(pieces._bytes(large[name]) for name in read) <= LAYER
    # Between layers: the residual stream, a cache's two, what all layers share.
    assert all(len(piece.outputs) < 8 for piece in found[1:])


def test_a_table_that_is_too_large_stands_alone(made):
    for tied, name in ((True, "embed_tokens"), (False, "lm_head")):
        model, carried = graph_of(made, tied=tied)
        found = cut(model, carried, 5000)
        check_cut(model, found)
        (piece,) = (piece for piece in found if piece.table)
        assert piece.table == name
        assert [node.op_type for node in piece.nodes] == ["Cast", "Transpose", "MatMul"]


def test_pieces_that_are_not_the_graph_are_told(made):
    model, carried = graph_of(made)
    found = cut(model, carried, LAYER)
    one = found[1]
    fewer = Piece(one.nodes[1:], one.inputs, one.outputs)
    altered = onnx.NodeProto()
    altered.CopyFrom(one.nodes[-1])
    altered.input[0] = found[0].inputs[0]
    other = Piece((*one.nodes[:-1], altered), one.inputs, one.outputs)
    for wrong in (
        found[:-1],
        [found[1], found[0], *found[2:]],
        [found[0], fewer, *found[2:]],
        [found[0], found[1], *found[1:]],
        [found[0], other, *found[2:]],
        [Piece(found[0].nodes, found[0].inputs, found[0].outputs[1:]), *found[1:]],
    ):
        with pytest.raises(InternalError) as caught:
            check_cut(model, wrong)
        assert caught.value.code == "export.pieces"


def test_rows_of_a_table_lie_where_the_table_does(made):
    checkpoint, path = made()
    table = weights(onnx.load(path, load_external_data=False))["embed_tokens"]
    part = pieces._rows(table, 5, 9)
    place = {entry.key: entry.value for entry in part.external_data}
    data = path.with_name(place["location"]).read_bytes()
    start, size = int(place["offset"]), int(place["length"])
    whole = np.asarray(checkpoint.read("embed_tokens"))
    assert data[start : start + size] == whole[5:9].tobytes()


# ------------------------------------------------------------------------------- in ONNX Runtime
def rows_of(checkpoint):
    tokens = some_tokens(checkpoint.spec, len(LENGTHS), max(LENGTHS)).astype(np.int32)
    return tokens, [row[:n] for row, n in zip(tokens, LENGTHS, strict=True)]


@pytest.mark.heavy
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("most", [LAYER, 5000])
def test_pieces_compute_the_bits_that_the_whole_computes(made, monkeypatch, profile, most):
    """Prefill and steps, rows padded; a head by some of its rows at a time."""
    for tied in (True, False):
        checkpoint, path = made(profile=profile, tied=tied)
        _, rows = rows_of(checkpoint)
        whole = row_logits(session(path), checkpoint.spec, rows, 6)
        monkeypatch.setattr(pieces, "PIECE_BYTES", most)
        decoder = WrittenDecoder.open(path, checkpoint.spec)
        found, led = decoder.logits(rows, 6)
        assert len(decoder.pieces) > 1 and led is None
        assert all(np.array_equal(one, other) for one, other in zip(whole, found, strict=True))


@pytest.mark.heavy
def test_led_by_our_values_each_piece_gives_ours(made, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_BYTES", LAYER)
    checkpoint, path = made()
    tokens, rows = rows_of(checkpoint)
    decoder = WrittenDecoder.open(path, checkpoint.spec)
    assert any("layernorm" in name for name in decoder.borders.values())
    logits, met = run_borders(checkpoint, tokens)
    _, led = decoder.logits(rows, 6, met)
    assert len(led.borders) > 1
    for ours, theirs in led.borders.values():
        assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(ours).max()
    for at, (row, found) in enumerate(zip(rows, led.logits, strict=True)):
        assert np.abs(logits[at, : len(row)] - found).max() <= 1e-6 * np.abs(logits).max()
    # Another's values are what the next piece gets: wrong ones come out as such, there alone.
    first, *others = led.borders
    wrong = met | {first: met[first] + 1}
    _, spoiled = decoder.logits(rows, 6, wrong)
    apart = {name: np.abs(ours - theirs).max() for name, (ours, theirs) in spoiled.borders.items()}
    assert apart[first] > 0.9 and max(apart[name] for name in others) > 1e-3


@pytest.mark.heavy
@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_of_every_family_is_a_piece(family, tmp_path):
    """Led by our values, with weights of which each layer matters."""
    spec = dataclasses.replace(tiny_of(family), num_layers=3)
    checkpoint = small_checkpoint(tmp_path, spec=spec)
    write_model(checkpoint, describe(checkpoint), PROFILES["portable"], tmp_path / "m.onnx")
    tokens, rows = rows_of(checkpoint)
    decoder = WrittenDecoder.open(tmp_path / "m.onnx", spec, layers=True)
    logits, states = run_borders(checkpoint, tokens)
    _, led = decoder.logits(rows, 6, states)
    assert {"layers.1.input_layernorm", "layers.2.input_layernorm"} <= led.borders.keys()
    found = judged(
        np.concatenate([logits[at, : len(row)] for at, row in enumerate(rows)]),
        np.concatenate(led.logits),
        led.borders,
    )
    assert found["holds"], found


def run_borders(checkpoint, tokens):
    forms = {name: form_of(value) for name, value in checkpoint.tensors()}
    return Stepwise(checkpoint, forms, narrow_floats(forms), tokens).run_borders()
