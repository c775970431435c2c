"""What a storage driver must do: what volumes, backups and encryption rely on in a store."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial

from engine_sdk import ABSENT, Conflict, InvalidParameter, NotFound, ShortRead, Unsupported
from engine_sdk.testing.checks import Checks, NotDeclared, explain
from engine_sdk.testing.common_checks import add_common_checks
from engine_sdk.testing.storage_load_checks import LOAD_CHECKS
from engine_sdk.testing.storage_site import Site, equal, live_in, refused

CHECKS = Checks()
add_common_checks(CHECKS)


live = live_in(CHECKS)


@live
def is_healthy(site: Site) -> None:
    """A store that is there passes its own check."""
    site.seed.put(site.key("a"), b"1")
    site.store.check()


@live
def what_was_put_is_got(site: Site) -> None:
    """An object's bytes, size and name come back as they were written; a second write replaces the first."""
    key = site.key("directory/object")
    for data in (bytes(range(256)) * 5, b"shorter", b""):
        put = site.seed.put(key, data)
        equal("what `put` returns", (put.key, put.size), (key, len(data)))
        equal("what `get` returns", site.store.get(key), data)
        found = site.store.head(key)
        equal("what `head` returns", found and (found.key, found.size, found.is_prefix), (key, len(data), False))
        equal("what `list` returns", [(s.key, s.size) for s in site.store.list(key)], [(key, len(data))])
    if put.etag is not None and site.store is site.seed:
        equal("the etag that `head` gives after `put`", found and found.etag, put.etag)


@live
def etags_change(site: Site) -> None:
    """Where objects have etags, every write of other content has another one."""
    first = site.seed.put(site.key("a"), b"1")
    second = site.seed.put(site.key("a"), b"2")
    if (site.caps.put_if or site.caps.delete_if) and not first.etag:
        raise AssertionError("conditions are declared, and objects have no etag")
    if first.etag is not None and first.etag == second.etag:
        raise AssertionError(f"two contents have the etag {first.etag}")


@live
def tells_one_etag(site: Site) -> None:
    """A write, a question and a listing tell the same etag: by a listing it is decided what is fetched again."""
    site.seed.put(site.key("a"), b"1")
    facts = site.store.head(site.key("a"))
    (listed,) = site.store.list(site.key("a"))
    equal("the etag in a listing", listed.etag, facts and facts.etag)
    if site.caps.put_if:
        written = site.store.put(site.key("a"), b"2", if_match=listed.etag)
        facts = site.store.head(site.key("a"))
        equal("the etag of a write", written.etag, facts and facts.etag)


@live
def reads_ranges_exactly(site: Site) -> None:
    """A range is exactly what was asked for; one that passes the object's end is a ShortRead, never a short answer."""
    site.need("ranged")
    data = bytes(n * 7 % 251 for n in range(200_003))
    key = site.key("a")
    site.seed.put(key, data)
    for start, end in ((0, 1), (0, 65536), (65535, 65537), (65536, 131072), (1, 200_003), (200_002, 200_003)):
        equal(f"bytes {start} to {end}", site.store.get(key, start, end), data[start:end])
    for start in (1, 65536, 200_002, 200_003):
        equal(f"bytes from {start}", site.store.get(key, start), data[start:])
    equal("an empty range", site.store.get(key, 5, 5), b"")
    for start, end in ((0, 200_004), (200_002, 200_010), (200_003, 200_004), (300_000, 300_001)):
        refused(
            f"a range from {start} to {end} of 200003 bytes",
            ShortRead,
            partial(site.store.get, key, start, end),
        )
    for start, end in ((-1, 5), (5, 4)):
        refused(f"a range from {start} to {end}", InvalidParameter, partial(site.store.get, key, start, end))


@live
def knows_what_is_not_there(site: Site) -> None:
    """An object that does not exist has no facts, cannot be read, and is not listed."""
    site.seed.put(site.key("there/a"), b"1")
    for name in ("nothing", "there", "there/a/below"):
        key = site.key(name)
        equal(f"the facts of {name}", site.store.head(key), None)
        refused(f"reading {name}", NotFound, partial(site.store.get, key))
        refused(f"reading a part of {name}", NotFound, partial(site.store.get, key, 0, 0))
    equal("a listing of nothing", site.keys("nothing/"), [])


@live
def deletes_twice(site: Site) -> None:
    """A deleted object is gone; deleting it again, or one that never was, is no error."""
    site.need("writable")
    for name in ("a", "b/c"):
        site.store.put(site.key(name), b"1")
        site.store.delete(site.key(name))
        equal("the facts of a deleted object", site.store.head(site.key(name)), None)
        site.store.delete(site.key(name))
    site.store.delete(site.key("never/was"))
    equal("the listing", site.keys(), [])


# No backslash: SeaweedFS makes a slash of it. Who stores names of files has to write it in another way.
ODD = (
    "with space", "ümläut/é", "emoji\U0001f600", "plus+and&and=", "per%20cent", "%", "quote'\"", "[brackets]{braces}",
    "question?mark", "hash#tag", "star*", "semi;colon:", "at@", "tilde~", ".hidden", "trailing.",
    "a..b", "-dash", "UPPER/lower", "e\u0301", "x" * 120,
)  # fmt: skip


@live
def keeps_odd_keys(site: Site) -> None:
    """Spaces, signs and letters of all alphabets in keys are kept as they are."""
    for name in ODD:
        site.seed.put(site.key(name), name.encode())
    equal("the listing", site.keys(), sorted(ODD))
    explain(
        "read as something else",
        [
            name
            for name in ODD
            if site.store.get(site.key(name)) != name.encode() or not site.store.head(site.key(name))
        ],
    )


