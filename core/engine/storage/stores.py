"""Stores by URL.

A chained URL is read from its end: `crypt::s3://bucket` is what the driver of `crypt` makes of the store that the
driver of `s3` opens. A driver that wraps is known by its declaration, and no driver knows another one.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from engine.plugins import Plugins
from engine.spec.errors import DriverFault, EngineError, InvalidParameter, NotFound, Unsupported
from engine.spec.options import StorageOptions, parse_options
from engine.spec.storage import StorageCaps, StorageDriver, Store, scheme_of, split_chain
from engine.storage.secrets import Secrets

log = logging.getLogger(__name__)
GROUP = StorageDriver.GROUP
EVERY = "*"
DEPTH = 4
"""Wrappers around one store at most."""
_WORD = re.compile(r"[a-z][a-z0-9+._-]*", re.IGNORECASE)
"""A wrapper's name, without its URL."""
_ALMOST = re.compile(r"([a-z][a-z0-9+.-]*):/*", re.IGNORECASE)
"""Beginning of a URL that lacks slashes."""


class Part(NamedTuple):
    """One driver of a chain, with its own options."""

    driver: str
    url: str
    options: StorageOptions


class StorePlan(NamedTuple):
    """What will be opened: values without secrets, made without looking at the store."""

    parts: tuple[Part, ...]
    """The outermost wrapper first, the driver that opens the store last."""
    caps: StorageCaps

    def require(self, *capabilities: str) -> None:
        """Raise Unsupported if the store will not be able to do one of these (fields of StorageCaps)."""
        missing = [name for name in capabilities if not getattr(self.caps, name)]
        if missing:
            raise Unsupported(
                f"{self.parts[-1].url} cannot be used for this",
                driver=self.parts[-1].driver,
                why=f"the store lacks the capability {', '.join(missing)}",
                hint=f"See: engine driver show {self.parts[-1].driver}",
            )


class Stores:
    """Plans and opens stores with the installed drivers."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins

    def plan(self, url: str, given: Mapping[str, Any]) -> StorePlan:
        """Return the drivers of a URL, their options checked, and what the store will be able to do.

        An option goes to every driver of the chain that has it. Raises InvalidParameter for an option that none has,
        and what the drivers raise. It does not look at the store.
        """
        chain = self._chain(url)
        options = self._share([driver for driver, _ in chain], given)
        parts = tuple(Part(name, part, o) for (name, part), o in zip(chain, options, strict=True))
        caps: StorageCaps | None = None
        for part in reversed(parts):
            answer = self._plugins.call(
                GROUP, part.driver, "store_caps", url=part.url, options=part.options, inner=caps
            )
            caps = cast(StorageCaps, answer) if answer is not None else caps or self._driver(part.driver).caps
        if caps is None:
            raise InvalidParameter("the URL is empty")
        return StorePlan(parts, caps)

    def option_models(self, url: str) -> tuple[type[StorageOptions], ...]:
        """Return the models of options of the drivers of a URL. Raises NotFound, InvalidParameter, DriverFault."""
        return tuple(self._model(name) for name, _ in self._chain(url))

    def open(self, plan: StorePlan, secrets: Secrets) -> Store:
        """Connect. In helper and job processes only.

        Raises what reading the secrets raises, and what the drivers raise: Unavailable, Forbidden, NotFound, ...
        """
        store: Store | None = None
        try:
            for part in reversed(plan.parts):
                arguments: dict[str, Any] = {"options": part.options, "secrets": secrets.of(part.options)}
                if store is None:
                    opened = self._plugins.call(GROUP, part.driver, "open_store", url=part.url, **arguments)
                else:
                    opened = self._plugins.call(GROUP, part.driver, "wrap_store", store=store, **arguments)
                if opened is None:
                    raise DriverFault("it opened no store", driver=part.driver)
                store = cast(Store, opened)
        except BaseException:
            if store is not None:
                store.close()
            raise
        if store is None:
            raise InvalidParameter("the plan has no parts")
        return store

    def _model(self, name: str) -> type[StorageOptions]:
        return cast("type[StorageOptions]", self._driver(name).options_model)

    def _driver(self, name: str) -> StorageDriver[Any]:
        return cast("StorageDriver[Any]", self._plugins.get(GROUP, name))

    def _chain(self, url: str) -> list[tuple[str, str]]:
        """Return driver and URL of each part. The rest of a chain that no wrapper begins is one driver's affair."""
        chain: list[tuple[str, str]] = []
        parts = split_chain(url)
        for part in parts:
            if "://" not in part and not part.startswith("/") and not _WORD.fullmatch(part):
                close = _ALMOST.sub(r"\1://", part) if _ALMOST.match(part) else f"s3://BUCKET/PREFIX, or /{part}"
                raise InvalidParameter(
                    f"{url!r} names no store",
                    why=f"{part!r} is neither a URL nor an absolute path",
                    hint=f"Write {close}",
                )
        for n, part in enumerate(parts):
            name = self._find(scheme_of(part))
            if self._driver(name).wraps:
                chain.append((name, part))
                continue
            rest = parts[n:]
            if len(rest) > 1:
                name = self._fallback(scheme_of(part))
            chain.append((name, "::".join(rest)))
            break
        else:
            raise InvalidParameter(
                f"{url!r} names no store", why=f"{chain[-1][0]} wraps another one", hint="Write crypt::s3://bucket/path"
            )
        if len(chain) > DEPTH:
            raise InvalidParameter(f"{url!r} wraps a store more than {DEPTH - 1} times")
        return chain

    def _find(self, scheme: str) -> str:
        """Return the driver of a scheme: of its name, else one that declares it, else the one for every scheme."""
        names = self._plugins.names(GROUP)
        return scheme if scheme in names else self._declared(names, scheme) or self._fallback(scheme)

    def _fallback(self, scheme: str) -> str:
        names = self._plugins.names(GROUP)
        found = self._declared(names, EVERY)
        if found is None:
            close = difflib.get_close_matches(scheme, names, n=1)
            raise NotFound(
                f"there is no storage driver for {scheme}://",
                hint=f"Did you mean {close[0]!r}?" if close else f"Installed: {', '.join(names) or 'none'}",
            )
        return found

    def _declared(self, names: Sequence[str], scheme: str) -> str | None:
        for name in names:
            try:
                if scheme in self._driver(name).schemes:
                    return name
            except EngineError as err:  # a broken driver harms no other one; asked by its name, it says so
                log.debug("storage driver %s is not asked for %s: %s", name, scheme, err)
        return None

    def _share(self, drivers: Sequence[str], given: Mapping[str, Any]) -> list[StorageOptions]:
        models = [self._model(name) for name in drivers]
        shares: list[dict[str, Any]] = [{} for _ in drivers]
        for key, value in given.items():
            owners = [n for n, model in enumerate(models) if key.replace("-", "_") in model.model_fields]
            for n in owners or [len(drivers) - 1]:  # the last one says that it does not know it
                shares[n][key] = value
        return [
            parse_options(model, share, driver=name) for model, share, name in zip(models, shares, drivers, strict=True)
        ]
