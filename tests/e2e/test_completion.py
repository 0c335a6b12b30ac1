"""TAB in real shells, at real terminals."""

import pytest

from bitnet_cli.completion import script
from tests.e2e.pseudo_terminal import terminal

READY = "bitnet-is-ready"

# How a shell is started without anybody's own settings, and given the script.
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "bind 'set show-all-if-ambiguous on'; source ./script",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "unsetopt zle_bracketed_paste; autoload -Uz compinit; compinit -u -d ./dump; "
        "source ./script",
    ),
    "zsh, from fpath": (
        ["zsh", "-f", "-i"],
        "unsetopt zle_bracketed_paste; fpath=($PWD $fpath); autoload -Uz compinit; "
        "compinit -u -d ./dump",
    ),
    "fish": (["fish", "--no-config", "-i"], "source ./script"),
    "tcsh": (["tcsh", "-f"], "set autolist; source ./script"),
}

# What is typed before TAB, and what stands there after it.
COMPLETED = {
    "a group": ("bitnet mod", "bitnet model "),
    "a command": ("bitnet model ins", "bitnet model inspect "),
    "an alias": ("bitnet quant tr", "bitnet quant train "),
    "an option": ("bitnet model inspect --show-l", "bitnet model inspect --show-layers"),
    "a choice": ("bitnet model inspect --emit ya", "bitnet model inspect --emit yaml"),
    "a choice after =": ("bitnet model inspect --emit=ya", "--emit=yaml"),
    "a model, not the text beside it": ("bitnet model inspect on", "inspect one.bitnet"),
    "a model with a space": ("bitnet serve chat -m my", "my\\ model.bitnet"),
    "a recipe": ("bitnet train start -c on", "-c one.yaml"),
    "a model of the hub's cache": ("bitnet chat acme/", "bitnet chat acme/tiny"),
    "a profile": ("bitnet --profile lap", "--profile laptop"),
    "a key": ("bitnet dev config get serve.generate.dum", "serve.generate.dump-passes"),
    "a topic": ("bitnet help exi", "bitnet help exit-codes"),
}
# tcsh's rules know neither functions nor two kinds of word in one place.
LACKS = {"tcsh": {"a model of the hub's cache", "a profile", "a key"}}


@pytest.fixture
def place(tmp_path):
    for name in ("one.bitnet", "one.txt", "one.yaml", "my model.bitnet"):
        (tmp_path / name).touch()
    (tmp_path / "hub" / "models--acme--tiny").mkdir(parents=True)
    (tmp_path / "config" / "profiles").mkdir(parents=True)
    (tmp_path / "config" / "profiles" / "laptop.toml").touch()
    return tmp_path


@pytest.mark.parametrize("shell", SHELLS)
def test_tab(shell, place):
    text = script(shell.partition(",")[0], {"BITNET_CONFIG_DIR": str(place / "config")})
    (place / "script").write_text(text)
    (place / "_bitnet").write_text(text)  # as zsh finds it in a folder of fpath
    argv, setup = SHELLS[shell]
    env = {"HOME": str(place), "HF_HUB_CACHE": str(place / "hub"), "LC_ALL": "C.UTF-8"}
    with terminal(*argv, cwd=place, env=env, columns=200) as shown:
        shown.type(f"{setup}\n")
        shown.type("echo bitnet-is-'ready'\n")
        shown.wait_for(READY)
        wrong = {}
        for name, (typed, wanted) in COMPLETED.items():
            if name in LACKS.get(shell, ()):
                continue
            shown.settle(0.1)
            shown.raw = b""
            shown.type(typed + "\t")
            try:
                shown.wait_for(wanted, timeout=10)
            except AssertionError:
                wrong[name] = shown.screen
            shown.settle(0.1)
            shown.type("\x15\n")  # Ctrl-U, and a new prompt
        assert not wrong
