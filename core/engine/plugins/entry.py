"""One installed driver or plugin: where it comes from, what is known of it, and the checks before its first use."""

from __future__ import annotations

import difflib
import inspect
import sys
import threading
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from engine.spec.driver import Driver, SpecVersion
from engine.spec.errors import DriverFault
from engine.spec.ipam import IpamDriver
from engine.spec.network import NetworkDriver
from engine.spec.options import Options
from engine.spec.storage import StorageDriver
from engine.spec.volume import VolumeDriver

SPECS: dict[str, type[Driver]] = {s.GROUP: s for s in (NetworkDriver, IpamDriver, VolumeDriver, StorageDriver)}
"""By entry-point group: the specification of each kind of driver."""
PLUGINS_GROUP = "engine.plugins"
"""Entry-point group of plugins that observe events and wrap operations."""

Status = Literal["ok", "not loaded", "broken", "clash", "blocked"]


@dataclass(frozen=True)
class DriverInfo:
    """One installed driver or plugin, as `engine driver ls` shows it. `spec` is the version that a loaded one needs."""

    name: str
    group: str
    distribution: str
    version: str
    status: Status
    reason: str = ""
    spec: str = ""


class Rejected(Exception):
    """A driver is not what its entry point promises; the text says why."""


def kind_word(group: str) -> str:
    """Return what a thing of an entry-point group is called: `network driver`."""
    return "plugin" if group == PLUGINS_GROUP else group.removeprefix("engine.") + " driver"


@dataclass
class Entry:
    """What is known of one entry point."""

    group: str
    point: EntryPoint
    status: Status = "not loaded"
    reason: str = ""
    cause: BaseException | None = None
    instance: Any = None
    hooks: Any = None
    """The pluggy.PluginManager of a loaded one: the driver and its wrappers, or the plugin alone."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """The driver's name."""
        return self.point.name

    @property
    def distribution(self) -> str:
        """Name of the package that the driver was installed with."""
        return self.point.dist.name if self.point.dist else "unknown"

    @property
    def version(self) -> str:
        """Version of that package."""
        return self.point.dist.version if self.point.dist else "unknown"

    @property
    def origin(self) -> str:
        """Package and version, for messages."""
        return f"{self.distribution} {self.version}"

    def broken(self, reason: str, cause: BaseException | None = None) -> DriverFault:
        """Remember why this one cannot be used, and return the error that says so."""
        self.status, self.reason, self.cause = "broken", reason, cause
        return self.fault()

    def fault(self) -> DriverFault:
        """Return the error for a use of a broken driver."""
        error = DriverFault(
            f"{kind_word(self.group)} {self.name!r} of {self.origin} cannot be used",
            why=self.reason,
            hint=self.cure(self.cause) or f"Tell the authors of {self.distribution}, or use another driver",
            driver=self.name,
        )
        error.__cause__ = self.cause
        return error

    def cure(self, error: BaseException | None) -> str:
        """Return how to install what an error says cannot be imported; "" if it is something else.

        What only one driver needs is an extra of its package, with the driver's name.
        """
        extras = (self.point.dist.metadata.get_all("Provides-Extra") or ()) if self.point.dist else ()
        while error is not None and not isinstance(error, ImportError):
            error = error.__cause__
        if error is None or self.name not in extras:
            return ""
        return f"Install it: {sys.executable} -m pip install '{self.distribution}[{self.name}]'"

    def info(self) -> DriverInfo:
        """Return the row of `engine driver ls`."""
        spec = str(SpecVersion(*self.instance.needs)) if isinstance(self.instance, Driver) else ""
        return DriverInfo(self.name, self.group, self.distribution, self.version, self.status, self.reason, spec)

    def load(self) -> Any:
        """Import the entry point's object, and check and return an instance of it.

        Raises Rejected when it is not what it should be, and whatever its import raises.
        """
        thing = self.point.load()
        if self.group == PLUGINS_GROUP:
            return thing() if isinstance(thing, type) else thing
        spec = SPECS[self.group]
        if not isinstance(thing, type) or not issubclass(thing, spec):
            raise Rejected(f"{self.point.value} is no subclass of {spec.__name__}")
        _check_version(thing, spec)
        _check_operations(thing, spec)
        if not issubclass(thing.options_model, Options):
            raise Rejected(f"its options model {thing.options_model.__name__} is no subclass of Options")
        return thing()


def _check_version(driver: type[Driver], spec: type[Driver]) -> None:
    try:
        needs = SpecVersion(*(int(number) for number in driver.needs))
    except (TypeError, ValueError):
        raise Rejected(f"`needs` is no version of a specification: {driver.needs!r}") from None
    if needs.major != spec.SPEC.major or needs.minor > spec.SPEC.minor:
        word = kind_word(spec.GROUP)
        raise Rejected(f"it needs version {needs} of the {word} specification, and this engine has {spec.SPEC}")


def _check_operations(driver: type[Driver], spec: type[Driver]) -> None:
    """Refuse what would be ignored silently: a misspelt operation, a missing one, an asynchronous one."""
    for name in dir(driver):
        function = getattr(driver, name)
        if name.startswith("_") or not callable(function) or hasattr(spec, name):
            continue
        # 0.87 finds a missing, doubled or swapped letter, and leaves helpers such as `volume_plan_for` in peace.
        if close := difflib.get_close_matches(name, spec.OPERATIONS, n=1, cutoff=0.87):
            raise Rejected(f"it has no operation {name!r}: did you mean {close[0]!r}?")
    for name in spec.OPERATIONS:
        function = getattr(driver, name)
        if name in spec.REQUIRED and function is getattr(spec, name):
            raise Rejected(f"it does not define {name}")
        if inspect.iscoroutinefunction(function):
            raise Rejected(f"{name} is asynchronous; operations are plain functions")


def result_type(spec: type[Driver], operation: str, driver: Driver) -> type:
    """Return the class that an operation's result has, from the specification's annotations."""
    answers = get_type_hints(getattr(spec, operation))["return"]
    (answer,) = (a for a in get_args(answers) or (answers,) if a is not type(None))
    if isinstance(answer, TypeVar) or not isinstance(answer, type):
        return driver.options_model
    # A protocol (`Store`) has no class to check against.
    return object if getattr(answer, "_is_protocol", False) else answer
