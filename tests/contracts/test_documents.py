from __future__ import annotations

import re
import shlex

import pytest

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md")


@pytest.fixture(scope="module")
def documents(repo):
    return [file for pattern in DOCUMENTS for file in repo.glob(pattern)]


def test_the_readme_example_runs(repo):
    blocks = re.findall(r"```python\n(.*?)```", (repo / "README.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_every_link_between_documents_leads_somewhere(documents):
    for file in documents:
        for target in re.findall(r"\]\(([^)#]+)", file.read_text()):
            if "://" not in target:
                assert (file.parent / target).exists(), f"{file} links to {target}"


def test_every_command_shown_in_the_readme_parses(repo):
    from bitnet_cli import help as pages
    from bitnet_cli import registry, route
    from bitnet_cli.args import Parser
    from bitnet_cli.options import GlobalArgs

    lines = re.findall(r"^bitnet .+", (repo / "README.md").read_text(), re.M)
    assert len(lines) > 5
    for line in lines:
        asked = route.route(shlex.split(line)[1:])
        if asked.kind == "help":
            assert pages.found(asked.argv, 80)
            continue
        _, args = registry.load(asked.command)
        Parser(GlobalArgs, args).typed(asked.argv)


def test_every_decision_is_listed(repo):
    index = (repo / "docs/decisions/README.md").read_text()
    for file in (repo / "docs/decisions").glob("0*.md"):
        assert f"({file.name})" in index


def test_every_folder_of_the_library_is_on_the_map(repo):
    page = (repo / "docs/architecture.md").read_text()
    for init in (repo / "bitnet_jax").glob("*/__init__.py"):
        assert f"`{init.parent.name}/`" in page
