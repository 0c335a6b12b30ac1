"""`bitnet dev completion`: a script that completes this program's words in a shell."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...completion import INSTALL, SHELLS
from ...context import Context
from ...fields import option
from ...options import record_force_option
from ...result import CommandResult, Text

EXAMPLES = (
    "bitnet dev completion bash",
    "bitnet dev completion zsh --json",
)

DETAILS = "\n".join(
    [
        "Prints the script. To try it in this shell: source <(bitnet dev completion bash), or",
        "`bitnet dev completion fish | source`. To keep it:",
        *(f"  {line}" for line in INSTALL.values()),
        "It completes groups, commands, options, choices, models (files, folders and the ids of",
        "the local Hugging Face cache), recipes, settings and profiles, and starts no Python.",
    ]
)


@dataclass
class CompletionArgs:
    """Options of `bitnet dev completion`."""

    shell: Optional[str] = option(
        choices=SHELLS, needed=True, positional=True, help="the shell that will read it"
    )
    force: bool = record_force_option()


def run(args: CompletionArgs, ctx: Context) -> CommandResult:
    from ...completion import script

    shell = str(args.shell)
    text = script(shell, ctx.streams.env)
    if ctx.streams.stdout_terminal and ctx.emit == "table":
        ctx.say(f"to keep it: {INSTALL[shell]}")
    data = {"shell": shell, "install": INSTALL[shell], "script": text}
    return CommandResult(data=data, sections=[Text(text)])