@live
def refuses_keys_that_are_none(site: Site) -> None:
    """Keys that lead elsewhere or cannot be written down are refused, for reading as for writing."""
    for key in ("", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../../b", "a/./b", "a\0b", "a\udc80b"):
        refused(f"reading {key!r}", InvalidParameter, partial(site.store.get, key))
        refused(f"asking for {key!r}", InvalidParameter, partial(site.store.head, key))
        if site.caps.writable:
            refused(f"writing {key!r}", InvalidParameter, partial(site.store.put, key, b"1"))
            refused(f"deleting {key!r}", InvalidParameter, partial(site.store.delete, key))


@live
def tells_a_prefix_from_a_key(site: Site) -> None:
    """`p` and `p/x` can both be objects, or the second is refused and harms nothing; prefixes are texts, not paths."""
    site.need("writable")
    for name in ("p", "px", "q/r"):
        site.store.put(site.key(name), name.encode())
    if site.caps.hierarchical:
        refused("an object below an object", Conflict, lambda: site.store.put(site.key("p/x"), b"1"))
        refused("an object in place of a directory", Conflict, lambda: site.store.put(site.key("q"), b"1"))
    else:
        site.store.put(site.key("p/x"), b"p/x")
    below = [] if site.caps.hierarchical else ["p/x"]
    equal("keys that begin with p", site.keys("p"), sorted(["p", "px", *below]))
    equal("keys that begin with p/", site.keys("p/"), below)
    for name in ("p", "px", "q/r"):
        equal(f"the content of {name}", site.store.get(site.key(name)), name.encode())


@live
def lists_one_level(site: Site) -> None:
    """With a delimiter, a listing has the objects of one level, and each common prefix of the others once."""
    for name in ("a", "b/1", "b/2", "b/c/3", "bb"):
        site.seed.put(site.key(name), b"1")
    equal("one level", site.keys(delimiter="/"), ["a", "b/", "bb"])
    equal("the level below b/", site.keys("b/", delimiter="/"), ["b/1", "b/2", "b/c/"])
    equal("the level of b", site.keys("b", delimiter="/"), ["b/", "bb"])
    prefixes = [s.key for s in site.store.list(site.prefix, delimiter="/") if s.is_prefix]
    equal("the common prefixes", prefixes, [site.key("b/")])


@live
def refuses_what_it_does_not_declare(site: Site) -> None:
    """A condition, metadata, a copy or a write that the store cannot do is Unsupported, and nothing is written."""
    caps, key = site.caps, site.key("a")
    knows = "if_match" in inspect.signature(site.store.delete).parameters  # not where it is older than contract 1.2
    tries: Iterable[tuple[str, bool, Callable[[], object]]] = (
        ("a condition", caps.put_if, lambda: site.store.put(key, b"1", if_match=ABSENT)),
        ("a condition on an etag", caps.put_if, lambda: site.store.put(key, b"1", if_match='"1"')),
        ("a condition of a stream", caps.put_if, lambda: site.store.put_stream(key, [b"1"], if_match=ABSENT)),
        ("metadata", caps.metadata, lambda: site.store.put(key, b"1", metadata={"a": "b"})),
        ("a copy", caps.server_copy, lambda: site.store.copy(key, site.key("b"))),
        ("a write", caps.writable, lambda: site.store.put(key, b"1")),
        ("a deletion", caps.writable, lambda: site.store.delete(key)),
        ("a deletion on a condition", caps.delete_if or not knows, lambda: site.store.delete(key, if_match='"1"')),
    )
    undeclared = [(what, ask) for what, declared, ask in tries if not declared]
    if not undeclared:
        raise NotDeclared("the store declares all of it")
    for what, ask in undeclared:
        refused(what, Unsupported, ask)
    equal("the listing", site.keys(), [])


@live
def keeps_metadata(site: Site) -> None:
    """Text that is stored with an object comes back by `head`, and goes when the object is replaced."""
    site.need("metadata")
    key, text = site.key("a"), {"mtime": "1700000000.123456789", "mode": "0644", "note": "words with spaces"}
    site.store.put(key, b"1", metadata=text)
    found = site.store.head(key)
    equal("the metadata", found and dict(found.metadata), text)
    site.store.put_stream(key, [b"1", b"2"], metadata={"mode": "0600"})
    found = site.store.head(key)
    equal("the metadata of a stream", found and dict(found.metadata), {"mode": "0600"})
    site.store.put(key, b"2")
    found = site.store.head(key)
    equal("the metadata of a new object without any", found and dict(found.metadata), {})


@live
def copies(site: Site) -> None:
    """A copy has the content and the metadata of its source, which stays; without a source it is NotFound."""
    site.need("server_copy")
    here, there = site.key("a"), site.key("b/c")
    site.store.put(here, b"content", metadata={"mode": "0644"} if site.caps.metadata else None)
    equal("the size of the copy", site.store.copy(here, there).size, 7)
    equal("the content of the copy", site.store.get(there), b"content")
    equal("the content of the source", site.store.get(here), b"content")
    if site.caps.metadata:
        found = site.store.head(there)
        equal("the metadata of the copy", found and dict(found.metadata), {"mode": "0644"})
    refused("a copy of nothing", NotFound, lambda: site.store.copy(site.key("nothing"), there))


for check in LOAD_CHECKS:
    CHECKS.add(check.level, check.name, check.body, check.statement)
