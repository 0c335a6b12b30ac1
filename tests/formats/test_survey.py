"""One pass over a checkpoint, whoever reads it and in whatever order: the same is known."""

import random
import threading

import numpy as np
import pytest

from bitnet_jax.formats import survey
from bitnet_jax.formats.create import create
from bitnet_jax.formats.doctor import Examiner, examine
from bitnet_jax.formats.survey import Survey, is_large, pieces


@pytest.fixture(scope="module")
def checkpoint():
    return create("tiny", layers=3)


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled", "by threads"])
def test_the_digest_and_the_findings_do_not_depend_on_the_order(checkpoint, order):
    examiner = Examiner(checkpoint)
    seen = Survey(checkpoint, (examiner,))
    watched, names = seen.watched(), sorted(checkpoint.entries)
    if order == "descending":
        names.reverse()
    if order == "shuffled":
        random.Random(0).shuffle(names)
    if order == "by threads":
        parts = [names[at::4] for at in range(4)]
        work = [threading.Thread(target=lambda p=p: [watched.read(n) for n in p]) for p in parts]
        [thread.start() for thread in work]
        [thread.join() for thread in work]
    else:
        [watched.read(name) for name in names]
    assert seen.digest == checkpoint.digest()
    assert examiner.findings(seen.digest) == examine(checkpoint)
    assert seen._builder is not None and not seen._waiting and seen.seen.keys() == set(names)


def test_what_came_too_early_for_memory_is_read_again(checkpoint, monkeypatch):
    monkeypatch.setattr(survey, "_MOST_AHEAD", 100)
    seen = Survey(checkpoint)
    for name in sorted(checkpoint.entries, reverse=True):
        seen.watched().read(name)
    assert seen._builder is None and not seen._waiting
    assert seen.digest == checkpoint.digest()


def test_each_tensor_is_read_once_and_the_rest_at_the_end(checkpoint):
    reads = []

    class Counting:
        def see(self, name, value):
            reads.append(name)

        def begin(self, name):
            return lambda part: reads.append(name) if part is None else None

    seen = Survey(checkpoint, (Counting(),))
    watched = seen.watched()
    for name in ("norm", "norm", "layers.2.mlp.up_proj"):
        watched.read(name)
    seen.read_rest(2)
    assert sorted(reads) == sorted(checkpoint.entries)


def test_in_pieces_and_whole_the_same_is_known(tmp_path, monkeypatch):
    from bitnet_jax.formats.open import open_checkpoint
    from bitnet_jax.formats.save import save_checkpoint

    source = create("tiny", layers=1)
    for path in ("m.bitnet", "m.hf"):
        save_checkpoint(source, tmp_path / path)
    monkeypatch.setattr(survey, "_PIECE", 1 << 10)
    for path in ("m.bitnet", "m.hf"):
        opened = open_checkpoint(tmp_path / path)
        assert is_large(opened.entries["embed_tokens"])
        assert len(list(pieces(opened.entries["embed_tokens"]))) > 10
        whole, parts = Survey(opened), Survey(opened)
        for name in opened.entries:
            whole.see(name, opened.read(name))
        parts.read_rest(2)
        assert parts.seen == whole.seen and parts.digest == whole.digest
        again = tmp_path / f"again-{path}"
        save_checkpoint(opened, again, format="bitnet" if path == "m.bitnet" else "huggingface")
        first, second = tmp_path / path, again
        if path == "m.hf":
            first, second = first / "model.safetensors", second / "model.safetensors"
        assert first.read_bytes() == second.read_bytes()


def test_a_not_a_number_in_the_last_piece_is_found(tmp_path, monkeypatch):
    from bitnet_jax.formats.checkpoint import checkpoint_of
    from bitnet_jax.formats.open import open_checkpoint
    from bitnet_jax.formats.save import save_checkpoint

    source = create("tiny", layers=1)
    params = dict(source.tensors())
    params["embed_tokens"] = np.array(params["embed_tokens"])
    params["embed_tokens"][-1, -1] = np.nan
    save_checkpoint(
        checkpoint_of(source.spec, params, source.tokenizer, source.source), tmp_path / "m.bitnet"
    )
    monkeypatch.setattr(survey, "_PIECE", 1 << 10)
    opened = open_checkpoint(tmp_path / "m.bitnet")
    examiner = Examiner(opened)
    Survey(opened, (examiner,)).read_rest(1)
    [finding] = [f for f in examiner.findings(None) if f.severity == "error"]
    assert (finding.code, finding.tensor) == ("weights.not_finite", "embed_tokens")
    assert "1 of" in finding.message
