"""The store on etcd (API version 3), over gRPC, with the messages that the package `aetcd` brings.

Its client class is not used: it knows no TLS, drops the revision of answers, and lives in asyncio, which the core does
not. Calls go to one endpoint until that fails, then to the next. What each code and message of a failure means is from
etcd's `api/v3rpc/rpctypes/error.go`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from aetcd import rpc

from engine.cluster.store import (
    Batch,
    Change,
    Compacted,
    Condition,
    Delete,
    Entry,
    Exists,
    Gone,
    Holds,
    Is,
    LeaseLost,
    Listing,
    Operation,
)
from engine.spec.errors import EngineError, Forbidden, InvalidParameter, Unavailable, Unsupported

CALL_SECONDS, OVERALL_SECONDS = 2.0, 4.0
"""How long one endpoint, and all of them, may take for an answer."""
PAGE = 2000
"""Entries of one answer."""
_CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # the default is two minutes
    ("grpc.keepalive_time_ms", 10_000),  # a connection that is cut in silence is noticed; etcd allows every 5 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]
_ELSEWHERE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
"""Another endpoint may know better."""
_REQUIRE_LEADER = ("hasleader", "true")


@dataclass(frozen=True)
class EtcdAccess:
    """Where etcd is, and who we are to it."""

    endpoints: tuple[str, ...]
    """`host:port` each."""
    user: str = ""
    password: str = ""
    ca: Path | None = None
    """Certificate of the authority that signed the servers'; with it, or with `tls`, TLS is used."""
    certificate: Path | None = None
    key: Path | None = None
    tls: bool = False

    @property
    def secure(self) -> bool:
        """Whether TLS is used."""
        return self.tls or self.ca is not None or self.certificate is not None


@dataclass
class _Link:
    """A connection to one endpoint."""

    endpoint: str
    channel: Any
    token: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (_REQUIRE_LEADER, ("token", self.token)) if self.token else (_REQUIRE_LEADER,)


