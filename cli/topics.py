"""The topics of `bitnet help TOPIC`: what holds for every command.

Made from the tables that the program itself reads, where there is one.
"""

from __future__ import annotations

from collections import namedtuple

from .layout import columns, fill, reflow

Topic = namedtuple("Topic", "about page")
Topic.__doc__ = """`about` is one line; `page` takes a width and returns what stands below it."""


def exit_codes(width: int) -> str:
    from .exit_codes import MEANING

    return "\n".join(columns([(f"{code:>3}", what) for code, what in MEANING.items()], width))


def settings(width: int) -> str:
    return """\
  1  the command line             --max-tokens 128
  2  the environment              BITNET_MAX_TOKENS=128
  3  a settings file              --settings FILE, or BITNET_SETTINGS
  4  the workspace                bitnet.toml, in this folder or one above it
  5  a profile                    --profile NAME, BITNET_PROFILE, or the default one
  6  the default, as `bitnet COMMAND --help` prints it

A file names options as the command line does; [group] and [group.command] narrow them:

  progress = "plain"
  [serve]
  max-tokens = 128
  [model.convert]
  encoding = "packed"

A name that no option has is an error (exit 78), with the nearest one that exists.
`bitnet dev config` shows what is set, and where; `bitnet dev profile` makes profiles."""


def environment(width: int) -> str:
    from .config import LIBRARY_ENV, OTHER_ENV

    def lines(table: dict[str, str]) -> str:
        rows = [[f"  {name}", *fill(what, width, " " * 10)] for name, what in table.items()]
        return "\n".join(line for row in rows for line in row)

    return ENVIRONMENT.format(variables=lines(LIBRARY_ENV), others=lines(OTHER_ENV))


ENVIRONMENT = """\
every option is also a variable: BITNET_ and its long name, in capitals, - as _
  --max-tokens 128    BITNET_MAX_TOKENS=128
  --quiet             BITNET_QUIET=1 (1, true, yes, on; 0, false, no, off)
  -vv                 BITNET_VERBOSE=2
The command line wins over it; it wins over a settings file (`bitnet help settings`).
`bitnet COMMAND --help` names the variable of each option. An empty one counts as not set.

read by the library, also where there is no command line
{variables}

not ours, and heeded
{others}

Another variable that begins with BITNET_ is an error (exit 78), with the nearest that exists."""


def formats(width: int) -> str:
    from .options import FORMATS

    about = {
        "bitnet": "one .bitnet file: a valid safetensors file with packed codes, scales, "
        "tokenizer, checksums (docs/formats/bitnet.md)",
        "huggingface": "a folder with config.json, safetensors and tokenizer; --encoding says how "
        "the weights stand in it",
        "gguf": "one .gguf file for llama.cpp, tokenizer and chat template in it "
        "(docs/formats/gguf.md)",
        "safetensors": "one .safetensors file, config.json and the tokenizer's files beside it; "
        "the encodings are those of huggingface",
        "onnx": "a graph and, beside it, its data: a decoder with its KV cache for ONNX Runtime; "
        "--encoding is the profile of `bitnet model export` (docs/formats/onnx.md)",
        "stablehlo": "a folder: programs for jax.export, a prefill and a decode, over a .bitnet "
        "file; to run for six months, never to keep (docs/formats/stablehlo.md)",
    }
    rows = [(name, about[name]) for name in FORMATS]
    encodings = [
        ("packed", "codes and scales, as they run"),
        ("packed-1.6", "the same, five trits to a byte (format bitnet)"),
        ("master", "float weights that the online loader rounds to the same codes"),
        ("latent", "the float weights that training goes on from, where the source has them"),
        ("tq2_0, tq1_0", "llama.cpp's blocks of 256 trits, 2.06 and 1.69 bits each (format gguf)"),
        ("i2_s", "bitnet.cpp's blocks of 128 (format gguf)"),
        (
            "f32, bf16, f16",
            "trits times scale as floats; a model of floats in that type (format gguf)",
        ),
        ("q8_0, q4_0", "a model of floats in blocks of 32 (format gguf)"),
        ("tq2_0+q8_0, ...", "the same, embedding and head rounded to what stands after the +"),
    ]
    return "\n".join(
        [
            *fill(
                "What a model is, is told by its content; a name only says what to write.", width
            ),
            "",
            "--format",
            *columns(rows, width),
            "",
            "--encoding",
            *columns(encodings, width),
            "",
            *fill("How a record is printed is no format: `bitnet help output`.", width),
        ]
    )


