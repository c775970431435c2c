"""The place in a store that a check of a storage driver has for itself, and what checks say."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine_sdk import EngineError, NotFound, StorageCaps, Store
from engine_sdk.testing.checks import Checks, NotDeclared
from engine_sdk.testing.storage_subject import StorageSubject


class Site:
    """A part of a store that one check has for itself."""

    def __init__(self, subject: StorageSubject, store: Store, seed: Store, directory: Path) -> None:
        self.subject = subject
        self.store = store
        self.seed = seed
        """Where content is written: the store itself, or the one that the seed-url names."""
        self.directory = directory
        self.prefix = f"kit-{secrets.token_hex(6)}/"

    @property
    def caps(self) -> StorageCaps:
        """What the store declares."""
        return self.store.caps

    def key(self, name: str) -> str:
        """Return a key within the site."""
        return self.prefix + name

    def keys(self, below: str = "", **arguments: Any) -> list[str]:
        """Return the names that a listing gives, sorted."""
        return sorted(s.key.removeprefix(self.prefix) for s in self.store.list(self.key(below), **arguments))

    def need(self, capability: str) -> None:
        """End the check if the store does not declare something."""
        if not getattr(self.caps, capability):
            raise NotDeclared(f"the store does not declare {capability}")


@contextlib.contextmanager
def _site(subject: StorageSubject, directory: Path) -> Iterator[Site]:
    """Give a check a place of its own in the store, and empty it afterwards."""
    store = subject.open(subject.url(str(directory)))
    seed = store
    if not store.caps.writable:
        if not subject.seed_url:
            raise NotDeclared("the driver only reads, and no seed-url was given")
        seed = _open_seed(subject.seed_url)
    site = Site(subject, store, seed, directory)
    try:
        yield site
    finally:
        for stat in list(seed.list(site.prefix)):
            with contextlib.suppress(NotFound):
                seed.delete(stat.key)
        store.close()


def _open_seed(url: str) -> Store:
    from engine.plugins import Plugins
    from engine.storage.secrets import Secrets
    from engine.storage.stores import Stores

    stores = Stores(Plugins())
    return stores.open(stores.plan(url, {}), Secrets())


def live_in(checks: Checks) -> Callable[[Callable[[Site], None]], Callable[[Site], None]]:
    """Return a decorator that registers a check of an open store, which gets a part of it for itself."""

    def live(body: Callable[[Site], None]) -> Callable[[Site], None]:
        def run(subject: StorageSubject, directory: Path) -> None:
            with _site(subject, directory) as site:
                body(site)

        checks.add("live", body.__name__, run, (body.__doc__ or "").strip().partition("\n")[0])
        return body

    return live


def refused(what: str, kind: type[EngineError] | tuple[type[EngineError], ...], ask: Callable[[], object]) -> None:
    """Expect an error of one kind, or of one of several."""
    try:
        answer = ask()
    except kind:
        return
    except EngineError as err:
        raise AssertionError(f"{what} raises {type(err).__name__}, not {_names(kind)}: {err}") from err
    raise AssertionError(f"{what} is accepted: {answer!r:.200}")


def equal(what: str, got: object, wanted: object) -> None:
    """Expect a value."""
    if got != wanted:
        raise AssertionError(f"{what} is {got!r:.300}, not {wanted!r:.300}")


def _names(kinds: type[EngineError] | tuple[type[EngineError], ...]) -> str:
    return " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
