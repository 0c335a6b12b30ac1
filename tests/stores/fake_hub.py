"""A hub in a process of its own: the endpoints that huggingface_hub calls, and its faults.

Run as ``python -m tests.stores.fake_hub FOLDER``; prints its port. FOLDER holds
``org/name/<revision>/files…``. Faults and a log of requests go over ``/fake``:
``POST /fake`` sets the faults that follow, ``GET /fake`` returns what was asked so far.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

# Above this a file is one of LFS: it has a SHA-256, and lies on another host's address.
LFS_BYTES = 1000
TOKEN = "hf_good"
ROOT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
FAULTS: dict = {}
ASKED: list = []
LARGE: dict = {}  # SHA-256 -> bytes: uploaded, and in no commit yet
VISIBLE: dict = {}  # repositories that were made here: "private" or "public"
MESSAGES: list = []  # of the commits that were made here


def commit_of(folder: Path) -> str:
    digest = hashlib.sha1()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()


def sibling(folder: Path, file: Path) -> dict:
    data = file.read_bytes()
    row = {
        "rfilename": file.relative_to(folder).as_posix(),
        "size": len(data),
        "blobId": hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest(),
    }
    if len(data) > LFS_BYTES:
        sha = hashlib.sha256(data).hexdigest()
        row["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 130}
    return row | FAULTS.get("sibling", {}).get(row["rfilename"], {})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(urlsplit(self.path).path)
        if path == "/fake":
            FAULTS.clear()
            FAULTS.update(json.loads(body))
            ASKED.clear()
            return self.answer(200, b"{}")
        ASKED.append([self.command, path, None, self.auth()])
        if self.auth() != TOKEN:
            return self.error(401, "RepoNotFound")
        if FAULTS.get("post", {}).get("path", "\0") in path:
            return self.answer(FAULTS["post"]["status"], b'{"error": "no"}')
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            files = json.loads(body)["files"]
            mode = ["regular", "lfs"]
            rows = [
                {"path": f["path"], "uploadMode": mode[f["size"] > LFS_BYTES],
                 "shouldIgnore": False, "oid": None}
                for f in files
            ]  # fmt: skip
            return self.json({"files": rows})
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            host = f"http://localhost:{self.server.server_port}"
            rows = [
                {**row, "actions": {"upload": {"href": f"{host}/lfs/{row['oid']}"}}}
                for row in json.loads(body)["objects"]
            ]
            return self.json({"transfer": "basic", "objects": rows})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            return self.commit(found[1], found[2], [json.loads(line) for line in body.splitlines()])
        return self.answer(404, b"no such page")

    def do_PUT(self):
        """A large file, on another host's address; the commit that names it comes later."""
        ASKED.append([self.command, self.path, None, self.auth()])
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if FAULTS.get("put_status"):
            return self.answer(FAULTS["put_status"], b"no")
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer(400, b"other bytes")
        LARGE[oid] = body
        return self.answer(200, b"")

    def create(self, asked):
        repo = f"{asked['organization']}/{asked['name']}"
        (ROOT / repo / "main").mkdir(parents=True)
        VISIBLE[repo] = asked.get("visibility") or ("private" if asked.get("private") else "public")
        self.json({"url": f"http://127.0.0.1:{self.server.server_port}/{repo}", "id": repo})

    def commit(self, repo, revision, lines):
        folder = ROOT / repo / revision
        head, *operations = lines
        parent = head["value"].get("parentCommit")
        if parent not in (None, commit_of(folder)):
            return self.answer(412, b'{"error": "the branch has moved"}')
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "deletedFile":
                (folder / value["path"]).unlink()
            elif operation["key"] == "lfsFile":
                (folder / value["path"]).write_bytes(LARGE[value["oid"]])
            else:
                (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
        MESSAGES.append(head["value"]["summary"])
        host = f"http://127.0.0.1:{self.server.server_port}"
        oid = commit_of(folder)
        self.json({"success": True, "commitOid": oid, "commitUrl": f"{host}/{repo}/commit/{oid}"})

    def json(self, value):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urlsplit(self.path)
        path = unquote(url.path)
        if path == "/fake":
            return self.answer(200, json.dumps(ASKED).encode())
        if path == "/fake/made":
            return self.json({"visible": VISIBLE, "messages": MESSAGES})
        ASKED.append([self.command, path, self.headers.get("Range"), self.auth()])
        if FAULTS.get("status"):
            status, headers = FAULTS["status"]
            if FAULTS.get("status_times") is not None:
                FAULTS["status_times"] -= 1
                if not FAULTS["status_times"]:
                    FAULTS.pop("status")
            return self.answer(status, b"no", headers)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self.info(found[1], found[2] or "main", parse_qs(url.query))
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(*found.groups())
        if found := re.fullmatch(r"/cdn/(.+)", path):
            return self.content(ROOT / found[1])
        return self.answer(404, b"no such page")

    def auth(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def allowed(self, repo: str) -> bool:
        """Names say what a repository is: private ones hide, gated ones refuse."""
        if "private" in repo and self.auth() != TOKEN:
            self.error(401, "RepoNotFound")
            return False
        if "gated" in repo and self.auth() != TOKEN:
            self.error(403, "GatedRepo")
            return False
        if not (ROOT / repo).is_dir():
            self.error(404 if self.auth() else 401, "RepoNotFound")
            return False
        return True

    def folder(self, repo: str, revision: str) -> Path | None:
        for folder in (ROOT / repo).iterdir():
            if revision in (folder.name, commit_of(folder)):
                return folder
        self.error(404, "RevisionNotFound")
        return None

    def info(self, repo, revision, query):
        # The listing of a gated repository may be seen by all.
        if "gated" not in repo and not self.allowed(repo):
            return
        folder = self.folder(repo, revision)
        if folder is None:
            return
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        rows = [sibling(folder, file) for file in files]
        if query.get("blobs") not in (["true"], ["True"]):
            rows = [{"rfilename": row["rfilename"]} for row in rows]
        rows += FAULTS.get("extra_siblings", [])
        body = {
            "_id": "0",
            "id": repo,
            "modelId": repo,
            "sha": FAULTS.get("sha") or commit_of(folder),
            "private": "private" in repo,
            "gated": "manual" if "gated" in repo else False,
            "siblings": rows,
        }
        self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def resolve(self, repo, revision, name):
        if not self.allowed(repo) or (folder := self.folder(repo, revision)) is None:
            return
        file = folder / name
        if not file.is_file():
            return self.error(404, "EntryNotFound")
        if file.stat().st_size > LFS_BYTES:
            host = f"http://localhost:{self.server.server_port}"  # another than 127.0.0.1
            place = f"{host}/cdn/{file.relative_to(ROOT)}"
            return self.answer(302, b"", {"Location": place, "X-Repo-Commit": commit_of(folder)})
        return self.content(file)

    def content(self, file: Path):
        data = file.read_bytes()
        if FAULTS.get("wrong") == file.name:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start, status, headers = 0, 200, {"Accept-Ranges": "bytes"}
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if found and not FAULTS.get("no_ranges"):
            start, status = int(found[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if FAULTS.get("longer") == file.name:
            body += b"more"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        limit = len(body)
        fault = FAULTS.get("cut") if FAULTS.get("cut", {}).get("name") == file.name else None
        if fault and fault.get("times", 1):
            fault["times"] = fault.get("times", 1) - 1
            limit = min(limit, fault["after"])
            if fault.get("once"):  # what follows brings nothing
                fault["after"] = 0
        for at in range(0, limit, 4096):
            self.wfile.write(body[at : min(at + 4096, limit)])
            self.wfile.flush()
            time.sleep(FAULTS.get("slow", 0))
        if limit < len(body):
            time.sleep(fault.get("stall", 0))
            self.close_connection = True
            self.connection.close()

    def error(self, status: int, code: str):
        self.answer(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def answer(self, status: int, body: bytes, headers: dict | None = None):
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    # A client that is killed on purpose is no news.
    ThreadingHTTPServer.handle_error = lambda *args: None
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
