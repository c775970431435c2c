"""The storage driver under test, and the store that its checks use.

Two words among the options are for the kit, not for the driver: `url`, the store that may be written to (a directory of
the kit's if it is not given), and `seed-url`, a writable store with the same content, for drivers that only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine_sdk import StorageDriver, Store
from engine_sdk.testing.subject import Subject

NOWHERE = "/engine-conformance"


class StorageSubject(Subject):
    """A storage driver with its options and its store."""

    def __init__(self, kind: str, name: str, options: Mapping[str, str]) -> None:
        given = dict(options)
        self._url = given.pop("url", "")
        self.seed_url = given.pop("seed-url", "")
        self.all_options = given
        """Those of every driver in the chain of the URL."""
        super().__init__(kind, name, given)

    @property
    def given(self) -> dict[str, str]:
        """The options of this driver itself, as an operator would write them."""
        known = self.driver.options_model.model_fields
        return {name: value for name, value in self.all_options.items() if name.replace("-", "_") in known}

    def url(self, directory: str = NOWHERE) -> str:
        """Return the URL that was given, or one for a directory."""
        if self._url:
            return self._url
        driver: StorageDriver[Any] = self.driver
        scheme = next((s for s in driver.schemes if s != "*"), self.name)
        return f"{scheme}::file://{directory}" if driver.wraps else f"{scheme}://{directory}"

    def open(self, url: str, changes: Mapping[str, Any] | None = None, *, wrong_secrets: bool = False) -> Store:
        """Open a store through the engine, with changed options or with secrets that are wrong."""
        from engine.plugins import Plugins
        from engine.storage.secrets import Secrets
        from engine.storage.stores import Stores

        class Wrong(Secrets):
            def read(self, reference: str) -> bytes:
                return super().read(reference)[:-4] + b"eel0"

        stores = Stores(Plugins(deadline=60))
        plan = stores.plan(url, {**self.all_options, **(changes or {})})
        if plan.parts[0].driver != self.name:
            raise AssertionError(f"{url} is opened by {plan.parts[0].driver}, not by {self.name}")
        return stores.open(plan, Wrong() if wrong_secrets else Secrets())

    def secrets(self) -> list[bytes]:
        """Return the secrets that the options name."""
        from engine.storage.secrets import Secrets

        return list(Secrets().of(self.options()).values())
