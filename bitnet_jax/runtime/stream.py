"""Token ids to text pieces and a reason for the end: tokenizer and stops combined.

Knows nothing of models: ids come from any iterator (the engine's, a test's).
`TextAssembler` is the same thing driven from outside, for an engine that serves
many sequences at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from bitnet_jax.core.errors import InternalError
from bitnet_jax.runtime.stops import StopRules, StopText
from bitnet_jax.runtime.tokenizer import Tokenizer

Finish = Literal["stop", "length", "eos"]


@dataclass(frozen=True)
class Piece:
    """What one token brought.

    Attributes:
      text: new certain text (may be empty: a split character, a possible stop).
      tokens: the ids that this piece consumed: one, or none in a last piece that
        only lets out held text.
      finish: set in the last piece only: ``eos`` an end id, ``stop`` a stop string,
        ``length`` the ids came to their end.
    """

    text: str
    tokens: tuple[int, ...]
    finish: Finish | None = None


class TextAssembler:
    """Turns one sequence's ids into pieces: `push` each, `end` when there are no more."""

    def __init__(
        self, tokenizer: Tokenizer, stops: StopRules | None = None, *, skip_special: bool = True
    ):
        """Starts a sequence that ends at `stops` (default: only by `end`)."""
        self._stops = stops or StopRules()
        self._decoder = tokenizer.stream(skip_special_tokens=skip_special)
        self._text = StopText(self._stops.strings)
        self.finish: Finish | None = None

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, or None."""
        return self._text.matched

    def push(self, token: int) -> Piece:
        """Returns the piece of `token`; its `finish` is set when the sequence ended.

        An end id gives no text of its own. Where held text turns out to hold a stop
        string just as an end id arrives, the stop is the reason.
        """
        self._refuse_more()
        if token in self._stops.ids:
            return self._last((token,), "eos")
        text = self._text.push(self._decoder.push(token))
        self.finish = "stop" if self.matched is not None else None
        return Piece(text, (token,), self.finish)

    def end(self) -> Piece:
        """Returns the last piece when the ids ran out (`length`)."""
        self._refuse_more()
        return self._last((), "length")

    def _last(self, tokens: tuple[int, ...], reason: Finish) -> Piece:
        text = self._text.push(self._decoder.finish()) + self._text.finish()
        self.finish = "stop" if self.matched is not None else reason
        return Piece(text, tokens, self.finish)

    def _refuse_more(self) -> None:
        if self.finish is not None:
            raise InternalError("stream.finished", f"the sequence ended already ({self.finish})")


def stream_text(
    ids: Iterable[int],
    tokenizer: Tokenizer,
    stops: StopRules | None = None,
    *,
    skip_special: bool = True,
) -> Iterator[Piece]:
    """Yields one piece per id, and a last one whose `finish` says why it ended.

    The iterator of ids is closed when a stop or an end id ends the text, so that
    a generator behind it stops computing.
    """
    assembler = TextAssembler(tokenizer, stops, skip_special=skip_special)
    source = iter(ids)
    try:
        for token in source:
            piece = assembler.push(token)
            yield piece
            if piece.finish is not None:
                return
        yield assembler.end()
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()
