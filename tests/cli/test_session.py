"""A command's run: the envelope, exit codes, questions, streams, exports."""

# ruff: noqa: UP045
import errno
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, get_args

import pytest

from bitnet_cli import config, registry
from bitnet_cli.exit_codes import MEANING
from bitnet_cli.fields import option, option_strings, whole
from bitnet_cli.guess import FLAGS, FORMS, TRUE, guess_emit
from bitnet_cli.options import GlobalArgs, PluginArgs
from bitnet_cli.render import RENDERERS
from bitnet_cli.result import CommandResult, Table, Text
from bitnet_cli.session import program
from bitnet_cli.signals import Terminated
from bitnet_jax.core import errors


@dataclass
class FakeArgs:
    name: Optional[str] = option(positional=True, help="a name")
    count: int = option("-n", "--count", type=whole(0), default=1, help="a count")
    force: bool = option(default=False, help="replace")


@dataclass
class AnnouncedArgs:
    name: Optional[str] = option(positional=True, help="a name")
    later: bool = option(default=False, built=False, help="announced, and not built yet")


@dataclass
class NeedyArgs:
    name: Optional[str] = option(needed=True, positional=True, help="a name")
    shape: Optional[str] = option(needed=True, choices=("ring", "line"), help="a shape")


def fine(args, ctx):
    return CommandResult(data={"name": args.name, "count": args.count})


def raises(error):
    def run(args, ctx):
        raise error

    return run


ENVELOPE = ["schema", "command", "ok", "exit_code", "data", "warnings", "errors"]


def test_success_is_one_envelope(bitnet, fake_command):
    fake_command(fine, FakeArgs)
    done = bitnet("dev", "fake", "x", "--json")
    assert done.rc == 0
    assert list(done.envelope) == ENVELOPE
    assert done.envelope == {
        "schema": "bitnet/1",
        "command": "dev fake",
        "ok": True,
        "exit_code": 0,
        "data": {"name": "x", "count": 1},
        "warnings": [],
        "errors": [],
    }


ERRORS = [
    (errors.CheckFailed("a.b", "m", "h"), 1, "a.b"),
    (errors.UsageError("a.b", "m", "h"), 2, "a.b"),
    (errors.BadData("a.b", "m", "h"), 65, "a.b"),
    (errors.NoInput("a.b", "m", "h"), 66, "a.b"),
    (errors.Unavailable("a.b", "m", "h"), 69, "a.b"),
    (errors.InternalError("a.b", "m", "h"), 70, "a.b"),
    (errors.CannotCreate("a.b", "m", "h"), 73, "a.b"),
    (errors.IOFailure("a.b", "m", "h"), 74, "a.b"),
    (errors.Resumable("a.b", "m", "h"), 75, "a.b"),
    (errors.PermissionDenied("a.b", "m", "h"), 77, "a.b"),
    (errors.ConfigError("a.b", "m", "h"), 78, "a.b"),
    (FileNotFoundError(errno.ENOENT, "No such file", "f"), 66, "io.not_found"),
    (PermissionError(errno.EACCES, "denied", "f"), 77, "io.permission"),
    (OSError(errno.ENOSPC, "full", "f"), 74, "io.disk_full"),
    (OSError("odd"), 74, "io.failed"),
    (ConnectionRefusedError("refused"), 69, "net.unreachable"),
    (MemoryError(), 69, "memory.exhausted"),
    (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), 69, "memory.exhausted"),
    (KeyboardInterrupt(), 130, "cli.interrupted"),
    (Terminated(), 143, "cli.terminated"),
    (ZeroDivisionError("by zero"), 70, "internal.bug"),
    (SystemExit(3), 70, "internal.bug"),
]


@pytest.mark.parametrize(("error", "rc", "code"), ERRORS, ids=lambda v: type(v).__name__)
def test_failure_is_the_same_envelope_and_no_traceback(bitnet, fake_command, error, rc, code):
    fake_command(raises(error), FakeArgs)
    done = bitnet("dev", "fake", "--json")
    assert done.rc == rc and rc in MEANING
    assert list(done.envelope) == ENVELOPE
    assert (done.envelope["ok"], done.envelope["exit_code"]) == (False, rc)
    (entry,) = done.envelope["errors"]
    assert set(entry) == {"code", "message", "hint"} and entry["code"] == code
    assert f"error[{code}]: " in done.err
    assert "Traceback" not in done.err


