"""`model publish` shows what would change, and asks."""

import pytest

ROWS = [
    {"file": "config.json", "what": "changed", "before": 10, "after": 12},
    {"file": "old.gguf", "what": "removed", "before": 7, "after": None},
    {"file": "tokenizer.json", "what": "same", "before": 3, "after": 3},
]
RECORD = {
    "repo": "hf://me/x", "exists": False, "private": True, "changes": ROWS, "left_out": ["notes"],
    "published": False, "commit": None,
}  # fmt: skip


@pytest.fixture
def hub(fake_api):
    def publish(model, repo, *, confirm, **rest):
        done = confirm(RECORD)
        return {**RECORD, "published": done, "commit": "c" * 40 if done else None}

    return fake_api(publish=publish)


LINE = ("model", "publish", "m", "hf://me/x", "--private", "--message", "first")


def test_nobody_to_ask(bitnet, hub):
    done = bitnet(*LINE)
    assert done.rc == 2 and "publish.not_confirmed" in done.err and "--yes" in done.err


def test_yes_is_said_ahead(bitnet, hub):
    done = bitnet(*LINE, "--yes")
    assert done.rc == 0 and "published" in done.out
    assert "changed  config.json  (10 -> 12 bytes)" in done.err and "left out: notes" in done.err
    assert "removed  old.gguf" in done.err and "same" not in done.err
    assert "will be private" in done.err
    args, kwargs = hub["publish"]
    assert args == ("m", "hf://me/x") and kwargs["message"] == "first" and kwargs["private"]


ANSWERS = {"y": "published", "Yes": "published", "n": "not published", "": "not published"}


@pytest.mark.parametrize(("answer", "outcome"), [*ANSWERS.items()])
def test_a_person_is_asked(bitnet, hub, answer, outcome):
    done = bitnet(*LINE, stdin=answer + "\n", terminal=True)
    assert done.rc == 0 and "publish to hf://me/x? [y/N]" in done.screen
    assert outcome in done.out and ("not " in done.out) == ("not" in outcome)


def test_the_end_of_the_input_is_no_yes(bitnet, hub):
    assert "not published" in bitnet(*LINE, stdin="", terminal=True).out
