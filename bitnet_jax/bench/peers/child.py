"""The process of one contestant: ``python -m bitnet_jax.bench.peers.child MODULE``.

Reads a job, then requests, a JSON line each, from stdin; answers each with a line on what was its
stdout, which libraries that print cannot reach. Knows nothing of the other contestants.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

from bitnet_jax.bench.peers.runner import Job
from bitnet_jax.core.errors import BitnetError


def serve(module: str, lines: Any, answer: Any) -> None:
    """Answers requests until there are no more.

    A request is ``{"do": "prefill"|"decode"|"facts", "batch": 1}``; its answer has `value`, or
    `error`.
    """
    runner: Any = None
    for line in lines:
        request = json.loads(line)
        try:
            if request["do"] == "open":
                job = Job(**{**request["job"], "batches": tuple(request["job"]["batches"])})
                place = importlib.import_module(f"bitnet_jax.bench.peers.{module}")
                runner, value = place.open_model(job), None
            elif request["do"] == "facts":
                value = runner.facts()
            else:
                value = getattr(runner, request["do"])(request["batch"])
            answer({"value": value})
        except BitnetError as error:
            answer({"error": [type(error).__name__, error.code, error.message, error.hint]})
        except Exception as error:  # noqa: BLE001  whatever a foreign runtime raises is its answer
            answer({"error": [None, "", f"{type(error).__name__}: {error}", None]})


def main() -> None:
    # What libraries print goes to stderr; answers go where stdout was.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(record: dict[str, Any]) -> None:
        out.write(json.dumps(record) + "\n")
        out.flush()

    serve(sys.argv[1], sys.stdin, answer)


if __name__ == "__main__":
    main()
