"""Checks of stores under load and in trouble: many, large and simultaneous writes, wrong secrets, absent servers."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from engine_sdk import ABSENT, Conflict, EngineError, Forbidden, InvalidParameter, Store, Unavailable, Unsupported
from engine_sdk.testing.checks import Checks, NotDeclared
from engine_sdk.testing.storage_site import Site, equal, live_in, refused
from engine_sdk.testing.storage_subject import StorageSubject

LOAD_CHECKS = Checks()
live = live_in(LOAD_CHECKS)

MANY = 1100
"""Objects of a large listing: more than the 1000 of a page of S3, GCS (1000) or a result of Azure's tests."""
RACERS = 16
PART = 1 << 20
PARTS = 20
"""Pieces of a large object: 20 MiB are several parts of a multipart upload (8 MiB)."""
_DEADLINE = 2.0
_SLACK = 10.0
"""Seconds beyond the deadline for retries and a machine that is busy."""


@live
def lists_all_of_many(site: Site) -> None:
    """A listing has every object once, however many there are; several threads do not disturb each other."""
    names = [f"d{n % 7}/{n:04}" for n in range(MANY)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: site.seed.put(site.key(name), name.encode()), names))
    equal("the number of listed objects", len(site.keys()), MANY)
    equal("the listing", site.keys(), sorted(names))
    equal("the listing below d3/", site.keys("d3/"), sorted(n for n in names if n.startswith("d3/")))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda name: site.store.get(site.key(name)), names[:64]))
    equal("what is read by several threads", read, [name.encode() for name in names[:64]])


