"""The corpus: same texts, same order, same split, and errors that name the line."""

from __future__ import annotations

import json

import pytest

from bitnet_jax.core.errors import BadData, NoInput
from bitnet_jax.train.corpus import Document, _split, is_heldout, python_corpus, read_files


@pytest.fixture(scope="module")
def corpus():
    return python_corpus(max_bytes=2_000_000)


def test_is_the_same_twice(corpus):
    assert corpus.report() == python_corpus(max_bytes=2_000_000).report()


def test_reports_what_it_holds(corpus):
    report = corpus.report()
    for part in ("train", "heldout"):
        assert report[part]["files"] > 0
        assert len(report[part]["sha256"]) == 64
    total = report["train"]["bytes"] + report["heldout"]["bytes"]
    assert 1_500_000 < total <= 2_000_000


def test_holds_sources_help_and_docstrings():
    everything = python_corpus()
    whole = {d.name for d in (*everything.train, *everything.heldout)}
    assert {"ast.py", "json/decoder.py", "docstrings/builtins"} <= whole
    assert not any(name.startswith(("test/", "site-packages/", "encodings/")) for name in whole)


def test_train_and_heldout_share_no_document(corpus):
    assert not {d.name for d in corpus.train} & {d.name for d in corpus.heldout}


def test_another_document_moves_none():
    documents = [Document(f"{i}.py", "x") for i in range(200)]
    before = {d.name for d in _split(documents, "", ()).heldout}
    after = {d.name for d in _split([*documents, Document("new.py", "x")], "", ()).heldout}
    assert before == after - {"new.py"}
    assert 3 < len(before) < 20


def test_reads_text_and_jsonl(tmp_path):
    (tmp_path / "a.txt").write_text("plain text")
    lines = [json.dumps({"text": f"line {i} \u2028 still the same line"}) for i in range(60)]
    (tmp_path / "b.jsonl").write_text("\n".join(lines) + "\n")
    corpus = read_files([tmp_path])
    names = [d.name for d in (*corpus.train, *corpus.heldout)]
    assert sorted(names) == sorted(["a.txt", *(f"b.jsonl:{i}" for i in range(1, 61))])
    assert corpus.heldout and all(is_heldout(d.name) for d in corpus.heldout)


def test_one_file_holds_out_its_tail(tmp_path):
    text = "".join(f"{i} " for i in range(1000))
    (tmp_path / "one.txt").write_text(text)
    corpus = read_files([tmp_path / "one.txt"])
    assert corpus.train[0].text + corpus.heldout[0].text == text
    assert len(corpus.heldout[0].text) == len(text) // 20


BAD_LINES = {
    "not json": ("{", "train.data_json"),
    "no object": ("[1]", "train.data_key"),
    "no text": ('{"texts": "a"}', "train.data_key"),
    "text is no string": ('{"text": 1}', "train.data_key"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_jsonl_names_its_line(tmp_path, case):
    line, code = BAD_LINES[case]
    (tmp_path / "x.jsonl").write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(BadData, match=r"x\.jsonl:2") as caught:
        read_files([tmp_path / "x.jsonl"])
    assert caught.value.code == code


def test_missing_file(tmp_path):
    with pytest.raises(NoInput):
        read_files([tmp_path / "nothing.txt"])


def test_not_text(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadData, match="UTF-8"):
        read_files([tmp_path / "x.txt"])


def test_no_text_at_all(tmp_path):
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(BadData) as caught:
        read_files([tmp_path])
    assert caught.value.code == "train.data_empty"
