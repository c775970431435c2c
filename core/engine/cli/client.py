"""A small client of the Docker Engine HTTP API: JSON, streams, uploads and hijacked connections.

Protocol: the Docker Engine API reference, version 1.44. Requests name that version; a daemon that only knows an older
one says so, and the request is sent again in its version: nothing is spent on negotiation where it is not needed.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any
from urllib.parse import quote, urlencode

from engine.cli.errors import ApiError, Failure, Unreachable
from engine.cli.transport import Endpoint, Wire

API_VERSION = "1.44"
_MAX_HEADER = 64 * 1024

Query = Mapping[str, Any]
Body = bytes | IO[bytes] | Iterable[bytes]


class _Connection(http.client.HTTPConnection):
    """http.client over a socket that an Endpoint opens."""

    def __init__(self, endpoint: Endpoint, timeout: float | None) -> None:
        super().__init__("engine")
        self._endpoint, self._deadline = endpoint, timeout

    def connect(self) -> None:
        self.sock = self._endpoint.connect(self._deadline)


class Response:
    """An answer whose body has not been read yet. Close it, or read it to its end."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection, self._response = connection, response
        self.status = response.status
        self.headers = response.headers

    def read(self) -> bytes:
        """Return the whole body."""
        try:
            return self._response.read()
        except (http.client.HTTPException, OSError) as err:
            raise Failure(f"the daemon broke off its answer: {err or type(err).__name__}") from err
        finally:
            self.close()

    def json(self) -> Any:
        """Return the body as JSON; None if there is none."""
        data = self.read()
        try:
            return json.loads(data) if data else None
        except ValueError as err:
            raise Failure(f"the daemon's answer is no JSON: {data[:200]!r}") from err

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it comes."""
        try:
            while data := self._response.read1(65536):
                yield data
        except (http.client.HTTPException, OSError) as err:
            raise Failure(f"the daemon broke off its answer: {err or type(err).__name__}") from err
        finally:
            self.close()

    def json_lines(self) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects of a stream of lines."""
        rest = b""
        for data in self.chunks():
            *lines, rest = (rest + data).split(b"\n")
            yield from (json.loads(line) for line in lines if line.strip())
        if rest.strip():
            yield json.loads(rest)

    def close(self) -> None:
        """Give up the connection."""
        self._response.close()
        self._connection.close()


class Pending:
    """A request that was sent and whose answer is read later (`wait`, sent before `start`)."""

    def __init__(
        self, client: Client, connection: http.client.HTTPConnection, again: Callable[[], Pending] | None = None
    ) -> None:
        self._client, self._connection, self._again = client, connection, again

    def response(self) -> Response:
        """Wait for the answer. Raises ApiError if the daemon refused."""
        try:
            return self._client.answer(self._connection)
        except ApiError as err:
            if self._again is None or not self._client.downgraded(err):
                raise
            return self._again().response()