@live
def streams_a_large_object(site: Site) -> None:
    """An object of 20 MiB, written from pieces, is whole, and is read in parts and at once."""
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        for n in range(PARTS):
            piece = hashlib.sha256(bytes([n])).digest() * (PART // 32)
            digest.update(piece)
            yield piece

    key = site.key("large")
    equal("the size", site.seed.put_stream(key, pieces()).size, PARTS * PART)
    equal("the content", hashlib.sha256(site.store.get(key)).hexdigest(), digest.hexdigest())
    if site.caps.ranged:
        middle = site.store.get(key, 9 * PART - 5, 9 * PART + 5)
        wanted = (hashlib.sha256(b"\x08").digest() * 2)[-5:] + hashlib.sha256(b"\x09").digest()[:5]
        equal("ten bytes in the middle", middle, wanted)
    small = site.seed.put_stream(key, [b"", b"a", b"", b"bc"])
    equal("a stream of small pieces", (small.size, site.store.get(key)), (3, b"abc"))
    site.seed.put_stream(key, [])
    equal("a stream of nothing", site.store.get(key), b"")


@live
def a_broken_stream_leaves_nothing(site: Site) -> None:
    """When the pieces of an object end in an error, that error is raised, and what was there before is still there."""
    site.need("writable")

    def pieces() -> Iterator[bytes]:
        for _ in range(10 if site.caps.multipart else 1):
            yield bytes(PART)
        raise Conflict("the source changed")

    refused("a broken stream", Conflict, lambda: site.store.put_stream(site.key("new"), pieces()))
    site.store.put(site.key("old"), b"content")
    refused("a broken stream", Conflict, lambda: site.store.put_stream(site.key("old"), pieces()))
    equal("the listing", site.keys(), ["old"])
    equal("the old content", site.store.get(site.key("old")), b"content")


@live
def writes_on_conditions(site: Site) -> None:
    """A write on a condition happens when it holds; otherwise it is a Conflict, and nothing changes."""
    site.need("put_if")
    store, key = site.store, site.key("a")
    refused(
        "a write over an etag where nothing is", Conflict, lambda: store.put(key, b"0", if_match='"0123456789abcdef"')
    )
    equal("the listing", site.keys(), [])
    first = store.put(key, b"1", if_match=ABSENT)
    refused("a new object where one is", Conflict, lambda: store.put(key, b"2", if_match=ABSENT))
    refused("a new object, streamed, where one is", Conflict, lambda: store.put_stream(key, [b"2"], if_match=ABSENT))
    equal("the content", store.get(key), b"1")
    second = store.put(key, b"22", if_match=first.etag)
    refused("a write over an old etag", Conflict, lambda: store.put(key, b"333", if_match=first.etag))
    equal("the content", store.get(key), b"22")
    store.put_stream(key, [b"33", b"3"], if_match=second.etag)
    equal("the content", store.get(key), b"333")
    store.delete(key)
    refused("a write over a deleted object", Conflict, lambda: store.put(key, b"4", if_match=second.etag))


@live
def one_of_many_writers_wins(site: Site) -> None:
    """Of writers on the same condition at the same time exactly one succeeds, and its content is there."""
    site.need("put_if")
    store, key = site.store, site.key("raced")
    condition: str = ABSENT
    for turn in range(3):  # contents differ by turn: an etag may be a digest, and the same again for the same content

        def write(n: int, condition: str = condition, turn: int = turn) -> int | None:
            try:
                store.put(key, b"written by %d in %d" % (n, turn), if_match=condition)
            except Conflict:
                return None
            return n

        with ThreadPoolExecutor(RACERS) as pool:
            winners = [n for n in pool.map(write, range(RACERS)) if n is not None]
        if len(winners) != 1:
            raise AssertionError(f"{len(winners)} of {RACERS} writers on one condition succeeded")
        equal("the content", store.get(key), b"written by %d in %d" % (winners[0], turn))
        facts = store.head(key)
        if facts is None or facts.etag is None:
            raise AssertionError("the object has no etag")
        condition = facts.etag


@live
def removes_on_conditions(site: Site) -> None:
    """A removal on a condition happens when it holds; it is a Conflict where another object is, none where none is."""
    _need_conditional_removal(site)
    store, key = site.store, site.key("a")
    first, second = store.put(key, b"1"), store.put(key, b"22")
    refused("a removal of an old etag", Conflict, lambda: store.delete(key, if_match=first.etag))
    equal("the content", store.get(key), b"22")
    store.delete(key, if_match=second.etag)
    equal("the facts of a removed object", store.head(key), None)
    store.delete(key, if_match=second.etag)
    store.put(key, b"333")
    refused("a removal of an object that was replaced", Conflict, lambda: store.delete(key, if_match=second.etag))
    equal("the content", store.get(key), b"333")


@live
def a_removal_on_a_condition_takes_nothing_else(site: Site) -> None:
    """What somebody writes at the moment of a removal on a condition is there afterwards, whoever was first."""
    _need_conditional_removal(site)
    store, key = site.store, site.key("raced")

    def remove(etag: str | None) -> None:
        with contextlib.suppress(Conflict):
            store.delete(key, if_match=etag)

    for turn in range(3):
        old = store.put(key, b"old %d" % turn)
        with ThreadPoolExecutor(RACERS) as pool:
            asked: list[Future[object]] = [pool.submit(remove, old.etag) for _ in range(RACERS // 2)]
            asked.append(pool.submit(store.put, key, b"new %d" % turn))
            asked += [pool.submit(remove, old.etag) for _ in range(RACERS // 2)]
        for each in asked:
            each.result()
        equal("the content", store.get(key), b"new %d" % turn)


def _need_conditional_removal(site: Site) -> None:
    """End the check if there is none. What a driver's protocol knows, a server may not."""
    site.need("delete_if")
    key = site.key("removed")
    try:
        site.store.delete(key, if_match=site.store.put(key, b"1").etag)
    except Unsupported as err:
        raise NotDeclared(str(err)) from err


@live
def shows_no_secret(site: Site) -> None:
    """No secret is in the text of the store, of its options, or of an error and what it was caused by."""
    secrets = site.subject.secrets()
    if not secrets:
        raise NotDeclared("no secret was given")
    options = site.subject.options()
    texts = [repr(site.store), str(site.store), repr(options), options.model_dump_json()]
    for ask in (
        lambda: site.store.get(site.key("nothing")),
        lambda: site.store.get("../x"),
        lambda: site.subject.open(site.subject.url(str(site.directory)), wrong_secrets=True).check(),
        lambda: _elsewhere(site.subject, 9).check(),
    ):
        try:
            ask()
        except (EngineError, NotDeclared) as err:
            texts += [str(err), repr(err), "".join(traceback.format_exception(err))]
    for secret in secrets:
        text = secret.decode(errors="replace").strip()
        shown = next((t for t in texts if text in t), None)
        if shown:
            raise AssertionError("a secret is in this text: " + shown.replace(text, "<SECRET>"))


@live
def wrong_secrets_are_refused(site: Site) -> None:
    """With a wrong secret, opening or the check is Forbidden (InvalidParameter for what is no key at all)."""
    if not site.subject.secrets():
        raise NotDeclared("no secret was given")
    site.seed.put(site.key("a"), b"content")

    def attempt() -> None:
        site.subject.open(site.subject.url(str(site.directory)), wrong_secrets=True).check()

    refused("a wrong secret", (Forbidden, InvalidParameter), attempt)
    equal("the content", site.store.get(site.key("a")), b"content")


def _elsewhere(subject: StorageSubject, port: int) -> Store:
    """Open the store on a port of this host, where it is not. NotDeclared for drivers without a server."""
    url, fields = subject.url(), subject.driver.options_model.model_fields
    if subject.driver.wraps or "deadline" not in fields:
        raise NotDeclared("the driver asks no server")
    changes: dict[str, object] = {"deadline": _DEADLINE}
    if "endpoint_url" in fields:
        return subject.open(url, {**changes, "endpoint-url": f"http://127.0.0.1:{port}/account"})
    parts = urlsplit(url)
    if not parts.hostname:
        raise NotDeclared("the URL names no server")
    user, at, _ = parts.netloc.rpartition("@")
    return subject.open(urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{port}")), changes)


def _expect_unavailable(subject: StorageSubject, port: int, what: str) -> None:
    start = time.monotonic()
    refused(what, Unavailable, lambda: _elsewhere(subject, port).check())
    seconds = time.monotonic() - start
    if seconds > _DEADLINE + _SLACK:
        raise AssertionError(f"{what} was noticed after {seconds:.1f} s; the deadline is {_DEADLINE:g} s")


def is_unavailable_without_its_server(subject: StorageSubject, directory: Path) -> None:
    """A server that is not there is Unavailable, within the deadline."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        _expect_unavailable(subject, free.getsockname()[1], "a server that is not there")


def is_unavailable_when_its_server_is_silent(subject: StorageSubject, directory: Path) -> None:
    """A server that accepts and never answers is Unavailable, within the deadline."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        _expect_unavailable(subject, silent.getsockname()[1], "a server that does not answer")


for _body in (is_unavailable_without_its_server, is_unavailable_when_its_server_is_silent):
    LOAD_CHECKS.add("live", _body.__name__, _body, (_body.__doc__ or "").strip())
