"""The fake hub as a process, and a cache of Hugging Face that is the test's own."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

# Kernels are built there once for all tests.
KERNELS = os.environ["BITNET_CACHE_DIR"]
ROOT = Path(__file__).parent.parent.parent


class FakeHub:
    """A running fake hub: where it is, its repositories, its faults."""

    def __init__(self, folder):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.stores.fake_hub", str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.endpoint = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"

    def faults(self, **faults):
        """Sets the faults that follow, and forgets what was asked."""
        request = urllib.request.Request(
            f"{self.endpoint}/fake", json.dumps(faults).encode(), method="POST"
        )
        urllib.request.urlopen(request, timeout=10).close()

    def asked(self, word=""):
        """The requests since: [method, path, range, token]."""
        with urllib.request.urlopen(f"{self.endpoint}/fake", timeout=10) as answer:
            return [row for row in json.load(answer) if word in row[1]]

    def close(self):
        self.process.terminate()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def hub_process(tmp_path_factory):
    hub = FakeHub(tmp_path_factory.mktemp("hub"))
    yield hub
    hub.close()


@pytest.fixture
def hub(hub_process, tmp_path, monkeypatch):
    """The fake hub, without faults, reached by an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # read from the environment once
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", hub_process.endpoint)
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "20")
    monkeypatch.setattr("bitnet_jax.stores.transfer.FIRST_WAIT", 0.01)
    hub_process.faults()
    return hub_process


@pytest.fixture
def environment(hub, tmp_path):
    """The same for a process of its own."""
    return {**os.environ, "HF_HUB_OFFLINE": "0", "BITNET_CACHE_DIR": KERNELS}
