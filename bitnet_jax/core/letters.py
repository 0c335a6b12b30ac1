"""What a text of a stranger may show: letters, and no command to a terminal or a reader's eye.

The one policy for terminals, reports and CI. Knows neither ANSI nor HTML.
"""

from __future__ import annotations

import unicodedata

# Marks that reorder the letters around them: a name could show as another one.
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Controls, halves of letters, and what ends a line or a paragraph where no line feed does.
_NO_LETTERS = frozenset(("Cc", "Cs", "Zl", "Zp"))


def spelled_out(text: str, keep: str = "\n\t") -> str:
    """Returns `text` with what is no letter, nor in `keep`, spelled out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or _harmless(c) else _spelled(c) for c in text)


def _harmless(letter: str) -> bool:
    noncharacter = ord(letter) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(letter) <= 0xFDEF
    kind = unicodedata.category(letter)
    return not (kind in _NO_LETTERS or letter in _REORDERING or noncharacter)


def _spelled(letter: str) -> str:
    code = ord(letter)
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )
