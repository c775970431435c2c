"""The driver under test: found and loaded exactly as the engine does, and asked one operation at a time."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Mapping
from typing import Any

from engine_sdk import (
    Driver,
    EngineError,
    IpamDriver,
    NetworkDriver,
    Options,
    StorageDriver,
    Unsupported,
    VolumeDriver,
    parent_fields,
    parse_options,
)
from engine_sdk.testing.checks import NotDeclared

SPECIFICATIONS: Mapping[str, type[Driver]] = {
    "network": NetworkDriver,
    "ipam": IpamDriver,
    "volume": VolumeDriver,
    "storage": StorageDriver,
}
PARENT = "ecparent"
"""Name of the link that the kit gives to options which select a host link; further ones get a number."""


class Subject:
    """A driver by its name, with the options that it cannot run without."""

    def __init__(self, kind: str, name: str, options: Mapping[str, str]) -> None:
        self.kind = kind
        self.name = name
        self.specification = SPECIFICATIONS[kind]
        self._options = dict(options)

    @functools.cached_property
    def driver(self) -> Any:
        """The driver's instance, loaded by its entry point."""
        from engine.plugins import Plugins

        return Plugins().get(self.specification.GROUP, self.name)

    @property
    def caps(self) -> Any:
        """What the driver declares (network and volume drivers)."""
        return self.driver.caps

    @property
    def parents(self) -> dict[str, str]:
        """Link names by option: every option that selects a host link gets a link of the kit's."""
        fields = parent_fields(self.driver.options_model)
        return {field: PARENT + (str(n) if n else "") for n, field in enumerate(fields)}

    @property
    def given(self) -> dict[str, str]:
        """The options as an operator would write them."""
        return {**self._options, **self.parents}

    def options(self) -> Options:
        """Return the options, parsed and not settled."""
        model: type[Options] = self.driver.options_model
        return parse_options(model, self.given, driver=self.name)

    def ask(self, operation: str, **arguments: Any) -> Any:
        """Call one operation as the engine does: None stands for "the core's default".

        Errors of the contract pass. `Unsupported` means that the driver does not declare it. Others are its faults.
        """
        try:
            return getattr(self.driver, operation)(**arguments)
        except Unsupported as err:
            raise NotDeclared(f"the driver says: {err}") from err
        except EngineError:
            raise
        except Exception as err:
            where = traceback.extract_tb(err.__traceback__)[-1]
            raise AssertionError(
                f"{operation} raised {type(err).__name__}: {err} ({where.filename}:{where.lineno}); "
                "a driver raises only the kinds of engine_sdk.EngineError"
            ) from err

    def settle(self, *extra: Any) -> Options:
        """Return the settled options: what an operator gave, after the driver's own choice."""
        options = self.options()
        names = {"network": ("options", "subnets"), "volume": ("options",)}[self.kind]
        settled = self.ask(f"settle_{self.kind}", **dict(zip(names, (options, *extra), strict=True)))
        if settled is None:
            return options
        if not isinstance(settled, self.driver.options_model):
            name = self.driver.options_model.__name__
            raise AssertionError(f"settle_{self.kind} returned {settled!r}, which is no {name}")
        result: Options = settled
        return result


def subject_of(kind: str, name: str, options: Mapping[str, str]) -> Subject:
    """Return the subject for a kind of driver."""
    from engine_sdk.testing.storage_subject import StorageSubject

    return (StorageSubject if kind == "storage" else Subject)(kind, name, options)
