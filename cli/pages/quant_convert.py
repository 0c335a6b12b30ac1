"""The page of `bitnet quant convert`: what it costs, what was written, and its proof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..result import Figures, Pairs, Section, flat, table_of
from . import convert
from .quant_analyze import RULE
from .quant_validate import losses


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: the losses, what was asked, and all that a conversion shows."""
    about = data["quantized"]
    single = [(name, about[name]) for name in ("precision", "method", "linears", "weights")]
    sections: list[Section] = [
        Figures(losses(data["losses"])),
        Pairs(single, title="What was asked"),
        table_of(about["rules"], RULE, title="Rules"),
    ]
    if about.get("layers"):
        sections.append(table_of(about["layers"], title="Error feedback, by linear"))
    sections.append(Pairs(flat(data["text"]), title="Text that both read"))
    return [*sections, *convert.page(data)]
