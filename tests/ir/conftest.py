"""Goldens, as the passes' tests have them."""

from tests.passes.conftest import golden as golden
