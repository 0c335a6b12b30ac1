"""A conversation to token ids, by the chat template of the checkpoint.

Two guards. The template is not trusted: unless it is one of the known, it runs in
a child process without memory, time or files to spare (`chat_child`). The people in
the conversation are not trusted either: a special token that somebody *typed* is
encoded as ordinary text, only those that the template wrote are parsed.

Knows nothing of models; the clock (`now`) is the caller's.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_jax.core.errors import BadData, Unavailable, UsageError, shown
from bitnet_jax.core.system import can_confine
from bitnet_jax.formats.tokenizer_files import default_template
from bitnet_jax.formats.tokenizer_parts import CHAT_TEMPLATE
from bitnet_jax.runtime import chat_child
from bitnet_jax.runtime.tokenizer import Tokenizer, refuse_surrogates

if TYPE_CHECKING:
    from bitnet_jax.formats.checkpoint import TokenizerFiles


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# Templates that were read and found harmless: they run in this process, 25 ms sooner.
KNOWN_TEMPLATES: Mapping[str, str] = {
    _sha256(CHAT_TEMPLATE): "bitnet-jax",
    "dae57a011117d68afc11906cd5bfe7124df8027a2fcfe5134a7184aaba26fc1b": "2B4T",
    "8d95602b6d9b67aef0fdbd213cebabb000f06ba15abd3b2366d1815116efdb0d": "2B4T, system line",
}

# Where the child finds `bitnet_jax.core`.
_PACKAGE = str(Path(__file__).parents[2])
# A role may be part of a special token that the template builds (`<|` ~ role ~ `|>`), so
# it must not be free text.
_ROLE = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Plane 15 is private use: no text that means something to others holds these.
_PRIVATE = range(0xF0000, 0xFFFFE)
_HINT = "use another template, or `bitnet serve generate` with the prompt written out"


@dataclass(frozen=True)
class Limits:
    """What one rendering may use: far above any honest template, far below harm."""

    fuel: int = 5_000_000
    memory_bytes: int = 512 << 20
    cpu_seconds: int = 5
    wall_seconds: float = 10.0
    max_characters: int = 8 << 20


@dataclass(frozen=True)
class ChatTemplate:
    """A template and the special tokens' texts that it may name (`bos_token`, …)."""

    text: str
    named_tokens: Mapping[str, str]
    limits: Limits = Limits()

    @classmethod
    def from_files(cls, files: TokenizerFiles, tokenizer: Tokenizer) -> ChatTemplate:
        """Returns the checkpoint's template (the one named `default` where it has several).

        Raises:
          UsageError: ``chat.no_template``. BadData: ``chat.template``, not text.
        """
        found = files.chat_template
        if found is None:
            found = default_template(files.config)
        if found is None:
            raise UsageError("chat.no_template", "the model has no chat template", _HINT)
        if not isinstance(found, str):
            raise BadData("chat.template", "the chat template is not text", _HINT)
        return cls(found, tokenizer.named_tokens)

    @property
    def known(self) -> str | None:
        """The name under which this exact text is known to be harmless, or None."""
        return KNOWN_TEMPLATES.get(_sha256(self.text))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        now: datetime | None = None,
    ) -> str:
        """Returns the prompt's text, as `apply_chat_template(tokenize=False)`.

        Raises:
          UsageError: ``chat.messages``, ``chat.role``, ``tokenizer.surrogate`` (what is
            wrong with the conversation), ``chat.refused`` (the template says so).
          BadData: ``chat.template``: it fails, or uses more than its limits.
          Unavailable: ``chat.no_sandbox``: this system cannot confine an unknown template.
        """
        check_messages(messages)
        context: dict[str, Any] = {
            **self.named_tokens,
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
        }
        if tools is not None:
            context["tools"] = list(tools)
        job = json.dumps(
            {
                "template": self.text,
                "context": _only_json(context),
                "now": now.isoformat() if now is not None else None,
                "fuel": self.limits.fuel,
                "max_characters": self.limits.max_characters,
            }
        )
        answer = chat_child.answer(json.loads(job)) if self.known else _in_child(job, self.limits)
        if answer.get("error") == "refused":
            raise UsageError(
                "chat.refused", f"the chat template refuses the conversation: {answer['message']}"
            )
        if "error" in answer:
            raise BadData("chat.template", f"the chat template fails: {answer['message']}", _HINT)
        return answer["text"]


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raises unless `messages` is a conversation: mappings with a role, at least one.

    Raises:
      UsageError: ``chat.messages``, ``chat.role``, ``tokenizer.surrogate``.
    """
    if isinstance(messages, str | bytes | Mapping) or not messages:
        raise UsageError("chat.messages", "a conversation is a list of at least one message")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise UsageError("chat.messages", f"message {number} is not an object")
        role = message.get("role")
        if not isinstance(role, str) or not _ROLE.fullmatch(role):
            raise UsageError(
                "chat.role",
                f"message {number} has the role {shown(role)}",
                "roles are short words: `system`, `user`, `assistant`, `tool`",
            )
        for text in _strings(message):
            refuse_surrogates(text, f"message {number}")


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    now: datetime | None = None,
) -> list[int]:
    """Returns the prompt's ids, as `apply_chat_template(tokenize=True)` for honest text.

    Special tokens inside messages and tools are encoded as the text they are. While
    the template runs, each is stood in for by one private character, so a template
    that measures or splits text at a special token sees that character.

    Raises:
      As `ChatTemplate.render`.
    """
    check_messages(messages)
    typed = [*_strings(list(messages)), *_strings(list(tools or ()))]
    found = [s for s in tokenizer.special_tokens if any(s in text for text in typed)]
    stands_for = dict(zip(_unused(typed, template.text), found, strict=False))
    render = functools.partial(
        template.render, add_generation_prompt=add_generation_prompt, now=now
    )
    if not found:
        text = render(messages, tools=tools)
        return tokenizer.encode(text, add_special_tokens=False, allow_special=True)

    hide = _replacer({special: mark for mark, special in stands_for.items()})
    show = _replacer(stands_for)
    text = render(_mapped(list(messages), hide), tools=_mapped(tools, hide) if tools else None)
    ids: list[int] = []
    for part in _split(text, tokenizer.special_tokens):
        if part in tokenizer.special_tokens:
            ids.append(tokenizer.special_tokens[part])
        elif part:
            ids += tokenizer.encode(show(part), add_special_tokens=False, allow_special=False)
    return ids


def end_of_turn_ids(tokenizer: Tokenizer, template: ChatTemplate) -> tuple[int, ...]:
    """Returns the special token that the template writes after an assistant's words.

    A chat must stop there even where no file names it as an end (2B4T's config has
    only ``<|end_of_text|>``, its template closes turns with ``<|eot_id|>``). Empty
    where the template writes something else first, or refuses the sample.

    Raises:
      BadData, Unavailable: as `ChatTemplate.render`.
    """
    mark = next(_unused([], template.text))
    sample = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
    try:
        text = template.render(sample, add_generation_prompt=False)
    except UsageError:
        return ()
    after = text.rpartition(mark)[2].lstrip() if mark in text else ""
    for part in _split(after, tokenizer.special_tokens):
        if part.strip():
            id_ = tokenizer.special_tokens.get(part)
            return () if id_ is None else (id_,)
    return ()


def _in_child(job: str, limits: Limits) -> dict[str, str]:
    found = importlib.util.find_spec("minijinja")
    if not can_confine() or not sys.executable or found is None:
        raise Unavailable(
            "chat.no_sandbox",
            "this system cannot confine the model's chat template, which is unknown code",
            "write the prompt out with `bitnet serve generate`",
        )
    command = [
        *(sys.executable, "-I", "-S", "-B", chat_child.__file__),
        *(str(limits.memory_bytes), str(limits.cpu_seconds)),
        *(str(Path(found.origin or "").parent.parent), _PACKAGE),
    ]
    # The child sees none of our environment, only what the interpreter itself may need.
    kept = {k: v for k, v in os.environ.items() if k in ("LD_LIBRARY_PATH", "SYSTEMROOT")}
    try:
        done = subprocess.run(
            command,
            input=job.encode("ascii"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=kept,
            timeout=limits.wall_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        done = None
    except OSError as error:
        raise Unavailable(
            "chat.no_sandbox", f"cannot start the process that renders chat templates: {error}"
        ) from error
    if done is None or done.returncode != 0:
        how = "did not end in time" if done is None else f"was killed (status {done.returncode})"
        return {
            "error": "template",
            "message": f"its rendering {how}; it may use {limits.memory_bytes >> 20} MiB, "
            f"{limits.cpu_seconds} s",
        }
    return json.loads(done.stdout)


def _only_json(value: Any) -> Any:
    """Returns a copy that holds nothing but JSON: no object of ours reaches a template."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            "chat.messages", f"the conversation cannot be written as JSON: {error}"
        ) from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value


def _unused(texts: Sequence[str], template: str) -> Iterator[str]:
    taken = set(template).union(*texts)
    return (chr(code) for code in _PRIVATE if chr(code) not in taken)


def _pattern(words: Any) -> re.Pattern[str]:
    # Longest first: leftmost-longest, as the tokenizers library matches added tokens.
    return re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)))


def _replacer(table: Mapping[str, str]) -> Any:
    return functools.partial(_pattern(table).sub, lambda match: table[match[0]])


def _split(text: str, special: Mapping[str, int]) -> list[str]:
    return re.split(f"({_pattern(special).pattern})", text) if special else [text]