class Client:
    """Speaks to one daemon. A connection is opened for each request: over a Unix socket that costs 0.1 ms."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.version = API_VERSION

    # Requests

    def send(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: Any = None,
        data: Body | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Send a request and return its answer. `body` is sent as JSON, `data` as it is (chunked if it has no length).

        Raises Unreachable, or ApiError with the daemon's message.
        """
        if data is not None and not isinstance(data, bytes):
            self.negotiate()
        return self._send(method, path, query, body, data, headers, timeout).response()

    def begin(self, method: str, path: str, query: Query | None = None) -> Pending:
        """Send a request without waiting for its answer."""
        return self._send(method, path, query, None, None, None, None)

    def negotiate(self) -> None:
        """Ask the daemon for its version, before a request that cannot be sent twice."""
        connection = _Connection(self.endpoint, 10)
        connection.request("GET", "/_ping")
        response = self.answer(connection)
        self._lower(response.headers.get("Api-Version", ""))
        response.close()

    def get(self, path: str, query: Query | None = None) -> Any:
        """GET, answered by JSON."""
        return self.send("GET", path, query).json()

    def post(self, path: str, query: Query | None = None, *, body: Any = None) -> Any:
        """POST, answered by JSON or nothing."""
        return self.send("POST", path, query, body=body).json()

    def delete(self, path: str, query: Query | None = None) -> Any:
        """DELETE, answered by JSON or nothing."""
        return self.send("DELETE", path, query).json()

    def hijack(self, path: str, query: Query | None = None, *, body: Any = None) -> Hijacked:
        """POST and take over the raw connection (attach, exec). Raises ApiError."""
        try:
            return self._hijack(path, query, body)
        except ApiError as err:
            if not self.downgraded(err):
                raise
            return self._hijack(path, query, body)

    # Parts

    def _url(self, path: str, query: Query | None) -> str:
        text = f"/v{self.version}{quote(path, safe='/:@')}"
        given = {k: _query_value(v) for k, v in (query or {}).items() if v is not None and v is not False and v != ""}
        return f"{text}?{urlencode(given, doseq=True)}" if given else text

    def _send(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Any,
        data: Body | None,
        headers: Mapping[str, str] | None,
        timeout: float | None,
    ) -> Pending:
        connection = _Connection(self.endpoint, timeout)
        given = dict(headers or {})
        if body is not None:
            data = json.dumps(body).encode()
            given["Content-Type"] = "application/json"
        try:
            connection.request(method, self._url(path, query), body=data, headers=given)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon answered before it had read all: its answer says why
        except OSError as err:
            raise Failure(f"cannot send the request to {self.endpoint.host}: {err}") from err
        return Pending(self, connection, lambda: self._send(method, path, query, body, data, headers, timeout))

    def answer(self, connection: http.client.HTTPConnection) -> Response:
        """Read the head of an answer. Raises ApiError for a status of 400 and more."""
        try:
            response = Response(connection, connection.getresponse())
        except (http.client.HTTPException, OSError) as err:
            connection.close()
            cause = str(err) or type(err).__name__
            raise Failure(f"no answer from the daemon at {self.endpoint.host}: {cause}") from err
        if response.status >= 400:
            their_version = response.headers.get("Api-Version", "")
            raise ApiError(response.status, _message(response.read(), response.status), their_version)
        return response

    def downgraded(self, err: ApiError) -> bool:
        """Whether the daemon refused our version for an older one, which is used from now on."""
        before = self.version
        if err.status == 400:
            self._lower(err.api_version)
        return self.version != before

    def _lower(self, theirs: str) -> None:
        try:
            known = tuple(int(part) for part in theirs.split("."))
        except ValueError:
            return
        if known < tuple(int(part) for part in self.version.split(".")):
            self.version = theirs

    def _hijack(self, path: str, query: Query | None, body: Any) -> Hijacked:
        data = b"" if body is None else json.dumps(body).encode()
        head = (
            f"POST {self._url(path, query)} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        )
        wire = self.endpoint.wire()
        try:
            wire.sendall(head.encode() + data)
            received = b""
            while b"\r\n\r\n" not in received:
                more = wire.recv(65536)
                if not more or len(received) > _MAX_HEADER:
                    raise Failure(f"no answer from the daemon at {self.endpoint.host}")
                received += more
        except OSError as err:
            wire.close()
            raise Failure(f"no answer from the daemon at {self.endpoint.host}: {err}") from err
        header, rest = received.split(b"\r\n\r\n", 1)
        lines = header.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ", 2)[1])
        fields = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        if status >= 400:
            message = _message(_rest_of_body(wire, rest, fields), status)
            raise ApiError(status, message, fields.get("api-version", ""))
        return Hijacked(wire, rest, fields.get("content-type", ""))


class Hijacked:
    """A raw connection after an upgrade: what the daemon sent already, and the wire."""

    def __init__(self, wire: Wire, received: bytes, content_type: str) -> None:
        self.wire, self.received, self.content_type = wire, received, content_type


def _query_value(value: Any) -> Any:
    if value is True:
        return "1"
    if isinstance(value, dict):
        return json.dumps(value)
    return value


def _message(data: bytes, status: int) -> str:
    """Return the text of an error answer."""
    try:
        return str(json.loads(data)["message"]).strip()
    except (ValueError, KeyError, TypeError):
        return data.decode(errors="replace").strip() or f"the daemon answered with HTTP status {status}"


def _rest_of_body(wire: Wire, data: bytes, fields: Mapping[str, str]) -> bytes:
    if "chunked" in fields.get("transfer-encoding", ""):
        while not data.endswith(b"0\r\n\r\n") and (more := wire.recv(65536)):
            data += more
        wire.close()
        return b"".join(_dechunk(data))
    length = int(fields.get("content-length", 0))
    while len(data) < length and (more := wire.recv(65536)):
        data += more
    wire.close()
    return data


def _dechunk(data: bytes) -> Iterator[bytes]:
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size or b"0", 16)
        if not length:
            return
        yield data[:length]
        data = data[length + 2 :]


__all__ = ["ApiError", "Client", "Failure", "Hijacked", "Pending", "Response", "Unreachable"]
