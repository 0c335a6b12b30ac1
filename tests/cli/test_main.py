"""The program as a process: imports, time, closed pipes, signals, the entry point."""

import json
import os
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

HEAVY = ("jax", "numpy", "onnx", "rich", "flax", "ruamel")

# A command of the test's own, in a process of its own.
FAKE = textwrap.dedent(
    """
    import sys, time
    from dataclasses import dataclass
    from types import ModuleType
    from bitnet_cli import main, registry
    from bitnet_cli.result import CommandResult, Text

    @dataclass
    class FakeArgs:
        "none"

    def run(args, ctx):
        {body}

    module = ModuleType("fake")
    module.run, module.EXAMPLES, module.FakeArgs = run, ("a", "b"), FakeArgs
    sys.modules["bitnet_cli.commands.dev.fake"] = module
    registry.COMMANDS += (registry.Command("dev", "fake", "commands.dev.fake:FakeArgs", "f"),)
    sys.exit(main.main())
    """
)


@pytest.mark.parametrize(
    "argv", [["--help"], [], ["model"], ["model", "convert", "--help"], ["modle"], ["bench", "run"]]
)
def test_help_and_mistakes_import_nothing_heavy(spawn, argv):
    code = (
        "import sys; from bitnet_cli.main import main; main(sys.argv[1:]);"
        "print('LOADED', *sorted(sys.modules))"
    )
    loaded = spawn(*argv, code=code).out.rpartition("LOADED")[2].split()
    assert loaded
    assert not set(HEAVY) & set(loaded)
    if argv in (["--help"], [], ["model"]):  # a command's page is made from its dataclass
        assert not {"argparse", "argparse_dataclass", "dataclasses"} & set(loaded)


