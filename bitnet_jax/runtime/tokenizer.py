"""Text to token ids and back, from a checkpoint's own tokenizer.json.

As `transformers.PreTrainedTokenizerFast`, without `transformers`, and with four
differences on purpose:

  * special tokens that stand in the text are ordinary text unless the caller
    allows them (a user who types ``<|eot_id|>`` does not end a turn);
  * truncation and padding that were saved in tokenizer.json are switched off;
  * ``clean_up_tokenization_spaces`` is never applied: it loses text (`a .` and
    `a.` decode alike) and cannot be streamed;
  * every end id that any of the files names is an end id.

Knows nothing of models, chat templates or sampling.
"""

from __future__ import annotations

import codecs
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import tokenizers

from bitnet_jax.core.errors import BadData, BitnetError, UsageError, shown
from bitnet_jax.runtime.tokenizer_growth import check_growth
from bitnet_jax.runtime.tokenizer_patterns import check_patterns, check_runs

if TYPE_CHECKING:
    from bitnet_jax.formats.checkpoint import TokenizerFiles

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
_HINT = "take tokenizer.json and tokenizer_config.json again from where the model came from"


class TextStream(Protocol):
    """Token ids in, text out, in pieces that never split a character."""

    def push(self, token: int) -> str:
        """Returns the text that `token` completes (may be empty)."""
        ...

    def finish(self) -> str:
        """Returns what was held back; the stream is then at its end."""
        ...