def test_a_bug_says_how_to_see_it_and_debug_shows_it(bitnet, fake_command):
    fake_command(raises(ZeroDivisionError("by zero")), FakeArgs)
    plain = bitnet("dev", "fake")
    assert "error[internal.bug]: ZeroDivisionError: by zero\n\nhint: " in plain.err
    assert "--debug" in plain.err and plain.out == ""
    shown = bitnet("dev", "fake", "--debug", "--json")
    assert "Traceback" in shown.err and "by zero" in shown.err
    assert shown.envelope["exit_code"] == 70


@pytest.mark.parametrize("emit", [["--json"], ["--emit", "json"], ["--emit=json"], ["-e", "json"]])
def test_a_usage_error_is_an_envelope_too(bitnet, fake_command, emit):
    fake_command(fine, FakeArgs)
    for words in (["dev", "fake", "--nmae"], ["dev", "fke"], ["dve"], ["dev", "fake", "-n", "x"]):
        done = bitnet(*words, *emit)
        assert done.rc == done.envelope["exit_code"] == 2
        assert done.envelope["errors"][0]["hint"]


def test_the_environment_asks_for_json_too(bitnet, fake_command, monkeypatch):
    fake_command(fine, FakeArgs)
    monkeypatch.setenv("BITNET_JSON", "1")
    assert bitnet("dev", "fake", "--nmae").envelope["exit_code"] == 2
    assert bitnet("dev", "fake").envelope["ok"]
    monkeypatch.setenv("BITNET_COUNTT", "1")
    wrong = bitnet("dev", "fake")
    assert wrong.rc == 78 and wrong.envelope["errors"][0]["code"] == "settings.unknown_environment"


def test_json_and_another_emit_clash(bitnet, fake_command):
    fake_command(fine, FakeArgs)
    assert bitnet("dev", "fake", "--json", "--emit", "csv").rc == 2
    assert bitnet("dev", "fake", "--json", "--emit", "json").rc == 0


def test_quiet_and_verbose_clash_and_what_was_typed_wins(bitnet, fake_command, monkeypatch):
    fake_command(lambda args, ctx: ctx.say("hello") or fine(args, ctx), FakeArgs)
    done = bitnet("dev", "fake", "-q", "-v", "--json")
    assert done.rc == 2 and done.envelope["errors"][0]["code"] == "cli.clash"
    monkeypatch.setenv("BITNET_QUIET", "1")
    assert bitnet("dev", "fake").err == ""
    assert bitnet("dev", "fake", "-v").err == "hello\n"
    monkeypatch.setenv("BITNET_VERBOSE", "1")
    assert bitnet("dev", "fake").rc == 2
    assert bitnet("dev", "fake", "-q").err == ""


def test_the_page_comes_before_the_error_that_it_explains(bitnet, fake_command):
    def run(args, ctx):
        result = CommandResult(sections=[Text("the page")])
        return result.fail(errors.CheckFailed("a.b", "failed"))

    fake_command(run, FakeArgs)
    assert bitnet("dev", "fake", terminal=True).screen.startswith("the page\n\x1b[1;31merror")


def test_talk_begins_a_line_of_its_own_on_a_terminal(bitnet, fake_command):
    def run(args, ctx):
        ctx.write("text")
        if args.name:
            ctx.say(args.name)
            return CommandResult(sections=[])
        raise errors.BadData("a.b", "broken")

    fake_command(run, FakeArgs)
    assert bitnet("dev", "fake", "talk", terminal=True).screen == "text\ntalk\n"
    assert bitnet("dev", "fake", "talk").out == "text"
    assert bitnet("dev", "fake", terminal=True).screen.startswith("text\n\x1b[1;31merror")


def test_how_the_program_is_called_again(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["a b/bitnet"])
    assert program({"PATH": str(tmp_path)}) == "'a b/bitnet'"
    (tmp_path / "bitnet").write_text("")
    (tmp_path / "bitnet").chmod(0o755)
    assert program({"PATH": str(tmp_path)}) == "bitnet"
    monkeypatch.setattr("sys.argv", ["cli/main.py"])
    monkeypatch.setattr("sys.executable", "/usr/bin/python3")
    assert program({"PATH": ""}) == "/usr/bin/python3 -m bitnet_cli"


