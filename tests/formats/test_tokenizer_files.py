"""The tokenizer's files: what goes through is what comes out."""

import pytest

from bitnet_jax.formats.checkpoint import TokenizerFiles
from bitnet_jax.formats.tokenizer_files import from_files, to_files

NAMED = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]


@pytest.mark.parametrize("template", ["a", "b"])
@pytest.mark.parametrize("key", [None, "a", "other", NAMED])
def test_a_template_in_its_file_comes_before_the_key(template, key):
    config = {} if key is None else {"chat_template": key}
    written = to_files(TokenizerFiles(b"{}", config, template, {}))
    again = from_files(written.get, "m")
    assert again is not None and again.chat_template == template and again.config == config
    said = template == "a" and key in ("a", NAMED)  # by the key already
    assert ("chat_template.jinja" in written) == (not said)