class Tokenizer:
    """A tokenizer; immutable after construction, safe to share between threads.

    Attributes:
      bos_id: the id of the beginning token, or None.
      eos_ids: every id that ends a generation, ascending (may be empty).
      special_tokens: text -> id of the tokens marked special.
      named_tokens: ``bos_token``, ``eos_token``, … -> text, as templates want them.
      vocab_size: one more than the highest id: the least row count of an embedding.
    """

    def __init__(self, source: str, named_tokens: Mapping[str, str], generation: Mapping[str, Any]):
        """Builds from the text of a tokenizer.json; `from_files` is the usual way.

        Raises:
          BadData: ``tokenizer.json``, ``tokenizer.slow`` or ``tokenizer.special``.
        """
        found = check_growth(source)
        self._source = source
        self._plain = _load(source, parse_special=False)
        self._squared: bool = _guarded(check_patterns, found, self._plain)
        self.special_tokens: Mapping[str, int] = MappingProxyType(
            {
                token.content: id_
                for id_, token in self._plain.get_added_tokens_decoder().items()
                if token.special
            }
        )
        self.named_tokens: Mapping[str, str] = MappingProxyType(dict(named_tokens))
        self.vocab_size = 1 + max(_vocabulary(found, self._plain), default=-1)
        named = {name: self._id_of(name) for name in ("bos_token", "eos_token")}
        bos = named["bos_token"]
        ends = set(_ids(generation, "eos_token_id"))
        if named["eos_token"] is not None:
            ends.add(named["eos_token"])
        self.bos_id = bos if bos is not None else next(iter(_ids(generation, "bos_token_id")), None)
        self.eos_ids: tuple[int, ...] = tuple(sorted(ends))
        self._byte_level = isinstance(self._plain.decoder, tokenizers.decoders.ByteLevel)

    @classmethod
    def from_files(cls, files: TokenizerFiles) -> Tokenizer:
        """Builds from what a checkpoint holds.

        Raises:
          BadData: ``tokenizer.json`` (not a tokenizer), ``tokenizer.special`` (the
            config names a token or an id that the vocabulary lacks).
        """
        try:
            source = files.tokenizer_json.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadData(
                "tokenizer.json", f"tokenizer.json is not UTF-8: {error}", _HINT
            ) from error
        return cls(source, _named_tokens(files.config), files.generation)

    def encode(
        self, text: str, *, add_special_tokens: bool = True, allow_special: bool = False
    ) -> list[int]:
        """Returns the ids of `text`.

        Args:
          text: any text without lone surrogates; empty is legal.
          add_special_tokens: run the post-processor (most add a beginning token).
          allow_special: parse special tokens that stand in `text`. For text that a
            template wrote, never for text that a user wrote.

        Raises:
          UsageError: ``tokenizer.surrogate``, ``tokenizer.run``.
        """
        refuse_surrogates(text, "the text")
        if self._squared:
            check_runs(text)
        backend = self._parsing if allow_special else self._plain
        return _guarded(backend.encode, text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Returns the text of `ids`; bytes that are not UTF-8 become U+FFFD.

        Ids that the tokenizer lacks (an embedding padded to a round size has such
        rows) have no text.

        Raises:
          UsageError: ``tokenizer.id``: negative or not an integer.
        """
        return _guarded(self._plain.decode, [_checked(i) for i in ids], skip_special_tokens)

    def stream(self, *, skip_special_tokens: bool = True) -> TextStream:
        """Returns an incremental decoder: its pieces joined are `decode` of all ids."""
        if self._byte_level:
            return _ByteStream(self._plain, self.special_tokens.values(), skip_special_tokens)
        return _WindowStream(self._plain, skip_special_tokens)

    def token(self, id_: int) -> str | None:
        """Returns the token as the vocabulary spells it, or None for an unknown id."""
        return self._plain.id_to_token(_checked(id_))

    def id_of(self, token: str) -> int | None:
        """Returns the id of a token spelled as in the vocabulary, or None."""
        return self._plain.token_to_id(token)

    def check_fits(self, rows: int) -> None:
        """Raises unless every id has a row in an embedding of `rows` rows.

        Raises:
          BadData: ``tokenizer.vocabulary``.
        """
        if self.vocab_size > rows:
            raise BadData(
                "tokenizer.vocabulary",
                f"the tokenizer has ids up to {self.vocab_size - 1}, the model only {rows} rows",
                "the tokenizer belongs to another model; " + _HINT,
            )

    @functools.cached_property
    def _parsing(self) -> tokenizers.Tokenizer:
        # A second instance instead of toggling the first: the flag is shared state, and
        # `encode` runs without the GIL.
        return _load(self._source, parse_special=True)

    def _id_of(self, name: str) -> int | None:
        text = self.named_tokens.get(name)
        if text is None:
            return None
        id_ = self.id_of(text)
        if id_ is None:
            raise BadData(
                "tokenizer.special",
                f"tokenizer_config.json says {name} = {shown(text)}, which tokenizer.json does not "
                "hold",
                _HINT,
            )
        return id_


def refuse_surrogates(text: str, where: str) -> None:
    """Raises unless `text` can be written as UTF-8.

    Raises:
      UsageError: ``tokenizer.surrogate``.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            "tokenizer.surrogate",
            f"{where} holds a lone surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start}",
            "send well-formed Unicode: a pair of \\u escapes must come together",
        ) from error


class _ByteStream:
    """For byte-level decoders: exact, and constant work per token.

    Such a decoder joins the bytes of all tokens and reads them as UTF-8, so an
    incremental UTF-8 reader over the same bytes gives the same text. (Python and
    Rust replace ill-formed sequences alike: one U+FFFD per maximal subpart.)
    """

    def __init__(self, backend: tokenizers.Tokenizer, special: Iterable[int], skip_special: bool):
        self._token = backend.id_to_token
        self._skipped = frozenset(special) if skip_special else frozenset()
        self._reader = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        text = None if token in self._skipped else self._token(_checked(token))
        return "" if text is None else self._reader.decode(_bytes_of(text))

    def finish(self) -> str:
        return self._reader.decode(b"", final=True)


