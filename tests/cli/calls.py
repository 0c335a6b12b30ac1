"""What the tests of `workers` run in other processes, which find it by its name here."""

import os
import signal
import time
from pathlib import Path

from bitnet_cli.result import CommandResult
from bitnet_jax.core.errors import BadData


def call(model, args, ctx):
    """Does what the model's name says."""
    print("a library that prints")
    if model == "bad":
        raise BadData("model.bad", "`bad` is bad")
    if model == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if Path(model).name.startswith("slow"):
        folder = Path(model).parent / (Path(model).name + ".begun")
        folder.touch()
        try:
            time.sleep(60)
        finally:
            folder.with_suffix(".tidied").touch()
    ctx.warn(f"{model} is looked at")
    return CommandResult({"pid": os.getpid(), "model": model})
