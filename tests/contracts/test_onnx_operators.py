"""The page of ONNX operators says what the code's table holds."""

from __future__ import annotations

from tests.contracts.onnx_operators import OPERATORS, PAGE, page, standard


def test_the_page_is_what_the_table_makes():
    assert PAGE.read_text() == page(), "python -m tests.contracts.onnx_operators"


def test_every_row_is_of_an_operator_that_exists():
    """Of the standard, today's or an older one's, but for the one that ONNX Runtime adds to it."""
    import onnx

    ever = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    odd = {name for domain, name in OPERATORS if not domain} - ever
    assert odd == {"SimplifiedLayerNormalization"}


def test_most_of_the_standard_is_read():
    known = [name for name, how in standard().items() if how != "no"]
    assert len(known) >= 160
