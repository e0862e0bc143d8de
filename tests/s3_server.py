"""As much of S3 as its clients use here, in memory: objects, ranges, listings, uploads in parts.

Where moto is installed, the tests use that instead.
"""

from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
DATE = "2026-01-01T00:00:00.000Z"


def unchunked(file):
    """The content of chunks; checksums behind them are left out."""
    data = b""
    while size := int(file.readline().split(b";")[0], 16):
        data += file.read(size)
        file.readline()
    while file.readline().strip():
        pass
    return data


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def parsed(self):
        """Bucket, key and query."""
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path.lstrip("/")).partition("/")
        query = parse_qs(parts.query, keep_blank_values=True)
        return bucket, key, {name: values[0] for name, values in query.items()}

    def answer(self, status=200, body=b"", **headers):
        self.send_response(status)
        length = headers.pop("length", len(body))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def xml(self, name, inner):
        self.answer(body=f"<{name} {NAMESPACE}>{inner}</{name}>".encode(),
                    Content_Type="application/xml")  # fmt: skip

    def body(self):
        """Parts come in chunks of S3 within chunks of HTTP."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = unchunked(self.rfile)
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        twice = "aws-chunked" in self.headers.get("Content-Encoding", "")
        return unchunked(io.BytesIO(data)) if twice else data

    def do_HEAD(self):
        bucket, key, _ = self.parsed()
        data = (
            self.server.buckets.get(bucket) if not key else self.server.objects.get((bucket, key))
        )
        if data is None:
            self.answer(404)
        else:
            self.answer(length=len(data), Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT", ETag='"1"')

    def do_GET(self):
        bucket, key, query = self.parsed()
        if not key:
            return self.list(bucket, query)
        data = self.server.objects.get((bucket, key))
        if data is None:
            return self.answer(404)
        wanted = self.headers.get("Range")
        if not wanted:
            return self.answer(body=data, ETag='"1"')
        first, last = wanted.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last or len(data)) + 1]
        where = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        return self.answer(206, part, Content_Range=where, ETag='"1"')

    def list(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        files, folders = [], []
        for (place, key), data in sorted(self.server.objects.items()):
            if place != bucket or not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter or "\0")
            if found:
                folders.append(prefix + head + delimiter)
            else:
                files.append((key, len(data)))
        inner = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{DATE}</LastModified>"
            f"<Size>{size}</Size></Contents>"
            for key, size in files
        )
        for name in dict.fromkeys(folders):
            inner += f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
        self.xml("ListBucketResult", f"<IsTruncated>false</IsTruncated>{inner}")

    def do_PUT(self):
        bucket, key, query = self.parsed()
        data = self.body()
        if not key:
            self.server.buckets[bucket] = b""
        elif "partNumber" in query:
            self.server.parts.setdefault(query["uploadId"], {})[int(query["partNumber"])] = data
        else:
            self.server.objects[bucket, key] = data
        self.answer(ETag='"1"')

    def do_POST(self):
        bucket, key, query = self.parsed()
        self.body()
        if "uploads" in query:
            upload = f"{bucket}-{key}".replace("/", "-").replace(" ", "-")
            self.server.parts[upload] = {}
            self.xml("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>")
        else:
            parts = self.server.parts.pop(query["uploadId"])
            self.server.objects[bucket, key] = b"".join(parts[number] for number in sorted(parts))
            self.xml("CompleteMultipartUploadResult", f'<ETag>"1"</ETag><Key>{escape(key)}</Key>')

    def do_DELETE(self):
        bucket, key, _ = self.parsed()
        self.server.objects.pop((bucket, key), None)
        self.answer(204)


class S3Server(ThreadingHTTPServer):
    """Buckets and their objects; start it, use its address, stop it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.buckets, self.objects, self.parts = {}, {}, {}

    def start(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()

    def get_host_and_port(self):
        return self.server_address[:2]


def s3_server():
    """A server that is not started yet; the larger one where there is one."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        return S3Server()
    return ThreadedMotoServer("127.0.0.1", 0, verbose=False)