def test_a_failed_check_keeps_its_record(bitnet, fake_command):
    def run(args, ctx):
        return CommandResult(data={"passed": False}, ok=False, exit_code=1)

    fake_command(run, FakeArgs)
    done = bitnet("dev", "fake", "--json")
    assert done.rc == 1 and done.envelope["data"] == {"passed": False}


def test_what_the_library_prints_does_not_spoil_stdout(bitnet, fake_command):
    def run(args, ctx):
        print("noise")
        return fine(args, ctx)

    fake_command(run, FakeArgs)
    done = bitnet("dev", "fake", "--json")
    assert done.envelope["ok"] and "noise" in done.err


def test_a_record_without_json_form_is_a_bug_told_as_one(bitnet, fake_command):
    fake_command(lambda args, ctx: CommandResult(data={"x": object()}), FakeArgs)
    done = bitnet("dev", "fake", "--json")
    assert done.rc == 70 and "internal.bug" in done.err
    assert done.envelope["exit_code"] == 70


def test_jsonl_streams_events_and_ends_with_the_envelope(bitnet, fake_command):
    def run(args, ctx):
        with ctx.progress.task("working", 2, "steps") as task:
            task.update(1)
            task.update(1)
        ctx.event("metric", loss=1.5)
        ctx.warn("odd")
        ctx.write("piece")
        return fine(args, ctx)

    fake_command(run, FakeArgs)
    lines = [json.loads(line) for line in bitnet("dev", "fake", "--emit", "jsonl").out.splitlines()]
    assert {line["schema"] for line in lines} == {"bitnet/1"}
    kinds = [line["event"] for line in lines]
    assert kinds[0] == "progress" and kinds[-4:] == ["metric", "warning", "text", "result"]
    assert {*ENVELOPE, "event"} == set(lines[-1]) and lines[-1]["warnings"] == ["odd"]


def test_talk_goes_to_stderr_and_quiet_stops_it(bitnet, fake_command):
    def run(args, ctx):
        ctx.say("hello")
        ctx.warn("odd")
        with ctx.progress.task("working"):
            pass
        return CommandResult(data={"a": 1}, warnings=["later"], sections=[Text("data")])

    fake_command(run, FakeArgs)
    done = bitnet("dev", "fake")
    assert done.out == "data\n"
    assert done.err.count("warning: odd") == 1 and "hello" in done.err and "working" in done.err
    assert "warning: later" in done.err
    quiet = bitnet("dev", "fake", "-q")
    assert (quiet.out, quiet.err) == ("data\n", "")
    assert bitnet("dev", "fake", "-q", "--json").envelope["warnings"] == ["odd", "later"]


def test_text_streams_in_a_table_and_not_beside_an_envelope(bitnet, fake_command):
    def run(args, ctx):
        if ctx.streams_text:
            ctx.streams_text("a\x1bb")
        return CommandResult(data={"text": "ab"}, sections=[])

    fake_command(run, FakeArgs)
    assert bitnet("dev", "fake").out == "a\x1bb"  # a pipe gets the bytes
    assert bitnet("dev", "fake", terminal=True).out == "a\\x1bb"  # a terminal is not driven
    assert bitnet("dev", "fake", "--json").envelope["data"] == {"text": "ab"}


def test_rich_draws_tables_on_a_terminal_only(bitnet, fake_command):
    table = Table(["name"], [["x"]])
    fake_command(lambda args, ctx: CommandResult(sections=[table]), FakeArgs)
    assert bitnet("dev", "fake").out == "name\nx\n"
    assert "\u2500" in bitnet("dev", "fake", terminal=True).out


# --------------------------------------------------------------------- missing options


def test_a_missing_option_is_an_error_without_a_terminal(bitnet, fake_command):
    fake_command(fine, NeedyArgs)
    done = bitnet("dev", "fake", "--json")
    assert done.rc == 2
    assert done.envelope["errors"][0] == {
        "code": "cli.missing_option",
        "message": "`bitnet dev fake` needs `--name`, `--shape`",
        "hint": "for example: bitnet dev fake a",
    }


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("modle inspect m", "did you mean `bitnet model`?"),
        ("model inspct m", "did you mean `bitnet model inspect`?"),
        ("model inspect m --show-layer", "did you mean `--show-layers`"),
        ("model convert m --show-layers", "it is an option of `bitnet model inspect`"),
        ("model convert m -o x --format bitnt", "did you mean `bitnet`?"),
        ("model convert m -o x --format ggfu", "known: bitnet, huggingface"),
        ("bench compare a,b --metrics latncy", "did you mean `latency`?"),
        ("dev test --devices cpu,metl", "did you mean `metal`?"),
        ("quant validate m r --metric pl", "did you mean `ppl`?"),
        ("bench profile m --input-shape 4x", "4x512"),
        ("model edit m -o x --set novalue", "KEY=VALUE"),
        ("model inspect m --emit jsn", "did you mean `json`?"),
    ],
)
def test_a_mistake_is_answered_with_what_was_meant_at_every_level(bitnet, line, hint):
    done = bitnet(*line.split())
    assert done.rc == 2 and hint in done.err


