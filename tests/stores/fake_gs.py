"""An object store in a process of its own that speaks Google's JSON API, as far as gcsfs calls it.

Run as ``python -m tests.stores.fake_gs``; objects, faults and the log are those of `fake_s3`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.stores import fake_s3
from tests.stores.fake_s3 import ASKED, BUCKET, FAULTS, OBJECTS, UPLOADS, Gone

PATH = re.compile(r"/(?:(upload|download)/)?storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?(/?)")


class Handler(fake_s3.Handler):
    def begin(self):
        url = urlsplit(self.path)
        self.query = {name: v[0] for name, v in parse_qs(url.query).items()}
        self.key = "fake"
        if url.path == "/fake":
            return self.fake()
        found = PATH.fullmatch(url.path)
        kind, bucket, name, _ = found.groups()
        name = unquote(name or self.query.get("name", ""))
        self.key = f"{bucket}/{name}" if name else bucket
        ASKED.append([self.command, self.key, self.headers.get("Range")])
        if FAULTS.get("status"):
            self.body()
            return self.error(*FAULTS["status"])
        if bucket != BUCKET:
            return self.error(404, "no such bucket")
        if self.command == "POST":
            return self.upload(bucket)
        if self.command == "DELETE":
            self.body()
            if "upload_id" in self.query:
                UPLOADS.pop(self.query["upload_id"], None)
                return self.answer(499, b"")
            return self.answer(204 if OBJECTS.pop(self.key, None) else 404, b"")
        if not name:
            listed = url.path.endswith("/o") or url.path.endswith("/o/")
            return self.listed(bucket) if listed else self.json({"name": bucket})
        if self.key not in OBJECTS:
            return self.error(404, "no such object")
        return self.on_GET() if kind == "download" else self.json(resource(self.key))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = begin

    def listed(self, bucket):
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        items, folders = [], set()
        for full in sorted(OBJECTS):
            key = full.partition("/")[2]
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                items.append(resource(full))
        most = int(self.query.get("maxResults", 1000))
        self.json({"kind": "storage#objects", "items": items[:most], "prefixes": sorted(folders)})

    def upload(self, bucket):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "upload_id" in self.query:
            return self.chunk(body)
        if self.query["uploadType"] == "resumable":
            name = f"u{len(ASKED)}"
            UPLOADS[name] = {}
            here = f"http://127.0.0.1:{self.server.server_port}/upload/storage/v1/b/{bucket}/o"
            key = self.key.partition("/")[2]
            place = f"{here}?name={key}&upload_id={name}"
            return self.answer(200, b"", {"Location": place})
        boundary = re.search(r'boundary="(.+?)"', self.headers["Content-Type"])[1].encode()
        _, head, data, _ = body.split(b"--" + boundary)
        name = json.loads(head.split(b"\n\n", 1)[1])["name"]
        self.key = f"{bucket}/{name}"
        self.store(data.split(b"\n\n", 1)[1][:-1])

    def chunk(self, body):
        parts = UPLOADS[self.query["upload_id"]]
        start, end, size = map(int, re.findall(r"\d+", self.headers["Content-Range"]))
        parts[start] = body
        if end + 1 < size:
            return self.answer(308, b"", {"Range": f"bytes=0-{end}"})
        UPLOADS.pop(self.query["upload_id"])
        return self.store(b"".join(parts[at] for at in sorted(parts)))

    def store(self, data):
        cut = FAULTS.get("cut_put")
        if cut and re.search(cut["name"], self.key) and cut.get("times", 1):
            cut["times"] = cut.get("times", 1) - 1
            self.connection.close()
            raise Gone
        whole = resource(self.key, data)
        if FAULTS.get("shorten") and re.search(FAULTS["shorten"], self.key):
            data = data[:-1]
        OBJECTS[self.key] = (data, time.time())
        self.json(whole)

    def json(self, value):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def error(self, status, code):
        body = {"error": {"code": status, "message": code, "errors": [{"reason": code}]}}
        self.answer(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


def resource(full, data=None):
    stored, stamp = OBJECTS.get(full, (b"", time.time()))
    data = stored if data is None else data
    bucket, _, name = full.partition("/")
    when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stamp))
    return {
        "kind": "storage#object",
        "name": name,
        "bucket": bucket,
        "generation": str(int(stamp * 1e6)),
        "size": str(len(data)),
        "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
        "etag": str(int(stamp * 1e6)),
        "updated": when,
        "timeCreated": when,
        "storageClass": "STANDARD",
    }


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
