"""Every group and command of `bitnet`, as a table.

A command is a row and a file. The row names the module and the args class as text, so that
reading the table imports neither; a row without a module is announced and not built yet:
its args class stands in the group's `_planned.py`.
Knows nothing of options (the args classes do) and runs nothing.
"""

from __future__ import annotations

# Not typing.NamedTuple: `bitnet --help` reads this file and has a few milliseconds for it.
from collections import namedtuple
from importlib import import_module

Command = namedtuple("Command", "group name target help")
Command.__doc__ = """One row: `target` is "module:ArgsClass" below this package, or None."""

PROGRAM = "bitnet"
ABOUT = "ternary (1.58-bit) language models in JAX: train, convert, prove, run"

# The first word after `bitnet`; "" holds the commands that stand without a group.
GROUPS: dict[str, str] = {
    "model": "look into a model file, convert it, check it, make one",
    "quant": "turn a float model ternary",
    "bench": "measure speed and quality on this machine",
    "serve": "run a model in the terminal: continue a prompt, or talk",
    "train": "train a ternary model, from nothing or from a float one",
    "dev": "this machine: what works, what is missing",
}

COMMANDS: tuple[Command, ...] = tuple(
    Command(*row)
    for row in (
        (
            "",
            "quickstart",
            "commands.quickstart:QuickstartArgs",
            "train a small ternary model, pack it, run it, and prove all three are the same model",
        ),
        # model
        (
            "model",
            "convert",
            "commands.model.convert:ConvertArgs",
            "convert a model to another format, with digests before and after",
        ),
        ("model", "export", None, "export for another runtime (ONNX, StableHLO) by profile"),
        (
            "model",
            "validate",
            "commands.model.validate:ValidateArgs",
            "check a model file: weights, scales, checksums; each finding comes with its fix",
        ),
        (
            "model",
            "inspect",
            "commands.model.inspect:InspectArgs",
            "what is in a model, how many bits it stores, and where it will run",
        ),
        (
            "model",
            "compare",
            "commands.model.compare:CompareArgs",
            "compare two models: trits, scales, accuracy, size, speed",
        ),
        (
            "model",
            "create",
            "commands.model.create:CreateArgs",
            "write a random model of a named shape, spelled like the real one",
        ),
        (
            "model",
            "list-architectures",
            "commands.model.list_architectures:ListArchitecturesArgs",
            "the families and named shapes this version knows",
        ),
        (
            "model",
            "edit",
            "commands.model.edit:EditArgs",
            "edit a model's metadata and chat template",
        ),
        (
            "model",
            "diff",
            "commands.model.diff:DiffArgs",
            "what differs between two model files",
        ),
        (
            "model",
            "publish",
            "commands.model.publish:PublishArgs",
            "publish a model with its card, after a shown diff",
        ),
        # quant
        (
            "quant",
            "analyze",
            "commands.quant.analyze:AnalyzeArgs",
            "what ternarizing each layer would cost",
        ),
        (
            "quant",
            "convert",
            "commands.quant.convert:QuantConvertArgs",
            "ternarize a float model under rules, with the measured loss",
        ),
        (
            "quant",
            "validate",
            "commands.quant.validate:QuantValidateArgs",
            "a quantized model against its original, within a tolerance",
        ),
        ("quant", "optimize", None, "tune scales, layouts and kernels for accuracy, size or speed"),
        # bench
        (
            "bench",
            "run",
            "commands.bench.run:BenchRunArgs",
            "tokens per second and share of the memory bandwidth",
        ),
        (
            "bench",
            "compare",
            "commands.bench.compare:BenchCompareArgs",
            "models side by side, with intervals",
        ),
        (
            "bench",
            "profile",
            "commands.bench.profile:BenchProfileArgs",
            "time and memory per layer and op",
        ),
        (
            "bench",
            "validate",
            "commands.bench.validate:BenchValidateArgs",
            "is this machine fit: kernels, bandwidth, devices",
        ),
        (
            "bench",
            "regression",
            "commands.bench.regression:RegressionArgs",
            "did it get slower: two results of `bench run`",
        ),
        ("bench", "eval", None, "evaluation tasks and perplexity"),
        # serve
        ("serve", "start", None, "an OpenAI-compatible HTTP server"),
        (
            "serve",
            "generate",
            "commands.serve.generate:GenerateArgs",
            "continue a prompt with a model",
        ),
        (
            "serve",
            "chat",
            "commands.serve.chat:ChatArgs",
            "talk with a model in the terminal",
        ),
        ("serve", "test", None, "correctness and load of an endpoint"),
        ("serve", "batch", None, "run a file of requests, resumable"),
        ("serve", "monitor", None, "live view of an endpoint's metrics"),
        # train
        (
            "train",
            "start",
            "commands.train.start:TrainStartArgs",
            "train a model as a recipe says",
        ),
        (
            "train",
            "qat",
            "commands.train.qat:TrainQatArgs",
            "train a float checkpoint into a ternary model",
        ),
        ("train", "validate", None, "check a recipe before it runs: shapes, memory, schedule"),
        ("train", "monitor", None, "live view of a run"),
        ("train", "sweep", None, "search over recipes"),
        ("train", "list", None, "the runs of this workspace"),
        ("train", "resume", None, "go on with a run"),
        ("train", "export", None, "export a run's model"),
        ("train", "launch", None, "start a run on several processes"),
        ("train", "tokenize", None, "tokenize a dataset ahead of training"),
        # dev
        (
            "dev",
            "check",
            "commands.dev.check:CheckArgs",
            "versions, devices, kernels, extras, and the line that installs what is missing",
        ),
        ("dev", "init", None, "a new project that trains, tests and exports at once"),
        (
            "dev",
            "debug",
            "commands.dev.debug:DebugArgs",
            "activations per op; the first op that diverges",
        ),
        ("dev", "test", None, "run the self-tests on chosen devices"),
        ("dev", "validate", None, "everything that can be proven about a model, in one report"),
        (
            "dev",
            "config",
            "commands.dev.config:ConfigArgs",
            "the settings in force, and where each comes from",
        ),
        (
            "dev",
            "profile",
            "commands.dev.profile:ProfileArgs",
            "named sets of settings",
        ),
        ("dev", "workspace", None, "this workspace: models, runs, settings"),
        (
            "dev",
            "completion",
            "commands.dev.completion:CompletionArgs",
            "a script that completes commands, options, models and settings in your shell",
        ),
        ("dev", "lsp", None, "a language server for recipes"),
        (
            "dev",
            "build",
            "commands.dev.build:BuildArgs",
            "build the CPU kernels ahead of time, into a folder",
        ),
        ("dev", "install", None, "install an extra into this environment"),
        ("dev", "update", None, "update this installation"),
    )
)