class EtcdStore:
    """See `engine.cluster.store.ClusterStore`."""

    def __init__(self, access: EtcdAccess) -> None:
        """Nothing is connected yet. Raises InvalidParameter for files of certificates that cannot be read."""
        self._access = access
        self._credentials = _credentials(access)
        self._guard = threading.Lock()
        self._turn = 0
        self._links: dict[int, _Link] = {}
        self._closed = False

    def get(self, key: str) -> Entry | None:
        """Return an entry as it is now."""
        answer = self._call(lambda link: rpc.KVStub(link.channel).Range, rpc.RangeRequest(key=key.encode()))
        return _entry(answer.kvs[0]) if answer.kvs else None

    def list(self, prefix: str) -> Listing:
        """Return the entries whose keys begin so, all of one revision."""
        entries: list[Entry] = []
        start, end, revision = prefix.encode(), _end(prefix), 0
        while True:
            request = rpc.RangeRequest(key=start, range_end=end, limit=PAGE, revision=revision)
            answer = self._call(lambda link: rpc.KVStub(link.channel).Range, request)
            revision = revision or answer.header.revision
            entries += [_entry(kv) for kv in answer.kvs]
            if not answer.more:
                return Listing(tuple(entries), revision)
            start = answer.kvs[-1].key + b"\0"

    def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> bool:
        """Do all of it if all conditions hold."""
        request = rpc.TxnRequest(compare=[_compare(c) for c in conditions], success=[_operation(o) for o in operations])
        answer = self._call(lambda link: rpc.KVStub(link.channel).Txn, request)
        return bool(answer.succeeded)

    def watch(self, prefix: str, revision: int) -> EtcdWatch:
        """Return the changes below a prefix from this revision on."""
        create = rpc.WatchCreateRequest(
            key=prefix.encode(), range_end=_end(prefix), start_revision=revision, progress_notify=True
        )
        link = self._connected()
        call = rpc.WatchStub(link.channel).Watch(
            iter([rpc.WatchRequest(create_request=create)]), metadata=link.metadata
        )
        return EtcdWatch(call, revision, lambda err: self._failed(link, err))

    def grant(self, seconds: int) -> int:
        """Make a lease."""
        return int(
            self._call(lambda link: rpc.LeaseStub(link.channel).LeaseGrant, rpc.LeaseGrantRequest(TTL=seconds)).ID
        )

    def keep(self, lease: int) -> None:
        """Have a lease begin anew."""

        def stream(link: _Link) -> Callable[..., Any]:
            def first(request: Any, **settings: Any) -> Any:
                call = rpc.LeaseStub(link.channel).LeaseKeepAlive(iter([request]), **settings)
                try:
                    return next(iter(call))
                finally:
                    call.cancel()

            return first

        answer = self._call(stream, rpc.LeaseKeepAliveRequest(ID=lease))
        if answer.TTL <= 0:
            raise LeaseLost("the lease has ended", why="nobody kept it")

    def revoke(self, lease: int) -> None:
        """End a lease."""
        try:
            self._call(lambda link: rpc.LeaseStub(link.channel).LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease))
        except LeaseLost:
            pass

    def close(self) -> None:
        """Let go of all connections; watches end."""
        with self._guard:
            self._closed = True
            links = list(self._links.values())
            self._links.clear()
        for link in links:
            link.channel.close()

    def _call(self, method: Callable[[_Link], Callable[..., Any]], request: Any) -> Any:
        """Ask the endpoints, beginning with that which answered last, until one answers."""
        end = time.monotonic() + OVERALL_SECONDS
        renewed, last = False, EngineError("")
        for _ in range(2 * len(self._access.endpoints)):
            remaining = end - time.monotonic()
            if remaining <= 0:
                break
            link = self._link()
            try:
                self._authenticate(link)
                return method(link)(request, timeout=min(CALL_SECONDS, remaining), metadata=link.metadata)
            except grpc.RpcError as err:
                if link.token and not renewed and _token_is_old(err):
                    renewed, link.token = True, ""
                    continue
                last = self._failed(link, err)
                if err.code() not in _ELSEWHERE:
                    raise last from err
            except ValueError as err:  # another thread has closed the channel
                last = _unreachable(link.endpoint, str(err))
                if self._closed:
                    break
        raise last

    def _connected(self) -> _Link:
        """Return a link for a stream, whose failures show when it is read."""
        link = self._link()
        try:
            self._authenticate(link)
        except grpc.RpcError as err:
            raise self._failed(link, err) from err
        return link

    def _authenticate(self, link: _Link) -> None:
        if not self._access.user or link.token:
            return
        request = rpc.AuthenticateRequest(name=self._access.user, password=self._access.password)
        try:
            link.token = rpc.AuthStub(link.channel).Authenticate(request, timeout=CALL_SECONDS).token
        except grpc.RpcError as err:
            if "authentication is not enabled" not in (err.details() or ""):
                raise

    def _link(self) -> _Link:
        with self._guard:
            if self._closed:
                raise Unavailable("the connection to etcd is closed")
            number = self._turn % len(self._access.endpoints)
            if number not in self._links:
                endpoint = self._access.endpoints[number]
                if self._credentials is not None:
                    channel = grpc.secure_channel(endpoint, self._credentials, options=_CHANNEL)
                else:
                    channel = grpc.insecure_channel(endpoint, options=_CHANNEL)
                self._links[number] = _Link(endpoint, channel)
            return self._links[number]

    def _failed(self, link: _Link, err: grpc.RpcError) -> EngineError:
        """Say what a failure means; where another endpoint may know better, that is asked next."""
        if _token_is_old(err):
            link.token = ""
        if err.code() in _ELSEWHERE:
            with self._guard:
                if self._links.get(self._turn % len(self._access.endpoints)) is link:
                    self._turn += 1
        return _explained(link.endpoint, err, bool(self._access.user))


class EtcdWatch:
    """See `engine.cluster.store.Watch`."""

    def __init__(self, call: Any, revision: int, failed: Callable[[grpc.RpcError], EngineError]) -> None:
        self._call = call
        self._from = revision
        self._failed = failed
        self._closed = False

    def __iter__(self) -> Iterator[Batch]:
        """Wait for changes."""
        try:
            for answer in self._call:
                if answer.compact_revision or (answer.created and answer.header.revision + 1 < self._from):
                    raise Compacted  # or another etcd, which is not as far
                if answer.canceled:
                    raise Unavailable("etcd has ended a watch", why=answer.cancel_reason)
                if answer.events:
                    # Not the answer's revision: while the watch catches up there is more to come below it.
                    last = max(event.kv.mod_revision for event in answer.events)
                    yield Batch(tuple(_change(event) for event in answer.events), last)
                elif not answer.created:
                    yield Batch((), answer.header.revision)
        except grpc.RpcError as err:
            if not self._closed:
                raise self._failed(err) from err

    def close(self) -> None:
        """End it."""
        self._closed = True
        self._call.cancel()


