"""Renders one chat template; also the program of the child process that does it safely.

A template is code from whoever made the checkpoint. minijinja refuses most abuse
(attribute escapes, huge repetitions, endless loops by fuel), but a template that
doubles a string aborts the whole process. So a template that is not known to be
harmless is rendered by `python -I -S chat_child.py <folders>`, which takes away from
itself memory, time, files and processes before it reads one byte.

Imports the standard library, minijinja and `core.system` only (the child must start
in 30 ms). Not every system can confine a process; `chat` asks before.
"""

from __future__ import annotations

import json
import re
import sys
import time  # noqa: F401  strftime imports it, and the child can open no file by then
from datetime import datetime
from typing import Any

# What transformers accepts and minijinja lacks: the training mask's markers. An `if true`
# keeps the whitespace control of the tags.
_GENERATION = (
    (re.compile(r"\{%(-?)\s*generation\s*(-?)%\}"), r"{%\1 if true \2%}"),
    (re.compile(r"\{%(-?)\s*endgeneration\s*(-?)%\}"), r"{%\1 endif \2%}"),
)


class Refused(Exception):
    """The template called `raise_exception`."""


class TooLong(Exception):
    """The template wrote more than it may."""


def render(job: dict[str, Any]) -> str:
    """Returns the text of ``job["template"]`` under the names of ``job["context"]``.

    As `transformers` does it (trim_blocks, lstrip_blocks, `tojson` without HTML
    escapes, `raise_exception`, and `strftime_now` where ``job["now"]`` is given).

    Raises:
      Refused: the template refuses the conversation.
      TooLong: more than ``job["max_characters"]``.
      minijinja.TemplateError: anything else that is wrong with it.
    """
    import minijinja

    environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, fuel=job["fuel"])
    environment.remove_global("debug")
    environment.add_global("raise_exception", _raise_exception)
    environment.add_filter("tojson", _tojson)
    if job["now"] is not None:
        environment.add_global("strftime_now", datetime.fromisoformat(job["now"]).strftime)
    template = job["template"]
    for pattern, replacement in _GENERATION:
        template = pattern.sub(replacement, template)
    text = environment.render_str(template, **job["context"])
    if len(text) > job["max_characters"]:
        raise TooLong(f"it wrote {len(text)} characters; at most {job['max_characters']}")
    return text


def answer(job: dict[str, Any]) -> dict[str, str]:
    """Returns ``{"text"}``, or ``{"error": "refused" | "template", "message"}``."""
    import minijinja

    try:
        return {"text": render(job)}
    except Refused as error:
        return {"error": "refused", "message": str(error)}
    except (minijinja.TemplateError, TooLong, TypeError, ValueError, RecursionError) as error:
        return {"error": "template", "message": str(error)}


def _raise_exception(message: object = "") -> None:
    raise Refused(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=tuple(separators) if separators else None,
        sort_keys=sort_keys,
    )


def main(memory: int, seconds: int, *folders: str) -> None:
    """Reads a job from stdin, writes its answer to stdout; `folders` hold what it imports."""
    sys.path.extend(folders)
    import minijinja  # noqa: F401  before the limits: no file can be opened under them

    from bitnet_jax.core.system import confine

    confine(memory, seconds)
    job = json.loads(sys.stdin.buffer.read())
    sys.stdout.buffer.write(json.dumps(answer(job)).encode("ascii"))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