@pytest.mark.parametrize("json", ["--json", "-J", "--emit=json"])
def test_a_mistake_in_the_options_is_told_in_the_form_asked_for(bitnet, json):
    done = bitnet("model", "inspect", "m", "--nosuch", json)
    assert done.envelope["errors"][0]["code"] == "cli.unknown_option"


def test_an_option_that_is_not_built_is_refused_wherever_it_comes_from(
    bitnet, fake_command, monkeypatch
):
    fake_command(fine, AnnouncedArgs)
    line = ("dev", "fake", "m", "--json")
    assert bitnet(*line, "--later").envelope["errors"][0]["code"] == "cli.not_built"
    monkeypatch.setenv("BITNET_LATER", "1")
    done = bitnet(*line)
    assert done.rc == 69 and "`--later` of `bitnet dev fake`" in done.err


def test_settings_of_commands_that_are_not_built_are_known(bitnet, fake_command, monkeypatch):
    fake_command(fine, FakeArgs)
    Path("bitnet.toml").write_text("[serve.start]\nport = 8081\n")
    monkeypatch.setenv("BITNET_PORT", "8081")
    assert bitnet("dev", "fake", "a").rc == 0
    assert bitnet("serve", "start", "m").rc == 69
    monkeypatch.setenv("BITNET_PORT", "x")
    assert bitnet("serve", "start", "m").rc == 78


def test_no_input_never_asks(bitnet, fake_command):
    fake_command(fine, NeedyArgs)
    assert bitnet("dev", "fake", "--no-input", terminal=True, stdin="x\nring\n").rc == 2


def test_a_person_is_asked_until_the_answer_fits_and_shown_the_whole_line(bitnet, fake_command):
    fake_command(lambda a, c: CommandResult(data={"got": [a.name, a.shape]}), NeedyArgs)
    done = bitnet("dev", "fake", terminal=True, stdin="\nmy name\nrong\nring\n")
    assert done.rc == 0
    assert "a shape (ring, line)" in done.err
    assert "`rong` is not a value of --shape: did you mean `ring`? known: ring, line" in done.err
    assert "running: bitnet dev fake '--name=my name' --shape=ring" in done.err
    assert "my name" in done.out


def test_an_answer_that_never_comes(bitnet, fake_command):
    fake_command(fine, NeedyArgs)
    assert bitnet("dev", "fake", terminal=True, stdin="").rc == 2


def test_the_environment_and_the_workspace_meet_a_need(bitnet, fake_command, monkeypatch, tmp_path):
    fake_command(lambda a, c: CommandResult(data={"got": [a.name, a.shape]}), NeedyArgs)
    monkeypatch.setenv("BITNET_NAME", "env")
    (tmp_path / "bitnet.toml").write_text("[dev.fake]\nshape = 'line'\n")
    assert bitnet("dev", "fake", "--json").envelope["data"] == {"got": ["env", "line"]}


# ------------------------------------------------------------------------------ export


def test_export_json_writes_the_data_once(bitnet, fake_command, tmp_path):
    fake_command(fine, FakeArgs)
    assert bitnet("dev", "fake", "--export-json", "out.json").rc == 0
    assert json.loads((tmp_path / "out.json").read_text()) == {"name": None, "count": 1}
    again = bitnet("dev", "fake", "--export-json", "out.json", "-n", "2", "--json")
    assert again.rc == 73 and again.envelope["errors"][0]["code"] == "io.exists"
    assert bitnet("dev", "fake", "-n", "2", "--export-json", "out.json", "--force").rc == 0
    assert json.loads((tmp_path / "out.json").read_text())["count"] == 2


def test_export_json_without_a_file_prints_the_data_for_the_table(bitnet, fake_command):
    fake_command(fine, FakeArgs)
    assert json.loads(bitnet("dev", "fake", "x", "--export-json").out)["name"] == "x"
    assert bitnet("dev", "fake", "x", "--export-json", "--json").envelope["data"]["name"] == "x"