def _credentials(access: EtcdAccess) -> Any:
    if not access.secure:
        return None
    try:
        ca, key, certificate = (p.read_bytes() if p else None for p in (access.ca, access.key, access.certificate))
    except OSError as err:
        raise InvalidParameter("a file of the cluster's certificates cannot be read", why=str(err)) from err
    return grpc.ssl_channel_credentials(ca, key, certificate)


def _token_is_old(err: grpc.RpcError) -> bool:
    text = err.details() or ""
    return err.code() == grpc.StatusCode.UNAUTHENTICATED or "revision in header is old" in text


def _unreachable(endpoint: str, why: str) -> Unavailable:
    return Unavailable(
        "the cluster's etcd cannot be reached", why=f"{endpoint}: {why}", hint="Running containers go on meanwhile"
    )


def _explained(endpoint: str, err: grpc.RpcError, user: bool) -> EngineError:
    code, text = err.code(), (err.details() or "").removeprefix("etcdserver: ")
    if text.startswith("failed to connect"):
        text = text.rpartition(": ")[2]  # before that is how gRPC came to it
    if "lease not found" in text:
        return LeaseLost("the lease has ended", why="nobody kept it")
    if "user name is empty" in text or code == grpc.StatusCode.UNAUTHENTICATED:
        hint = "" if user else "Give --cluster-user and --cluster-password-file"
        return Forbidden("etcd wants to know who we are", why=f"{endpoint}: {text}", hint=hint)
    if "authentication failed" in text:
        return Forbidden("etcd refuses our name and password", why=f"{endpoint}: {text}")
    if code == grpc.StatusCode.PERMISSION_DENIED:
        return Forbidden(
            "etcd does not let us at the cluster's keys", why=f"{endpoint}: {text}",
            hint="The user needs a role that reads and writes keys below engine/",
        )  # fmt: skip
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return Unsupported("there is no etcd of version 3", why=f"{endpoint}: {text}")
    if code in _ELSEWHERE or "no leader" in text or "timed out" in text:
        return _unreachable(endpoint, text or code.name)
    return Unavailable("etcd cannot do what it was asked", why=f"{endpoint}: {text or code.name}")


def _end(prefix: str) -> bytes:
    """Return the first key that is above all that begin so; prefixes end in a plain ASCII character."""
    raw = prefix.encode()
    return raw[:-1] + bytes([raw[-1] + 1])


def _entry(kv: Any) -> Entry:
    return Entry(kv.key.decode(errors="replace"), kv.value, kv.mod_revision)


def _change(event: Any) -> Change:
    return _entry(event.kv) if event.type == rpc.Event.EventType.PUT else Gone(event.kv.key.decode(errors="replace"))


def _compare(condition: Condition) -> Any:
    """Compare revisions: a key that is not there has 0; for a range, all its keys must fit, and no key does."""
    equal, unequal = rpc.Compare.CompareResult.EQUAL, rpc.Compare.CompareResult.NOT_EQUAL
    if isinstance(condition, Holds):
        return rpc.Compare(
            key=condition.key.encode(), result=equal, target=rpc.Compare.CompareTarget.VALUE, value=condition.value
        )
    mod = rpc.Compare.CompareTarget.MOD
    if isinstance(condition, Exists):
        return rpc.Compare(key=condition.key.encode(), result=unequal, target=mod, mod_revision=0)
    if isinstance(condition, Is):
        return rpc.Compare(key=condition.key.encode(), result=equal, target=mod, mod_revision=condition.revision)
    prefix = condition.prefix
    return rpc.Compare(key=prefix.encode(), range_end=_end(prefix), result=equal, target=mod, mod_revision=0)


def _operation(operation: Operation) -> Any:
    key = operation.key.encode()
    if isinstance(operation, Delete):
        end = _end(operation.key) if operation.below else b""
        return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key, range_end=end))
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=operation.value, lease=operation.lease))
