"""An object store in a process of its own that speaks S3, as far as s3fs calls it, with faults.

Run as ``python -m tests.stores.fake_s3``; prints its port. ``POST /fake`` sets the faults
that follow, ``GET /fake`` returns objects and requests. Signatures are not checked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "b"
OBJECTS: dict[str, tuple[bytes, float]] = {}
UPLOADS: dict[str, dict[int, bytes]] = {}
FAULTS: dict = {}
ASKED: list = []


class Gone(Exception):
    """The connection was cut on purpose."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (Gone, ConnectionError):
            self.close_connection = True

    def begin(self):
        url = urlsplit(self.path)
        self.key = unquote(url.path).lstrip("/")
        self.query = {name: v[0] for name, v in parse_qs(url.query, keep_blank_values=True).items()}
        if self.key == "fake":
            return self.fake()
        ASKED.append([self.command, self.key, self.headers.get("Range")])
        if FAULTS.get("status"):
            self.body()
            return self.error(*FAULTS["status"])
        return getattr(self, f"on_{self.command}")()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = begin

    def fake(self):
        if self.command == "POST":
            FAULTS.clear()
            FAULTS.update(json.loads(self.body()))
            ASKED.clear()
            if FAULTS.pop("empty", False):
                OBJECTS.clear()
                UPLOADS.clear()
            if put := FAULTS.pop("put", None):
                OBJECTS[put[0]] = (base64.b64decode(put[1]), time.time())
        state = {
            "objects": {name: len(data) for name, (data, _) in OBJECTS.items()},
            "asked": ASKED,
            "uploads": len(UPLOADS),
        }
        return self.answer(200, json.dumps(state).encode())

    def body(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        cut = FAULTS.get("cut_put")
        if cut and self.command in ("PUT",) and re.search(cut["name"], self.key):
            if cut.get("times", 1):
                cut["times"] = cut.get("times", 1) - 1
                self.rfile.read(min(length, cut["after"]))
                self.connection.close()
                raise Gone
        data = self.rfile.read(length)
        if "aws-chunked" in (self.headers.get("Content-Encoding") or ""):
            plain, at = b"", 0
            while at < len(data):
                end = data.index(b"\r\n", at)
                size = int(data[at:end].split(b";")[0], 16)
                plain += data[end + 2 : end + 2 + size]
                at = end + 2 + size + 2
                if not size:
                    break
            return plain
        return data

    def on_HEAD(self):
        if "/" not in self.key:
            return self.answer(200 if self.key == BUCKET else 404, b"")
        return self.on_GET()

    def on_GET(self):
        bucket, _, key = self.key.partition("/")
        if not key:
            return self.listing(bucket)
        if self.key not in OBJECTS:
            return self.error(404, "NoSuchKey")
        data, stamp = OBJECTS[self.key]
        if FAULTS.get("wrong") == self.key:
            data = data[:-1] + bytes([data[-1] ^ 1])
        headers = {
            "ETag": f'"{hashlib.md5(OBJECTS[self.key][0]).hexdigest()}"',
            "Last-Modified": self.date_time_string(stamp),
            "Accept-Ranges": "bytes",
        }
        status, body = 200, data
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
            status, body = 206, data[start : end + 1]
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        cut = FAULTS.get("cut_get")
        if self.command == "GET" and cut and re.search(cut["name"], key) and cut.get("times", 1):
            if cut.get("skip", 0):
                cut["skip"] -= 1
            else:
                cut["times"] = cut.get("times", 1) - 1
                self.send(status, len(body), headers)
                self.wfile.write(body[: cut.get("after", 100)])
                self.wfile.flush()
                time.sleep(cut.get("stall", 0))
                self.connection.close()
                raise Gone
        return self.answer(status, body, headers)

    def listing(self, bucket):
        if bucket != BUCKET:
            return self.error(404, "NoSuchBucket")
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        rows, folders = "", set()
        for name, (data, stamp) in sorted(OBJECTS.items()):
            key = name.partition("/")[2]
            if name.partition("/")[0] != bucket or not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stamp))
            rows += (
                f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>"
                f'<ETag>"{hashlib.md5(data).hexdigest()}"</ETag><Size>{len(data)}</Size>'
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        for folder in sorted(folders):
            rows += f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
        self.xml(
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{rows.count('<Key>')}</KeyCount><MaxKeys>1000</MaxKeys>"
            f"<IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
        )

    def on_PUT(self):
        data = self.body()
        if self.headers.get("x-amz-copy-source"):
            return self.error(501, "NotImplemented")
        etag = {"ETag": f'"{hashlib.md5(data).hexdigest()}"'}
        if "uploadId" in self.query:
            UPLOADS[self.query["uploadId"]][int(self.query["partNumber"])] = data
            return self.answer(200, b"", etag)
        if FAULTS.get("shorten") and re.search(FAULTS["shorten"], self.key):
            data = data[:-1]
        OBJECTS[self.key] = (data, time.time())
        return self.answer(200, b"", etag)

    def on_POST(self):
        data = self.body()
        if "uploads" in self.query:
            name = f"upload{len(ASKED)}"
            UPLOADS[name] = {}
            return self.xml(
                f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId>"
                "</InitiateMultipartUploadResult>"
            )
        if "uploadId" in self.query:
            parts = UPLOADS.pop(self.query["uploadId"])
            OBJECTS[self.key] = (b"".join(parts[n] for n in sorted(parts)), time.time())
            return self.xml(
                '<CompleteMultipartUploadResult><ETag>"x-2"</ETag></CompleteMultipartUploadResult>'
            )
        if "delete" in self.query:
            for key in re.findall(r"<Key>(.*?)</Key>", data.decode()):
                OBJECTS.pop(f"{self.key.rstrip('/')}/{key}", None)
            return self.xml("<DeleteResult></DeleteResult>")
        return self.error(501, "NotImplemented")

    def on_DELETE(self):
        if "uploadId" in self.query:
            UPLOADS.pop(self.query["uploadId"], None)
        else:
            OBJECTS.pop(self.key, None)
        return self.answer(204, b"")

    def xml(self, text):
        self.answer(
            200,
            f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode(),
            {"Content-Type": "application/xml"},
        )

    def error(self, status, code):
        text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.answer(status, text, {"Content-Type": "application/xml"})

    def send(self, status, length, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(self, status, body, headers=None):
        self.send(status, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