# -------------------------------------------------------------------------------- logs


def test_the_log_is_as_loud_as_asked(bitnet, fake_command, tmp_path):
    import logging
    import warnings

    def run(args, ctx):
        log = logging.getLogger("bitnet_jax.somewhere")
        log.debug("deep")
        log.info("steady")
        log.warning("loud")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("developers", stacklevel=1)
        return fine(args, ctx)

    fake_command(run, FakeArgs)
    assert [w in bitnet("dev", "fake").err for w in ("deep", "steady", "loud", "developers")] == [
        False,
        False,
        True,
        False,
    ]
    assert "steady" in bitnet("dev", "fake", "-v").err
    assert "deep" in bitnet("dev", "fake", "-vv").err
    assert bitnet("dev", "fake", "-q").err == ""
    bitnet("dev", "fake", "--log-file", "run.log", "--log-format", "json")
    entries = [json.loads(line) for line in (tmp_path / "run.log").read_text().splitlines()]
    assert [entry["message"] for entry in entries][1:3] == ["steady", "loud"]
    assert bitnet("dev", "fake", "--log-file", "no/where.log").rc == 66


@dataclass
class PluggedArgs(PluginArgs):
    name: Optional[str] = option(positional=True, help="a name")


def test_plugins_are_loaded_in_order_before_the_command_runs(bitnet, fake_command, fake_api):
    order = []
    fake_api(load_plugin=lambda file: order.append(file))
    fake_command(lambda args, ctx: order.append("run") or CommandResult(), PluggedArgs)
    assert bitnet("dev", "fake", "--plugin", "b.py", "--plugin=a.py").rc == 0
    assert order == ["b.py", "a.py", "run"]
    assert bitnet("dev", "fake").rc == 0 and order[3:] == ["run"]


def test_a_plugin_that_fails_keeps_the_command_from_running(bitnet, fake_command, fake_api):
    def refuse(file):
        print("printed by the plugin")
        raise errors.BadData("plugin.failed", f"`{file}`, line 3: it broke")

    fake_api(load_plugin=refuse)
    fake_command(lambda args, ctx: pytest.fail("ran"), PluggedArgs)
    done = bitnet("dev", "fake", "--plugin", "f.py", "--json")
    assert done.rc == 65 and done.envelope["errors"][0]["code"] == "plugin.failed"
    assert "printed by the plugin" in done.err


@pytest.mark.parametrize(
    ("file", "rc", "code"),
    [
        ("old.json", 73, "io.exists"),
        ("nowhere/out.json", 66, "io.no_parent"),
        ("model.bitnet", 2, "cli.export_name"),
        ("m.SafeTensors/", 2, "cli.export_name"),
        ("m.gguf", 2, "cli.export_name"),
        ("m.onnx", 2, "cli.export_name"),
        (".", 73, "io.not_file"),
    ],
)
def test_an_export_that_cannot_be_is_refused_before_the_command_runs(
    bitnet, fake_command, tmp_path, file, rc, code
):
    (tmp_path / "old.json").write_text("old")
    fake_command(lambda args, ctx: pytest.fail("ran"), FakeArgs)
    force = [] if code == "io.exists" else ["--force"]
    done = bitnet("dev", "fake", "--export-json", file, *force, "--json")
    assert (done.rc, done.envelope["errors"][0]["code"]) == (rc, code)
    assert [p.name for p in tmp_path.iterdir()] == ["old.json"]


def test_an_export_that_fails_afterwards_keeps_the_record(bitnet, fake_command, tmp_path):
    def run(args, ctx):
        (tmp_path / "out.json").write_text("meanwhile")
        return fine(args, ctx)

    fake_command(run, FakeArgs)
    done = bitnet("dev", "fake", "x", "--export-json", "out.json", "--json")
    assert (done.rc, done.envelope["errors"][0]["code"]) == (73, "io.exists")
    assert done.envelope["data"]["name"] == "x" and "wrote" not in done.err
    (tmp_path / "out.json").unlink()
    assert "name   x" in bitnet("dev", "fake", "x", "--export-json", "out.json").out


