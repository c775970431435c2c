"""A server that speaks Google Cloud Storage's XML protocol, which obstore uses and no emulator at hand has.

Written from Google's reference ("XML API overview", "Preconditions", "List objects"): a listing tells etags as other
answers do, which are digests of the content; a condition names a generation, which changes with every write.
"""

from __future__ import annotations

import hashlib
import http.server
import itertools
import re
import threading
from typing import ClassVar, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET, TOKEN = "tests", "a-token-of-the-tests"
_DATE = "2026-01-02T03:04:05.000Z"
_PAGE = 300


class _Object(NamedTuple):
    data: bytes
    generation: int
    metadata: dict[str, str]

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}"'


class GcsServer(http.server.ThreadingHTTPServer):
    """One bucket, in memory."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, _Object] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.started: dict[str, dict[str, str]] = {}
        """By upload in parts: its object's metadata."""
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: GcsServer
    _KEPT: ClassVar = ("x-goog-meta-", "content-type")

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _answer(self, status: int, body: str | bytes = b"", **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)) if "Size" not in headers else headers["Size"])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code></Error>")

    def _any(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._error(401, "AuthenticationRequired")
            elif bucket != BUCKET:
                self._error(404, "NoSuchBucket")
            elif not key:
                self._list(query)
            elif "uploads" in query or "uploadId" in query:
                self._in_parts(key, query, body)
            else:
                {"PUT": self._put, "DELETE": self._delete}.get(self.command, self._get)(key, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any

    def _put(self, key: str, data: bytes) -> None:
        here = self.server.objects.get(key)
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None and int(wanted) != (here.generation if here else 0):
            return self._error(412, "PreconditionFailed")
        metadata = self._metadata()
        source = self.headers.get("x-goog-copy-source")
        if source is not None:
            found = self.server.objects.get(unquote(source).lstrip("/").partition("/")[2])
            if found is None:
                return self._error(404, "NoSuchKey")
            data, metadata = found.data, found.metadata
        made = self._keep(key, data, metadata)
        return self._answer(200, "<CopyObjectResult/>" if source else b"", **made)

    def _metadata(self) -> dict[str, str]:
        return {n.lower(): v for n, v in self.headers.items() if n.lower().startswith(self._KEPT)}

    def _keep(self, key: str, data: bytes, metadata: dict[str, str]) -> dict[str, str]:
        made = self.server.objects[key] = _Object(data, next(self.server.numbers), metadata)
        return {"ETag": made.etag, "x_goog_generation": str(made.generation)}

    def _in_parts(self, key: str, query: dict[str, str], body: bytes) -> None:
        id = query.get("uploadId") or f"upload-{next(self.server.numbers)}"
        parts = self.server.parts.setdefault(id, {})
        if self.command == "PUT":
            parts[int(query["partNumber"])] = body
            self._answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')
        elif self.command == "DELETE":
            del self.server.parts[id]
            self._answer(204)
        elif "uploads" in query:
            self.server.started[id] = self._metadata()
            self._answer(
                200, f"<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            )
        else:
            del self.server.parts[id]
            made = self._keep(key, b"".join(parts[n] for n in sorted(parts)), self.server.started.pop(id))
            etag = escape(made["ETag"])
            self._answer(
                200, f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>", **made
            )

    def _delete(self, key: str, _: bytes) -> None:
        if self.server.objects.pop(key, None) is None:
            return self._error(404, "NoSuchKey")
        return self._answer(204)

    def _get(self, key: str, _: bytes) -> None:
        found = self.server.objects.get(key)
        if found is None:
            return self._error(404, "NoSuchKey")
        headers = {
            "ETag": found.etag, "x_goog_generation": str(found.generation), "Last_Modified": self.date_time_string(0),
            **{name.replace("-", "_"): value for name, value in found.metadata.items()},
        }  # fmt: skip
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if self.command == "HEAD":
            return self._answer(200, Size=str(len(found.data)), **headers)
        if match is None:
            return self._answer(200, found.data, **headers)
        start, part = int(match[1]), found.data[int(match[1]) : int(match[2]) + 1]
        if not part:
            return self._error(416, "InvalidRange")
        headers["Content_Range"] = f"bytes {start}-{start + len(part) - 1}/{len(found.data)}"
        return self._answer(206, part, **headers)

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter, after = (query.get(n, "") for n in ("prefix", "delimiter", "continuation-token"))
        most = min(int(query.get("max-keys", _PAGE)), _PAGE)
        rows: dict[str, str] = {}
        for key in sorted(k for k in self.server.objects if k.startswith(prefix)):
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            name = prefix + head + cut if cut else key
            if name <= after or name in rows:
                continue
            found = self.server.objects[key]
            rows[name] = f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" if cut else (
                f"<Contents><Key>{escape(name)}</Key><Generation>{found.generation}</Generation>"
                f"<LastModified>{_DATE}</LastModified><ETag>{escape(found.etag)}</ETag>"
                f"<Size>{len(found.data)}</Size></Contents>"
            )  # fmt: skip
        page, rest = list(rows)[:most], list(rows)[most:]
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if rest else ""
        self._answer(200, f"<ListBucketResult>{more}{''.join(rows[n] for n in page)}</ListBucketResult>")

    def log_message(self, format: str, *args: object) -> None:
        pass