def test_help_takes_less_than_five_times_an_empty_python():
    def seconds(*line):
        start = time.perf_counter()
        subprocess.run([sys.executable, *line], stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start

    # Interleaved, so that a busy machine slows both.
    pairs = [(seconds("-c", "pass"), seconds("-m", "bitnet_cli", "--help")) for _ in range(9)]
    empty, help_page = (statistics.median(column) for column in zip(*pairs, strict=True))
    assert help_page < 5 * empty, f"{help_page:.3f} s against {empty:.3f} s"


def test_the_entry_point_is_installed():
    program = Path(sys.executable).parent / "bitnet"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("bitnet ")


@pytest.mark.parametrize(("emit", "rc"), [("table", 1), ("json", 1)])
def test_a_closed_pipe_is_quiet_and_keeps_the_outcome(tmp_path, emit, rc):
    body = "return CommandResult(data={'x': 'y' * 10**6}, ok=False, exit_code=1)"
    process = subprocess.Popen(
        [sys.executable, "-c", FAKE.format(body=body), "dev", "fake", "--emit", emit],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == rc
    assert err == b""


def test_a_pipe_closed_while_text_streams_ends_the_command(tmp_path):
    body = "[ctx.write('x' * 4096) for _ in range(10**6)]; return CommandResult()"
    process = subprocess.Popen(
        [sys.executable, "-c", FAKE.format(body=body), "dev", "fake"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert err == b""


def test_a_closed_pipe_of_help_is_quiet(spawn):
    done = subprocess.run(
        f"{sys.executable} -m bitnet_cli --help | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("b", "")


@pytest.mark.parametrize(
    ("sent", "rc", "code"),
    [(signal.SIGINT, 130, b"cli.interrupted"), (signal.SIGTERM, 143, b"cli.terminated")],
)
def test_a_signal_unwinds_and_is_told(tmp_path, sent, rc, code):
    body = "\n    try: ctx.say('ready'); time.sleep(60)\n    finally: ctx.say('cleaned')"
    process = subprocess.Popen(
        [sys.executable, "-c", FAKE.format(body=body), "dev", "fake", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert process.stderr.readline() == b"ready\n"
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == rc
    assert b"cleaned" in err and b"Traceback" not in err
    assert code in out and out.count(b"\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_under_stdout_is_an_io_error(tmp_path):
    body = "return CommandResult(data={'x': 1})"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", FAKE.format(body=body), "dev", "fake", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            timeout=60,
        )
    assert done.returncode == 74
    assert done.stderr.startswith(b"error[io.disk_full]: cannot write to stdout: No space left")
    assert done.stderr.count(b"error[") == 1


FULL = pytest.param(
    ">/dev/full", marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
)


def shell(tmp_path, line):
    """Runs `bitnet` with the words and redirections of `line`."""
    done = subprocess.run(
        f"{sys.executable} -m bitnet_cli {line}",
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", ["--help", "--version", "help settings", "model inspect --help"])
@pytest.mark.parametrize("redirection", [">&-", FULL])
def test_a_page_that_cannot_be_written_is_an_io_error(tmp_path, words, redirection):
    rc, _, err = shell(tmp_path, f"{words} {redirection}")
    code = "io.stdout" if redirection == ">&-" else "io.disk_full"
    assert rc == 74 and "Traceback" not in err
    assert err.startswith(f"error[{code}]: cannot write to stdout: ")


@pytest.mark.parametrize("redirection", [">&-", FULL])
@pytest.mark.parametrize(
    ("words", "rc", "told"),
    [
        ("serve start", 69, "cli.not_built"),  # nothing was to be written
        ("serve start --json", 74, "cannot write to stdout"),
        ("serve start --emit jsonl", 74, "cannot write to stdout"),
    ],
)
def test_a_command_whose_stdout_is_lost(tmp_path, redirection, words, rc, told):
    found, _, err = shell(tmp_path, f"{words} {redirection}")
    assert found == rc
    assert told in err and "Traceback" not in err and err.count("to stdout") == (rc == 74)


@pytest.mark.parametrize("redirection", [">&-", FULL])
@pytest.mark.parametrize(("words", "rc"), [("serve start", 69), ("modle", 2), ("--version", 0)])
def test_a_lost_stderr_changes_no_outcome(tmp_path, redirection, words, rc):
    found, out, err = shell(tmp_path, f"{words} 2{redirection}")
    assert (found, err) == (rc, "")
    assert bool(out) == (rc == 0)


def test_nothing_is_open_at_all(tmp_path):
    assert shell(tmp_path, "model inspect nope <&- >&- 2>&-") == (66, "", "")
    assert shell(tmp_path, "--help <&- >&- 2>&-") == (74, "", "")


def test_a_file_opened_later_does_not_become_the_closed_stream(tmp_path):
    body = "\n    f = open('out.txt', 'w'); import os; os.write(2, b'noise'); f.write('data')"
    code = FAKE.format(body=body + "; f.close(); return CommandResult()")
    (tmp_path / "fake.py").write_text(code)
    line = f"{sys.executable} fake.py dev fake 2>&-"
    done = subprocess.run(line, shell=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0 and (tmp_path / "out.txt").read_text() == "data"


def test_a_terminal_in_an_old_encoding_still_gets_an_answer(spawn):
    body = "return CommandResult(data={'x': '\\u4e2d'}, sections=[Text('\\u4e2d')])"
    done = spawn("dev", "fake", code=FAKE.format(body=body), env={"PYTHONIOENCODING": "ascii"})
    assert (done.rc, done.out) == (0, "\\u4e2d\n")
    done = spawn(
        "dev", "fake", "--json", code=FAKE.format(body=body), env={"PYTHONIOENCODING": "ascii"}
    )
    assert done.envelope["data"]["x"] == "\u4e2d"


READS = {"whole": "ctx.read_stdin()", "lines": "while (line := ctx.ask('')): ctx.say(line)"}


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize(
    ("given", "line", "byte"),
    [(b"\xff", 1, "ff"), (b"gr\xfc\xdfe\n", 1, "fc"), (b"f\xc3\xbcr\nein\n\x80", 3, "80")],
)
def test_bytes_that_are_no_text_are_bad_data(tmp_path, given, line, byte, reads):
    body = f"{READS[reads]}\n    return CommandResult()"
    (tmp_path / "fake.py").write_text(FAKE.format(body=body))
    words = [sys.executable, "fake.py", "dev", "fake", "--json"]
    done = subprocess.run(words, input=given, cwd=tmp_path, capture_output=True, timeout=60)
    (error,) = json.loads(done.stdout)["errors"]
    assert (done.returncode, error["code"]) == (65, "cli.stdin_not_text")
    assert f"line {line}: the byte 0x{byte}" in error["message"]
    if line == 3 and reads == "lines":  # those before it have been of use
        assert done.stderr.decode().startswith("f\u00fcr\nein\n")


def test_a_stdin_that_cannot_be_read(tmp_path):
    (tmp_path / "fake.py").write_text(FAKE.format(body="ctx.read_stdin(); return CommandResult()"))
    line = f"{sys.executable} fake.py dev fake 0>out"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 74 and b"cannot read `stdin`" in done.stderr


def test_no_input_at_all(spawn):
    done = spawn("model", "inspect", "--json", stdin=subprocess.DEVNULL)
    assert done.rc == 2 and done.envelope["errors"][0]["code"] == "cli.missing_option"