@pytest.mark.parametrize(
    ("argv", "emit"),
    [
        (["-ejson"], "json"),
        (["-e=json"], "json"),
        (["-ejson", "-eyaml"], "yaml"),
        (["-ejsn"], "table"),
        (["--", "--json"], "table"),
        (["--emit=csv", "--", "-ejson"], "csv"),
        (["-qJ"], "json"),
        (["-vvFJ"], "json"),
        (["-qe", "yaml"], "yaml"),
        (["-qe=csv"], "csv"),
        (["-oJ"], "table"),
        (["-qoJ"], "table"),
        (["-eJ"], "table"),
        (["-e"], "table"),
        (["--emit"], "table"),
    ],
)
def test_the_form_that_is_asked_for_is_guessed_as_it_is_parsed(argv, emit):
    assert guess_emit(argv, {}) == emit


def test_what_the_guess_knows_is_what_there_is():
    letters = {"h": True, "V": True}
    for command in registry.COMMANDS:
        fields = {**option_strings(registry.load(command)[1]), **option_strings(GlobalArgs)}
        for spelling, field in fields.items():
            if not spelling.startswith("--"):
                alone = field.type is bool or bool(field.metadata.get("count"))
                assert letters.setdefault(spelling[1:], alone) is alone
    assert "".join(sorted(letter for letter, alone in letters.items() if alone)) == FLAGS
    assert FORMS == tuple(RENDERERS) == get_args(GlobalArgs.__dataclass_fields__["emit"].type)
    assert all(config.TRUTH[word] for word in TRUE)
    assert len(TRUE) == sum(config.TRUTH.values())


@pytest.mark.parametrize(("words", "printed"), [("-qJ", True), ("-ejsonl", True), ("-oJ", False)])
def test_a_signal_before_anything_is_imported_is_told_in_that_form_too(spawn, words, printed):
    code = f"""
import os, signal, sys
sys.argv = ["bitnet", "dev", "check", {words!r}]
import bitnet_cli.__main__
assert "bitnet_cli.main" not in sys.modules
os.kill(os.getpid(), signal.SIGINT)
"""
    done = spawn(code=code)
    assert done.rc == 130 and done.err == "error[cli.interrupted]: interrupted\n"
    assert bool(done.out) == printed
    if printed:
        assert done.envelope["errors"][0]["code"] == "cli.interrupted"
        assert done.envelope.get("event") == ("result" if "jsonl" in words else None)


def test_all_faults_of_the_settings_are_told_at_once(bitnet, fake_command, tmp_path):
    fake_command(fine, FakeArgs)
    (tmp_path / "bitnet.toml").write_text(
        'progres = "plain"\n[dev.fake]\ncuont = 1\n[bnech]\nx = 1\n[dev.nosuch]\ny = 1\n'
    )
    (tmp_path / "s.yaml").write_text("emitt: json\nquite: true\n")
    done = bitnet("dev", "fake", "--settings", "s.yaml", "--json")
    assert done.rc == 78
    told = [error["message"] for error in done.envelope["errors"]]
    places = ("s.yaml:1:1", "s.yaml:2:1", "toml:4:2", "toml:6:6", "toml:1:1", "toml:3:1")
    assert sorted(p for p in places if any(p in words for words in told)) == sorted(places)
    assert len(told) == len(places) and all(error["hint"] for error in done.envelope["errors"])
    assert bitnet("dev", "fake", "--settings", "s.yaml").err.count("error[settings.") == 6


def test_all_values_and_variables_that_do_not_fit_are_told(
    bitnet, fake_command, tmp_path, monkeypatch
):
    fake_command(fine, FakeArgs)
    (tmp_path / "bitnet.toml").write_text('quiet = "perhaps"\n[dev.fake]\ncount = "many"\n')
    done = bitnet("dev", "fake", "--json")
    assert {error["code"] for error in done.envelope["errors"]} == {"settings.bad_value"}
    assert len(done.envelope["errors"]) == 2 and done.rc == 78
    for name in ("BITNET_ONE", "BITNET_TWO"):
        monkeypatch.setenv(name, "x")
    assert len(bitnet("dev", "fake", "--json").envelope["errors"]) == 2


def test_thousands_of_faults_are_counted(bitnet, fake_command, tmp_path):
    fake_command(fine, FakeArgs)
    (tmp_path / "bitnet.toml").write_text("".join(f"x{n} = 1\n" for n in range(1000)))
    errors = bitnet("dev", "fake", "--json").envelope["errors"]
    assert len(errors) == 22 and errors[-1]["message"] == "and 979 more"
