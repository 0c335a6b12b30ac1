from __future__ import annotations

from tests.contracts import errors_page


def test_every_code_can_be_found_in_the_source():
    unfollowed = errors_page.scan()[1]
    assert not unfollowed, "give the code as a literal: " + "\n".join(map(str, unfollowed))


def test_codes_are_dotted_lower_case():
    wrong = [r for r in errors_page.scan()[0] if not errors_page.CODE.fullmatch(r.code)]
    assert not wrong


def test_the_page_is_what_the_source_says(repo):
    # Codes first: their difference is the readable part of the failure.
    page = (repo / "docs/errors.md").read_text()
    missing = {r.code for r in errors_page.scan()[0] if f"`{r.code}`" not in page}
    assert not missing, "run `make format`"
    for name, text in errors_page.WRITTEN.items():
        assert (repo / name).read_text() == text(), f"{name} is out of date: run `make format`"
