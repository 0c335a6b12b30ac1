"""Families from elsewhere: what a file or a package may give, and every way it can be wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import pytest

from bitnet_jax.core.errors import BadData, BitnetError, NoInput, Unavailable, UsageError
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import families
from bitnet_jax.models.families import (
    by_huggingface,
    every_family,
    family_for,
    family_of,
    fresh_params,
    load_plugin,
    shapes,
)
from tests.suites.families import ROWS, page_plugin
from tests.tiny import tiny_spec

SPEC = dict(
    family="distance", activation="gelu", sub_norms=False, num_kv_heads=4, rope_theta=10000.0
)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What a test loads is not known to the next one."""
    monkeypatch.setattr(families, "_files", {})
    monkeypatch.setattr(families, "_packages", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("broken_family", "my_family", "beside"):
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def standard_promotion(_strict_promotion):
    """A user's code is written under JAX's own rules, not under those of our tests."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def page(tmp_path):
    """The page's plugin, and a way to change its text."""

    def write(*changes, name="my_family.py"):
        path = page_plugin(tmp_path)
        text = path.read_text()
        for old, new in changes:
            assert text.count(old) >= 1, old
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with an entry point on the path, as pip leaves one."""

    def put(module, text, name="distance", value="FAMILY", dist="my-family", version="1.2"):
        site = tmp_path / f"site-{dist}"
        info = site / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(
            f"[bitnet_jax.families]\n{name} = {module}:{value}\n"
        )
        (site / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(str(site))
        return site

    return put


BUILT_IN = ["built in"] * len(families.FAMILIES)


# ------------------------------------------------------------------------------- files
def test_a_file_gives_its_family(page):
    assert load_plugin(page()) == ["distance"]
    assert family_of("distance").name == "distance"
    assert [row.source for row in every_family()[0]] == [*BUILT_IN, f"file {page()}"]


def test_a_file_may_be_loaded_again_and_its_latest_word_holds(page):
    load_plugin(page())
    first = family_of("distance")
    load_plugin(str(page()))
    assert family_of("distance") is not first
    load_plugin(page(('name="distance"', 'name="far"'), ('"distance", KEYS', '"far", KEYS')))
    assert family_of("far")
    with pytest.raises(BadData, match="`distance` is not known"):
        family_of("distance")


def test_a_file_may_give_several_and_import_what_stands_beside_it(page, tmp_path):
    page(name="beside.py")
    (tmp_path / "two.py").write_text(
        "from dataclasses import replace\nimport beside\n"
        "FAMILIES = [beside.FAMILY, replace(beside.FAMILY, name='near', huggingface=None)]\n"
    )
    assert load_plugin(tmp_path / "two.py") == ["distance", "near"]


def test_nothing_is_written_beside_the_file(page):
    path = page()
    load_plugin(path)
    assert [item.name for item in path.parent.iterdir()] == ["my_family.py"]


# What stands in the file -> (class, code, words)
FILES = {
    "empty": (b"", BadData, "plugin.no_family", "neither FAMILIES nor FAMILY"),
    "not Python": (b"FAMILY = (\n", BadData, "plugin.not_python", "line 1: this is no Python"),
    "a null byte": (b"x = 1\0", BadData, "plugin.not_python", "null"),
    "no text": (b"\xff\xfe\x00\x01", BadData, "plugin.not_python", ""),
    "a model": (b"\x80\0\0\0\0\0\0\0{}", BadData, "plugin.not_python", ""),
    "it raises": (b"x = 1\nx / 0\n", BadData, "plugin.failed", "line 2: ZeroDivisionError"),
    "it exits": (b"import sys\nsys.exit(3)\n", BadData, "plugin.failed", "SystemExit: 3"),
    "it lacks a module": (b"import nowhere_at_all\n", BadData, "plugin.failed", "nowhere_at_all"),
    "a name": (b"FAMILY = 'bitnet'\n", BadData, "plugin.no_family", "of type str"),
    "the class": (
        b"import bitnet_jax as bj\nFAMILY = bj.Family\n", BadData, "plugin.no_family", "type type"),
    "none of them": (b"FAMILIES = ()\n", BadData, "plugin.no_family", "empty sequence"),
    "one of two": (b"FAMILIES = (1, 2)\n", BadData, "plugin.no_family", "of type int"),
    "our own error": (
        b"import bitnet_jax as bj\n\nr = bj.Rule('x', to='trenary')\n", UsageError, "rule.to",
        "line 3: rule `x`"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_gives_no_family(case, tmp_path):
    content, kind, code, words = FILES[case]
    (tmp_path / "f.py").write_bytes(content)
    before = set(sys.modules)
    with pytest.raises(kind) as caught:
        load_plugin(tmp_path / "f.py")
    assert caught.value.code == code and words in caught.value.message
    assert "f.py" in caught.value.message and caught.value.hint
    assert not [name for name in set(sys.modules) - before if name.startswith("bitnet_plugin")]


def test_no_file_and_a_folder(tmp_path):
    for path, kind, code in (
        (tmp_path / "none.py", NoInput, "plugin.not_found"),
        (tmp_path, BadData, "plugin.not_python"),
    ):
        with pytest.raises(kind) as caught:
            load_plugin(path)
        assert caught.value.code == code


# A change of the page's file -> what is said of its row
FAULTS = {
    "name": (('name="distance"', 'name="Distance!"'), "its name must be lower-case"),
    "names a list": (("names=NAMES", "names=list(NAMES)"), "`names` must be a tuple"),
    "names of strings": (("names=NAMES", "names=('a',)"), "tuple of Parameters"),
    "nothing ternary": ((", ternary=True)", ")"), "no row of `names` is ternary"),
    "no rules": (('rules=(bj.Rule("layers.*.*"),)', "rules=()"), "`rules` must be a tuple"),
    "rules that take too little": (("layers.*.*", "layers.*.qkv"), "the rules do not take it"),
    "rules that take too much": (("layers.*.*", "**"), "`embed_tokens`: `names` says not ternary"),
    "init": (("init=init", "init=None"), "`init` is no function"),
    "twice": (('"layers.N.up", "model.layers.N.up.weight"',
               '"layers.N.up", "model.layers.N.out.weight"'), "stands twice"),
    "N in one name": (("model.layers.N.up.weight", "model.layers.up.weight"), "must stand once"),
    "a name with a slash": (("model.embed.weight", "model/embed"), "joined by dots"),
    "needs": (('"VH")', '"VH", needs="bias")'), "needs `bias`, which is no field"),
    "a ternary vector": (('"layers.N.norm", "model.layers.N.norm.weight", "H"',
                          '"layers.N.norm", "model.layers.N.norm.weight", "H", True'), "matrix"),
    "extra": (("init=init", "init=init, extra={'vocab_size': 3}"), "that no spec has already"),
    "extra of a kind": (("init=init", "init=init, extra={'x': [1]}"), "must have a number"),
    "values": (('"sub_norms": (False,)', '"subnorms": (False,)'), "must be a field of ModelSpec"),
    "huggingface": (("huggingface=bj", "huggingface=1 or bj"), "no HuggingFace"),
    "shapes": (("init=init", "init=init, shapes={'x': 1}"), "is no ModelSpec"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_row_that_contradicts_itself(case, page):
    change, words = FAULTS[case]
    with pytest.raises(BadData) as caught:
        load_plugin(page(change))
    assert caught.value.code == "family.row" and words in caught.value.message
    line = page().read_text().partition("FAMILY =")[0].count("\n") + 1
    assert f"my_family.py`, line {line}:" in caught.value.message


def test_a_row_for_another_version_of_the_interface(page):
    for api, hint in ((2, "newer bitnet-jax"), (0, "version of the plugin"), ("1", "newer")):
        with pytest.raises(BadData, match="this is version 1") as caught:
            load_plugin(page(("api=1", f"api={api!r}")))
        assert caught.value.code == "plugin.api" and hint in caught.value.hint


CLASHES = {
    "family": ('name="distance"', 'name="bitnet"'),
    "architecture": ("DistanceForCausalLM", "BitNetForCausalLM"),
    "model_type": ('"distance", KEYS', '"bitnet", KEYS'),
}


@pytest.mark.parametrize("kind", CLASHES)
def test_a_name_that_is_taken(kind, page):
    with pytest.raises(UsageError, match=f"the {kind} `.*` is taken .built in.") as caught:
        load_plugin(page(CLASHES[kind]))
    assert caught.value.code == "plugin.name_clash"
    assert list(families._files) == []


def test_two_files_with_one_name(page):
    load_plugin(page())
    with pytest.raises(UsageError, match="my_family.py"):
        load_plugin(page(name="other.py"))


# ----------------------------------------------------------------- its function, its init
# A change of the page's file -> what is said at its first use, and whether the line is
FUNCTIONS = {
    "a name that the table has not": (
        ('("norm", "qkv", "out", "up", "down")', '("norm", "qkv", "aut", "up", "down")'),
        "without a cache: it asks for 'layers.0.aut', which its table of names has not", True),
    "a parameter that it never uses": (
        ("normed(x, norm), qkv", "normed(x, 1.0), qkv"),
        "never uses the parameter `layers.0.norm`", False),
    "another layer's weights": (
        ('f"layers.{n}.{part}"', 'f"layers.0.{part}"'),
        "never uses the parameter `layers.1.down`", False),
    "a shape that does not fit": (
        ("@ down.T", "@ down"), "TypeError: dot_general requires contracting dimensions", True),
    "logits of another shape": (
        ('params["norm"]) @', 'params["norm"])[..., :3] @'), "TypeError", True),
    "logits in half precision": (
        ('return normed(x, params["norm"]) @ params["embed_tokens"].T,',
         'return (normed(x, params["norm"]) @ params["embed_tokens"].T).astype("bfloat16"),'),
        "they must be float32 [1, 3, 48]", False),
    "last ignored": (
        ("if last is not None", "if False"), "the logits with a cache are float32 [1, 3, 48]",
        False),
    "a cache that grows": (
        ("k, v = (o.at[rows, positions].set(n) for", "k, v = (jnp.concatenate([o, n], 1) for"),
        "is given the cache", False),
    "a cache of another kind": (
        ("init=init", "init=init, cache=lambda spec, batch, capacity: None"),
        "is given the cache None and gives back", False),
    "one value, no pair": (
        ('@ params["embed_tokens"].T, bj.KVCache(keys, values)', '@ params["embed_tokens"].T'),
        "", False),
    "sizes": (("lambda spec: {\"T\": 3", "lambda spec: {\"U\": 3"), "the letter `T`", None),
}  # fmt: skip


@pytest.mark.parametrize("case", FUNCTIONS)
def test_a_function_that_does_not_fit_its_row(case, page):
    change, words, line = FUNCTIONS[case]
    load_plugin(page(change))
    with pytest.raises(BadData) as caught:
        family_for(tiny_spec(**SPEC))
    error = caught.value
    assert error.code in ("family.function", "family.cache", "family.sizes")
    assert words in error.message and "`distance`" in error.message
    if line is not None:
        assert ("my_family.py:" in error.message) == line, error.message


INITS = {
    "too few": (('"qkv": (3 * inner, width), ', ""), "gives no `layers.0.qkv`"),
    "too many": (
        ('"norm": (width,)}\n', '"norm": (width,), "nrom": (1,)}\n'),
        "gives `nrom`, which its table of names has not"),
    "a shape": (
        ('"down": (width, wide)', '"down": (wide, width)'),
        "gives `layers.0.down` as float32 [48, 32]; its table of names says float32 [32, 48]"),
    "a dtype": (("jnp.ones(shape)", 'jnp.ones(shape, "bfloat16")'), "as bfloat16 [32]"),
    "no mapping": (("init=init", "init=lambda spec, seed: [1]"), "gives a list"),
}  # fmt: skip


@pytest.mark.parametrize("case", INITS)
def test_an_init_that_does_not_fit_its_row(case, page):
    change, words = INITS[case]
    load_plugin(page(change))
    with pytest.raises(BadData) as caught:
        fresh_params(tiny_spec(**SPEC), 0)
    assert caught.value.code == "family.init" and words in caught.value.message


# ------------------------------------------------------------------------------- specs
GOOD = {"wide": True, "slope": 8.0, "kind": "alibi", "n": 1}
EXTRA = ("init=init", f"init=init, extra={GOOD}")

SPECS = {
    "a value": (dict(activation="relu2"), "activation is 'relu2'; known: gelu"),
    "its check": (dict(num_kv_heads=2, extra=GOOD), "heads must be alike"),
    "an extra too few": (
        dict(extra={"wide": True}), "extra lacks kind, n, slope; known: wide, slope, kind, n"),
    "an extra of another type": (
        dict(extra=GOOD | {"wide": 1}), "must be of type bool"),
    "an unknown extra": (dict(extra=GOOD | {"wdie": 1}), "extra has the unknown wdie"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPECS)
def test_a_spec_that_the_family_refuses(case, page):
    changes, words = SPECS[case]
    load_plugin(page(EXTRA))
    with pytest.raises(BadData) as caught:
        family_for(tiny_spec(**SPEC | changes))
    assert caught.value.code == "config.value" and words in caught.value.message
    assert "`distance`" in caught.value.message


def test_what_is_not_said_has_the_familys_default(page):
    load_plugin(page(EXTRA))
    family = family_of("distance")
    fields = {k: v for k, v in vars(tiny_spec(**SPEC)).items() if k not in ("family", "extra")}
    spec = family.spec(**fields, extra={"slope": 4})
    assert dict(spec.extra) == {"kind": "alibi", "n": 1, "slope": 4.0, "wide": True}
    assert type(spec.extra["slope"]) is float
    assert ModelSpec.from_json(spec.to_json()) == spec
    with pytest.raises(BadData, match="unexpected keyword"):
        family.spec(**fields, colour="red")


# ---------------------------------------------------------------------------- packages
def test_a_package_is_imported_when_its_family_is_asked_for(page, install):
    install("my_family", page().read_text())
    assert family_of("bitnet") and "my_family" not in sys.modules
    assert family_of("distance").name == "distance" and "my_family" in sys.modules
    listed, problems = every_family()
    assert [row.source for row in listed] == [*BUILT_IN, "package my-family 1.2"]
    assert problems == []
    assert by_huggingface("DistanceForCausalLM", None)[0] is family_of("distance")
    assert by_huggingface(None, "distance")[0] is family_of("distance")


def test_an_unknown_name_imports_no_package(page, install):
    install("my_family", page().read_text())
    with pytest.raises(BadData, match="`distnce` is not known") as caught:
        family_of("distnce")
    assert caught.value.hint.startswith("did you mean `distance`")
    assert "A family of your own: install" in caught.value.hint
    assert "my_family" not in sys.modules


def test_shapes_of_a_package_are_found_when_they_are_asked_for(page, install):
    text = page().read_text() + "from dataclasses import replace\n"
    spec = tiny_spec(**SPEC)
    text += f"spec = bj.ModelSpec.from_json({spec.to_json()!r})\n"
    text += "FAMILY = replace(FAMILY, shapes={'distance-tiny': spec})\n"
    install("my_family", text)
    assert "distance-tiny" not in shapes(packages=False)
    assert shapes(packages=True)["distance-tiny"] == spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("raise SystemExit(2)\n", "SystemExit: 2"),
        ("x = 1\n", "AttributeError"),
        ("import bitnet_jax as bj\nbj.Rule('x', to='y')\n", "rule `x` has to 'y'"),
    ],
)
def test_a_broken_package_breaks_only_what_needs_it(text, words, install):
    install("broken_family", text)
    assert family_of("bitnet")
    with pytest.raises(Unavailable) as caught:
        family_of("distance")
    error = caught.value
    assert error.code == "plugin.import" and words in error.message
    assert "my-family 1.2" in error.message and "repair or uninstall" in error.hint
    listed, problems = every_family()
    assert [row.family.name for row in listed] == list(families.FAMILIES)
    assert len(problems) == 1 and words in problems[0]
    # A config that nobody knows says that there is one who may have known it.
    assert by_huggingface("DistanceForCausalLM", None) == (None, problems)


@pytest.mark.parametrize(
    ("change", "name", "code", "words"),
    [
        (("api=1", "api=9"), "distance", "plugin.api", "version 9"),
        (("api=1", "api=1"), "distence", "plugin.entry_point", "gives `distance`"),
        (("FAMILY = bj", "FAMILY = 3 and bj.Rule and bj"), "distance", None, ""),
    ],
)
def test_a_package_whose_family_is_not_what_it_says(page, install, change, name, code, words):
    install("my_family", page(change).read_text(), name=name)
    if code is None:
        assert family_of(name)
        return
    with pytest.raises(BadData, match=words) as caught:
        family_of(name)
    assert caught.value.code == code
    assert words in every_family()[1][0]


def test_a_package_with_the_name_of_a_built_in_family_is_left_out_and_said(page, install):
    text = page(('name="distance"', 'name="bitnet"')).read_text()
    install("my_family", text, name="bitnet")
    assert family_of("bitnet") is families.FAMILIES["bitnet"]
    listed, problems = every_family()
    assert len(listed) == len(BUILT_IN) and "the family `bitnet` is taken (built in)" in problems[0]


def test_two_packages_with_one_name(page, install):
    text = page().read_text()
    install("my_family", text)
    install("my_family", text, dist="their-family")
    with pytest.raises(UsageError, match="provided twice") as caught:
        family_of("distance")
    assert caught.value.code == "plugin.name_clash"
    assert "their-family 1.2" in caught.value.message and "my-family 1.2" in caught.value.message
    assert len(every_family()[1]) == 1


def test_a_file_may_not_take_the_name_of_an_installed_package(page, install):
    install("my_family", page().read_text())
    with pytest.raises(UsageError, match=r"taken \(package my-family 1.2\)"):
        load_plugin(page(name="other.py"))
    assert "my_family" not in sys.modules


# ------------------------------------------------------------------------- checkpoints
def test_a_checkpoint_names_a_family_that_nobody_provides(page, tmp_path):
    (row,) = (row for row in ROWS if row.plugin == "page")
    paths = [tmp_path / "m.bitnet", tmp_path / "m.hf"]
    with row.loaded(tmp_path):
        for path in paths:
            save_checkpoint(row.checkpoint(), path)
    # What lies beside a model is never looked at, however it is called.
    for name in ("my_family.py", "distance.py", "plugin.py", "modeling_distance.py"):
        (tmp_path / name).write_text("open('canary', 'w')\n")
        (tmp_path / "m.hf" / name).write_text("open('canary', 'w')\n")
    for path, code in zip(
        paths, ("model.unknown_family", "model.unknown_architecture"), strict=True
    ):
        with pytest.raises(BadData) as caught:
            open_checkpoint(path)
        assert caught.value.code == code
        assert "install its package, or pass --plugin FILE.py" in caught.value.hint
    assert not list(tmp_path.rglob("canary")) and not Path("canary").exists()


@pytest.mark.parametrize("name", [["bitnet"], {"a": 1}, None, 3, "x" * 5000, "../evil", "os"])
def test_a_family_named_by_a_hostile_file(name):
    with pytest.raises(BitnetError) as caught:
        family_of(name)
    assert caught.value.code == "model.unknown_family" and len(str(caught.value)) < 600