class _WindowStream:
    """For every other decoder: decodes a window of tokens and emits what is new.

    The window starts one step back, since such decoders treat the first token
    differently (they strip its space). Text that ends in U+FFFD is held: the
    next token may complete the character. Limit: a byte-fallback run that turns
    out ill-formed after a well-formed start keeps that start as text, where
    `decode` of the whole would have replaced it.
    """

    def __init__(self, backend: tokenizers.Tokenizer, skip_special: bool):
        self._decode = functools.partial(_guarded, backend.decode, skip_special_tokens=skip_special)
        self._window: list[int] = []
        self._read = 0
        self._shown = ""

    def push(self, token: int) -> str:
        self._window.append(_checked(token))
        text = self._decode(self._window)
        if text.endswith("\ufffd") or len(text) <= len(self._shown):
            return ""
        piece = text[len(self._shown) :]
        self._window = self._window[self._read :]
        self._read = len(self._window)
        self._shown = self._decode(self._window)
        return piece

    def finish(self) -> str:
        piece = self._decode(self._window)[len(self._shown) :]
        self._window, self._read, self._shown = [], 0, ""
        return piece


def _byte_characters() -> dict[str, int]:
    # GPT-2's table: printable Latin-1 bytes stand for themselves, the others follow at U+0100.
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    table = {chr(byte): byte for byte in visible}
    return table | {chr(0x100 + n): byte for n, byte in enumerate(hidden)}


_BYTE_OF = _byte_characters()


def _bytes_of(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError:  # an added token, spelled as text
        return token.encode("utf-8")


def _checked(id_: int) -> int:
    try:
        value = id_.__index__()
    except AttributeError:
        value = -1
    if not 0 <= value < 2**32:
        raise UsageError("tokenizer.id", f"{shown(id_)} is not a token id", "ids count from 0")
    return value


def _load(source: str, *, parse_special: bool) -> tokenizers.Tokenizer:
    def load() -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer.from_str(source)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = not parse_special
        return backend

    return _guarded(load)


def _guarded(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls the library; what it makes of a tokenizer.json that it should not have taken.

    Raises:
      BadData: ``tokenizer.json``.
    """
    try:
        return call(*args, **options)
    except BitnetError:
        raise
    except BaseException as error:
        # A Rust panic derives from BaseException, beside KeyboardInterrupt.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BadData(
            "tokenizer.json",
            f"tokenizer.json describes no tokenizer that works: {str(error)[:200]}",
            _HINT,
        ) from error


def _vocabulary(parsed: Any, tokenizer: tokenizers.Tokenizer) -> Iterable[int]:
    """Every id; taken from the parsed file where it lists them, which is a tenth of the time."""
    listed = parsed["model"].get("vocab") if isinstance(parsed.get("model"), dict) else None
    if not isinstance(listed, dict):
        return tokenizer.get_vocab(with_added_tokens=True).values()
    return itertools.chain(listed.values(), tokenizer.get_added_tokens_decoder())


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    named = {}
    for name in _NAMED_TOKENS:
        value = config.get(name)
        if isinstance(value, Mapping):  # an AddedToken, spelled out
            value = value.get("content")
        if value is None:
            continue
        if not isinstance(value, str):
            raise BadData(
                "tokenizer.special", f"tokenizer_config.json: {name} is {shown(value)}", _HINT
            )
        if any(0xD800 <= ord(letter) < 0xE000 for letter in value):
            # No text holds it: what a template writes with it could not be encoded.
            raise BadData(
                "tokenizer.special",
                f"tokenizer_config.json: {name} is {shown(value)}, half a surrogate pair",
                _HINT,
            )
        named[name] = value
    return named


def _ids(generation: Mapping[str, Any], key: str) -> list[int]:
    value = generation.get(key)
    values = [] if value is None else value if isinstance(value, list) else [value]
    for id_ in values:
        if not isinstance(id_, int) or isinstance(id_, bool) or id_ < 0:
            raise BadData(
                "tokenizer.special", f"generation_config.json: {key} is {shown(value)}", _HINT
            )
    return values
