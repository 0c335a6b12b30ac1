"""Object stores for tests: one in memory, and servers that the real clients talk to.

Each holds objects by ``bucket/key`` and takes the same faults: `cut_get` and `cut_put`
(`name`, `times`, `skip`: how many pass before), `wrong`, `shorten`, `status`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

from fsspec.implementations.memory import MemoryFileSystem

ROOT = Path(__file__).parent.parent.parent


class FaultyMemory(MemoryFileSystem):
    """fsspec's memory, that fails as it is told to, and states checksums as Google does."""

    cachable = False

    def __init__(self):
        super().__init__()
        self.store, self.pseudo_dirs = {}, [""]
        self.faults, self.ranges, self.before_read = {}, [], lambda path: None

    def _fails(self, kind, path):
        fault = self.faults.get(kind)
        if not fault or not re.search(fault["name"], path):
            return False
        if fault.get("skip", 0):
            fault["skip"] -= 1
            return False
        fault["times"] = fault.get("times", 1) - 1
        return fault["times"] >= 0

    def _stated(self, info):
        if info["type"] == "file":
            data = self.store[info["name"]].getvalue()
            info["md5Hash"] = base64.b64encode(hashlib.md5(data).digest()).decode()
        return info

    def info(self, path, **kwargs):
        if "status" in self.faults:
            raise {403: PermissionError, 503: OSError}[self.faults["status"][0]]("told to")
        return self._stated(super().info(path, **kwargs))

    def ls(self, path, detail=True, **kwargs):
        return [self._stated(item) for item in super().ls(path, detail=True, **kwargs)]

    def cat_file(self, path, start=None, end=None, **kwargs):
        self.ranges.append((path, start))
        self.before_read(path)
        if self._fails("cut_get", path):
            raise ConnectionResetError("cut")
        data = super().cat_file(path, start=start, end=end)
        if self.faults.get("wrong") == path:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return data

    def put_file(self, lpath, rpath, callback=None, **kwargs):
        if self._fails("cut_put", rpath):
            raise ConnectionResetError("cut")
        data = Path(lpath).read_bytes()
        if self.faults.get("shorten") and re.search(self.faults["shorten"], rpath):
            data = data[:-1]
        self.pipe_file(rpath, data)
        callback.absolute_update(len(data))


class MemoryStore:
    scheme = "gs"

    def __init__(self):
        self.fs = FaultyMemory()

    def environment(self, monkeypatch):
        for module in ("objects", "upload"):
            monkeypatch.setattr(f"bitnet_jax.stores.{module}.filesystem", lambda address: self.fs)

    def faults(self, **faults):
        self.fs.faults = faults
        self.fs.ranges.clear()

    def put(self, name, data):
        self.fs.pipe_file(name, data)

    def objects(self):
        return {name.strip("/"): len(file.getvalue()) for name, file in self.fs.store.items()}

    def ranges(self, word):
        return [start for path, start in self.fs.ranges if word in path]

    def close(self):
        pass


async def _no_sleep(seconds):
    pass


class ServedStore:
    """A store behind a server of its own process, and the client's way to it."""

    def __init__(self, scheme, module, environment):
        self.scheme, self._environment = scheme, environment
        self.process = subprocess.Popen(
            [sys.executable, "-m", module], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.endpoint = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"

    def environment(self, monkeypatch):
        for name, value in self._environment(self.endpoint).items():
            monkeypatch.setenv(name, value)
        if self.scheme == "gs":  # it tries six times, and waits for half a minute in all
            monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=_no_sleep))

    def _call(self, **message):
        request = urllib.request.Request(
            f"{self.endpoint}/fake", json.dumps(message).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def _state(self):
        with urllib.request.urlopen(f"{self.endpoint}/fake", timeout=10) as answer:
            return json.load(answer)

    def faults(self, **faults):
        self._call(**faults)

    def put(self, name, data):
        self._call(put=[name, base64.b64encode(data).decode()])

    def objects(self):
        return self._state()["objects"]

    def ranges(self, word):
        rows = self._state()["asked"]
        return [
            int(re.match(r"bytes=(\d+)", given)[1])
            for method, key, given in rows
            if method == "GET" and word in key and given
        ]

    def close(self):
        self.process.terminate()
        self.process.wait(10)
        self.process.stdout.close()


def s3_environment(endpoint):
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2",
    }


def gs_environment(endpoint):
    return {
        "STORAGE_EMULATOR_HOST": endpoint,
        "FSSPEC_GS_TOKEN": "anon",
        # Asks of each bucket, over another protocol, whether it is of a newer kind.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "NO_GCE_CHECK": "true",
    }


STORES = {
    "memory": MemoryStore,
    "s3": lambda: ServedStore("s3", "tests.stores.fake_s3", s3_environment),
    "gs": lambda: ServedStore("gs", "tests.stores.fake_gs", gs_environment),
}