def batch(width: int) -> str:
    return """\
  bitnet model convert --input a.hf b.hf c.hf --output-dir converted
  bitnet model validate models/*.bitnet --jobs 2
  bitnet model inspect --manifest models.txt --output-dir records

Each model has a record of its own in `models` (--json); the exit code is the worst of them,
and an error of one stops no other. --jobs runs several at once, each in a process.

The same line run again goes on where it stopped. With --output-dir, what is there is looked at
first: a converted model is skipped while it and its source have the digests of its receipt, a
record while it is of the same version, options and files. --force does all of it anew.

A manifest is a text file with one model a line, or a JSON object where one needs options of
its own; a .yaml or .json file is a list of the same. `-` reads it from stdin. A # begins a comment.

  a.hf
  {"model": "b.hf", "output": "b.bitnet", "encoding": "packed"}

Paths in it are those that could be typed on the command line in its place."""


def devices(width: int) -> str:
    from .options import DEVICES

    about = {
        "auto": "the best that this machine has; which one is said",
        "gpu": "cuda or rocm, whichever is there",
    }
    rows = [
        (name, about.get(name, "named: an error, exit 69, where it is absent")) for name in DEVICES
    ]
    return "\n".join([*columns(rows, width), "", "`bitnet dev check` shows those of this machine."])


def output(width: int) -> str:
    return """\
stdout is data, stderr is talk.

  --emit table        for people: tables, with colour on a terminal (NO_COLOR takes it away)
  --json              one envelope, on success and on failure, and nothing else on stdout
  --emit jsonl        events while it runs, one JSON object a line; the last is the envelope
  --emit yaml, csv    the envelope as YAML; the record's list as CSV
  --export-json FILE  the record's data into a file, beside what is printed
  --progress          auto, plain, json or none: a bar, lines in a log, JSON lines, nothing

The envelope
  {"schema": "bitnet/1", "command": "model convert", "ok": true, "exit_code": 0,
   "data": {...}, "warnings": [...], "errors": [{"code", "message", "hint"}]}

A code keeps its meaning (`bitnet help CODE` says what it is); the words may change."""


def options(width: int) -> str:
    from .options import LETTERS

    rows = [(f"-{letter}", f"--{name}") for letter, name in LETTERS.items()]
    return "\n".join(
        [
            *fill("One letter means the same on every command that has the option.", width),
            "",
            *columns(rows, width),
            "",
            "A value may stand behind = or a space; a value that begins with a dash behind =.",
            "Flags need no value. What follows -- is no option. Names are never shortened.",
        ]
    )


TOPICS = {
    "batch": Topic("several models in one call", batch),
    "devices": Topic("where a model runs", devices),
    "environment": Topic("the variables that are read", environment),
    "exit-codes": Topic("what a script can rely on", exit_codes),
    "formats": Topic("what models are written as", formats),
    "options": Topic("how options are written, and their letters", options),
    "output": Topic("how results are printed", output),
    "settings": Topic("where an option's value comes from, first match wins", settings),
}

# Other words for a topic.
SAME = {
    "config": "settings",
    "emit": "output",
    "json": "output",
    "env": "environment",
    "errors": "exit-codes",
    "letters": "options",
    "manifest": "batch",
    "device": "devices",
    "format": "formats",
}


def find(word: str) -> str | None:
    """Returns the name of the topic that `word` means, or None."""
    word = SAME.get(word, word)
    return word if word in TOPICS else None


def page(name: str, width: int) -> str:
    """Returns a topic's page."""
    topic = TOPICS[name]
    lines = reflow(topic.page(width), width)
    return "\n".join([f"{name.replace('-', ' ')}: {topic.about}", "", *lines]) + "\n"