# Other ways to say a command; both sides are (group, name).
ALIASES: dict[tuple[str, str], tuple[str, str]] = {
    ("", "chat"): ("serve", "chat"),
    ("", "generate"): ("serve", "generate"),
    ("quant", "train"): ("train", "qat"),
    ("model", "analyze"): ("quant", "analyze"),
    ("model", "quantize"): ("quant", "convert"),
    ("dev", "info"): ("dev", "check"),
}

# What a newcomer runs first: shown by `bitnet` alone. `{}` is aligned by the help page.
FIRST_STEPS: tuple[tuple[str, str], ...] = (
    ("bitnet quickstart", "train, pack and run a small model here: minutes on a CPU"),
    ("bitnet model inspect MODEL", "what is in a model, and where it will run"),
    ("bitnet model convert MODEL -o OUT.bitnet", "convert it, with proof that nothing changed"),
    ('bitnet generate OUT.bitnet "Once upon"', "run it"),
    ("bitnet dev check", "something amiss? what this machine has and lacks"),
)

# The same for each group.
GROUP_FIRST: dict[str, tuple[str, str]] = {
    "model": ("bitnet model inspect MODEL", "start by looking into a model you have"),
    "quant": ("bitnet quant train -c RECIPE.yaml -m MODEL", "make a float model ternary"),
    "bench": ("bitnet bench run MODEL", "how fast it is here, beside what the machine can do"),
    "serve": ("bitnet serve chat MODEL", "talk with a model"),
    "train": ("bitnet train start -c RECIPE.yaml", "train as a recipe says"),
    "dev": ("bitnet dev check", "what this machine has and lacks"),
}


def words(command: Command) -> str:
    """Returns the command as it is typed after `bitnet`: "model convert"."""
    return f"{command.group} {command.name}".strip()


def find(group: str, name: str) -> Command | None:
    """Returns the row for a command or an alias of one, or None."""
    group, name = ALIASES.get((group, name), (group, name))
    return next((c for c in COMMANDS if (c.group, c.name) == (group, name)), None)


def names_in(group: str) -> list[str]:
    """Returns every word that may follow `group`: its commands and its aliases."""
    own = [command.name for command in COMMANDS if command.group == group]
    return own + [name for (place, name) in ALIASES if place == group]


def load(command: Command):
    """Imports a command; returns (what has its EXAMPLES and, once built, `run`; its args class)."""
    if command.target is None:
        place = import_module(f".commands.{command.group}._planned", __package__)
        planned = place.PLANNED[command.name]
        return planned, planned.args
    module_name, _, class_name = command.target.partition(":")
    module = import_module(f".{module_name}", __package__)
    return module, getattr(module, class_name)


def built() -> list[Command]:
    """Returns the commands that have a module."""
    return [command for command in COMMANDS if command.target is not None]
