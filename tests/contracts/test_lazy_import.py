from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest

HEAVY = {
    "jax",
    "jaxlib",
    "numpy",
    "onnx",
    "flax",
    "optax",
    "orbax",
    "rich",
    "torch",
    "transformers",
}


def modules_after(code: str) -> set[str]:
    """Top-level modules that are loaded when `code` has run in a fresh interpreter."""
    script = code + "\nimport sys, json; print(json.dumps([m.split('.')[0] for m in sys.modules]))"
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(out.stdout.splitlines()[-1]))


def test_import_bitnet_jax_imports_nothing_heavy():
    code = "import bitnet_jax; dir(bitnet_jax); bitnet_jax.__version__"
    assert not modules_after(code) & HEAVY


def test_import_of_the_command_line_imports_nothing_heavy(repo):
    if not (repo / "cli/main.py").exists():
        pytest.fail("cli/main.py is missing: the `bitnet` script points at it")
    assert not modules_after("import bitnet_cli.main") & HEAVY


def test_help_imports_nothing_heavy():
    code = (
        "import sys, io, contextlib\n"
        "from bitnet_cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
    )
    assert not modules_after(code) & HEAVY


def test_the_public_names_are_those_of_api(repo):
    import bitnet_jax

    assigned = {
        target.id: node.value
        for node in ast.parse((repo / "bitnet_jax/api.py").read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert tuple(ast.literal_eval(assigned["__all__"])) == bitnet_jax.__all__


def test_every_public_name_is_there():
    import bitnet_jax

    for name in bitnet_jax.__all__:
        assert getattr(bitnet_jax, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    import bitnet_jax

    with pytest.raises(AttributeError, match="no attribute `nothing`"):
        _ = bitnet_jax.nothing
