"""Finds drivers and plugins, loads one when it is needed, calls exactly that one, and isolates a broken one.

A driver is an entry point: the group says its kind, the name is the driver's name, the value its class. Listing names
reads the metadata of installed distributions and imports nothing. The operations are pluggy hooks, and each driver has
a hook system of its own, in which there is nothing but the driver and the wrappers that plugins of the group
`engine.plugins` put around its operations: whatever is loaded meanwhile, no other driver can answer in its place.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import os
import threading
import traceback
from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pluggy

from engine.plugins.deadline import Hung, Workers
from engine.plugins.entry import PLUGINS_GROUP, SPECS, DriverInfo, Entry, Rejected, kind_word, result_type
from engine.spec.driver import PROJECT, Driver
from engine.spec.errors import Conflict, DeadlineExceeded, DriverFault, EngineError, Forbidden, NotFound
from engine.spec.plugin import EngineHooks, Event

log = logging.getLogger(__name__)

SHIPPED = "pluggable-engine"
"""The distribution that Engine itself is in: the only one that is used when loading of others is turned off."""
_OPERATIONS = frozenset(operation for spec in SPECS.values() for operation in spec.OPERATIONS)


class Plugins:
    """The registry of drivers and plugins of one engine. All methods may be called from any thread.

    `allow` limits the names that may be used; `pins` chooses a distribution where two have a driver of one name (keys
    are `network/NAME`, `volume/NAME`, ...). `deadline` (seconds) is the time of one call, `load_deadline` that of an
    import. Without `autoload` (the environment's ENGINE_DISABLE_PLUGIN_AUTOLOAD=1) only Engine's own drivers are used,
    or those in `allow`.
    """

    def __init__(
        self,
        *,
        allow: Collection[str] | None = None,
        pins: Mapping[str, str] | None = None,
        deadline: float = 5.0,
        load_deadline: float = 30.0,
        autoload: bool | None = None,
    ) -> None:
        self._allow = None if allow is None else frozenset(allow)
        self._pins = dict(pins or {})
        self._deadline, self._load_deadline = deadline, load_deadline
        self._autoload = os.environ.get("ENGINE_DISABLE_PLUGIN_AUTOLOAD") != "1" if autoload is None else autoload
        self._workers = Workers()
        self._lock = threading.RLock()
        self._wrappers: list[Entry] = []
        """Loaded plugins in the order of their loading: the last one is the outermost around an operation."""
        self._entries: dict[tuple[str, str], list[Entry]] = {}
        self._callers: dict[tuple[str, str, str], tuple[Entry, Callable[..., Any], type]] = {}
        self.rescan()

    # What is installed

    def rescan(self) -> None:
        """Look for drivers that were installed since. What is loaded stays as it is."""
        importlib.invalidate_caches()
        everything = entry_points()
        installed = [(group, point) for group in (*SPECS, PLUGINS_GROUP) for point in everything.select(group=group)]
        found: dict[tuple[str, str], list[Entry]] = {}
        with self._lock:
            known = {_identity(e): e for entries in self._entries.values() for e in entries}
            for group, point in installed:
                entry = Entry(group, point)
                found.setdefault((group, point.name), []).append(known.get(_identity(entry), entry))
            for entries in found.values():
                self._mark(entries)
            self._entries = found

    def _mark(self, entries: list[Entry]) -> None:
        """Note what may not be used: blocked by configuration, or one of two with the same name."""
        for entry in entries:
            if entry.status in ("not loaded", "clash", "blocked"):
                entry.reason = self._blocked(entry)
                entry.status = "blocked" if entry.reason else "not loaded"
        rivals = [e for e in entries if e.status != "blocked"]
        if len(rivals) < 2 or rivals[0].group == PLUGINS_GROUP:
            return
        pin = self._pins.get(f"{rivals[0].group.removeprefix('engine.')}/{rivals[0].name}")
        pinned = pin in {e.distribution for e in rivals}
        for entry in rivals:
            if pinned and entry.distribution != pin:
                entry.status, entry.reason = "blocked", f"pinned to {pin}"
            elif not pinned and entry.status == "not loaded":  # a loaded one goes on until the engine is restarted
                entry.status, entry.reason = "clash", "also in " + ", ".join(r.origin for r in rivals if r is not entry)

    def _blocked(self, entry: Entry) -> str:
        if self._allow is not None:
            return "" if entry.name in self._allow else "not in the list of allowed drivers"
        if not self._autoload and entry.distribution != SHIPPED:
            return "drivers of other packages are turned off (ENGINE_DISABLE_PLUGIN_AUTOLOAD)"
        return ""

    def names(self, group: str) -> list[str]:
        """Return the names of all drivers of a kind that are not blocked, without importing any."""
        with self._lock:
            return sorted(
                name
                for (g, name), entries in self._entries.items()
                if g == group and any(e.status != "blocked" for e in entries)
            )

    def info(self, group: str | None = None) -> list[DriverInfo]:
        """Return one row for each installed driver (and plugin), without importing any."""
        with self._lock:
            rows = [e.info() for (g, _), entries in self._entries.items() if group in (None, g) for e in entries]
        return sorted(rows, key=lambda row: (row.group, row.name, row.distribution))

    # Loading

    def get(self, group: str, name: str) -> Driver:
        """Return a driver, imported if it was not yet.

        Raises NotFound (with a suggestion), Conflict when two distributions have one of that name, Forbidden when it is
        blocked by configuration, DriverFault when it is broken.
        """
        driver: Driver = self._load(self._select(group, name)).instance
        return driver

    def _select(self, group: str, name: str) -> Entry:
        if (group, name) not in self._entries:
            self.rescan()  # it may have been installed a moment ago
        with self._lock:
            entries = self._entries.get((group, name), [])
        if not entries:
            known = self.names(group)
            close = difflib.get_close_matches(name, known, n=1)
            raise NotFound(
                f"there is no {kind_word(group)} {name!r}",
                hint=f"Did you mean {close[0]!r}?" if close else f"Installed: {', '.join(known) or 'none'}",
            )
        rivals = [e for e in entries if e.status != "blocked"]
        if not rivals:
            raise Forbidden(f"{kind_word(group)} {name!r} is blocked", why=entries[0].reason, driver=name)
        usable = [e for e in rivals if e.status != "clash"]
        if len(usable) != 1:
            raise Conflict(
                f"{kind_word(group)} {name!r} is in more than one package",
                why=" and ".join(e.origin for e in rivals),
                hint=f"Uninstall one, or pin {group.removeprefix('engine.')}/{name} to one of them",
                driver=name,
            )
        return usable[0]

    def _load(self, entry: Entry) -> Entry:
        with entry.lock:
            if entry.status == "broken":
                raise entry.fault()
            if entry.instance is not None:
                return entry
            try:
                instance = self._workers.run(entry.load, self._load_deadline)
                self._register(entry, instance)
            except Hung:
                raise entry.broken(f"its import did not end within {self._load_deadline:g} s") from None
            except Rejected as err:
                raise entry.broken(str(err)) from None
            except Exception as err:
                raise entry.broken(f"{type(err).__name__}: {err}", err) from err
            return entry

    def _register(self, entry: Entry, instance: Any) -> None:
        """Let an instance be called, after pluggy has checked the names of its hooks' arguments."""
        is_plugin = entry.group == PLUGINS_GROUP
        hooks = _hook_system((*SPECS.values(), EngineHooks) if is_plugin else (SPECS[entry.group],))
        hooks.register(instance)
        if is_plugin:
            hooks.check_pending()
            _check_wraps(hooks, instance)
        with self._lock:  # of a driver and a plugin that are loaded at once, the second one sees the first
            if is_plugin:
                if any(wrapper.instance is instance for wrapper in self._wrappers):
                    raise Rejected("another entry point has brought the same plugin")
                self._wrappers.append(entry)
                for driver in self._drivers():
                    driver.hooks.register(instance)
            else:
                for wrapper in self._wrappers:
                    hooks.register(wrapper.instance)
            entry.instance, entry.hooks, entry.status, entry.reason = instance, hooks, "ok", ""

    def load_plugins(self) -> None:
        """Load the plugins of the group `engine.plugins`; a broken one is logged, listed, and harms nothing."""
        with self._lock:
            points = [e for (g, _), entries in self._entries.items() if g == PLUGINS_GROUP for e in entries]
        for entry in points:
            if entry.status == "not loaded":
                try:
                    self._load(entry)
                except DriverFault as err:
                    log.error("%s", err)

    # Calling

    def call(self, group: str, name: str, operation: str, /, **arguments: Any) -> Any:
        """Call one operation of one driver, with the wrappers around it. None means that the driver leaves it out.

        Raises what `get` raises; DeadlineExceeded when the driver hangs (it is not called again); an EngineError of the
        driver's as it is, with the driver's name; DriverFault for any other exception and for a wrong type of result.
        """
        entry, caller, expected = self._callers.get((group, name, operation)) or self._caller(group, name, operation)
        if entry.status == "broken":
            raise entry.fault()
        try:
            result = self._workers.run(partial(caller, **arguments), self._deadline)
        except Hung as err:
            guilty = self._guilty(entry, [file for file, _ in err.stack])
            self._retire(guilty, operation, err)
            raise DeadlineExceeded(
                f"{operation} of {kind_word(guilty.group)} {guilty.name!r} ({guilty.origin}) did not end",
                why=str(err),
                hint="It is not used again until the engine is restarted",
                driver=name,
            ) from None
        except EngineError as err:
            err.driver = err.driver or name
            err.hint = entry.cure(err) or err.hint
            raise
        except Exception as err:
            raise self._fault(entry, operation, err) from err
        if result is not None and not isinstance(result, expected):
            if inspect.iscoroutine(result):
                result.close()
            raise DriverFault(
                f"{operation} of {entry.origin} returned {type(result).__name__} instead of {expected.__name__}",
                driver=name,
            )
        return result

    def _caller(self, group: str, name: str, operation: str) -> tuple[Entry, Callable[..., Any], type]:
        """Return a caller that reaches one driver and all wrappers, but no other driver."""
        entry = self._load(self._select(group, name))
        caller = getattr(entry.hooks.hook, operation)
        ready = (entry, caller, result_type(SPECS[group], operation, entry.instance))
        self._callers[group, name, operation] = ready
        return ready

    def _retire(self, entry: Entry, operation: str, hung: Hung) -> DriverFault:
        """Never call one again that hung: each call would cost its deadline, and leave a thread behind."""
        with self._lock:
            if entry in self._wrappers:
                self._wrappers.remove(entry)
                for driver in self._drivers():
                    driver.hooks.unregister(entry.instance)
            return entry.broken(f"it hung in {operation}{_where(entry, hung.stack)}")

    def _fault(self, entry: Entry, operation: str, err: Exception) -> DriverFault:
        trace = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(err.__traceback__)]
        guilty = self._guilty(entry, trace)
        return DriverFault(
            f"{operation} of {kind_word(guilty.group)} {guilty.name!r} ({guilty.origin}) failed",
            why=f"{type(err).__name__}: {err}",
            driver=entry.name,
        )

    def _guilty(self, entry: Entry, files: Collection[str]) -> Entry:
        """Say whose code it was: the driver's, or a plugin's whose wrapper is on the stack while the driver is not."""
        if _file(entry.instance) in files:
            return entry
        return next((plugin for plugin in self._plugins() if _file(plugin.instance) in files), entry)

    # Plugins of the group engine.plugins

    def _drivers(self) -> list[Entry]:
        """Return the drivers that are loaded. The caller holds the lock."""
        return [
            e
            for (g, _), entries in self._entries.items()
            for e in entries
            if g != PLUGINS_GROUP and e.hooks is not None
        ]

    def _plugins(self) -> list[Entry]:
        with self._lock:
            return list(self._wrappers)

    def _tell(self, plugin: Entry, hook: str, **arguments: Any) -> None:
        """Call one hook of one plugin. Raises DriverFault when it fails or hangs; a hung one is not called again."""
        caller = getattr(plugin.hooks.hook, hook)
        try:
            self._workers.run(partial(caller, **arguments), self._deadline)
        except Hung as err:
            raise self._retire(plugin, hook, err) from None
        except EngineError:
            raise
        except Exception as err:
            raise self._fault(plugin, hook, err) from err

    @property
    def edits_oci_spec(self) -> bool:
        """Whether any plugin wants to see OCI specifications: else nobody need build one for them."""
        return any(hasattr(p.instance, "edit_oci_spec") for p in self._plugins())

    def emit(self, event: Event) -> None:
        """Hand an event to all plugins that listen. A failure is logged, and harms neither the others nor us."""
        for plugin in self._plugins():
            if hasattr(plugin.instance, "engine_event"):
                try:
                    self._tell(plugin, "engine_event", event=event)
                except EngineError as err:
                    log.error("%s", err)

    def edit_oci_spec(self, spec: dict[str, Any], container: Mapping[str, Any]) -> None:
        """Let all plugins change a container's OCI runtime specification in place. Raises DriverFault if one fails."""
        for plugin in self._plugins():
            if hasattr(plugin.instance, "edit_oci_spec"):
                self._tell(plugin, "edit_oci_spec", spec=spec, container=container)


def _hook_system(specs: Collection[type]) -> pluggy.PluginManager:
    hooks = pluggy.PluginManager(PROJECT)
    for spec in specs:
        hooks.add_hookspecs(spec)
    return hooks


def _check_wraps(hooks: pluggy.PluginManager, plugin: object) -> None:
    for caller in hooks.get_hookcallers(plugin) or ():
        for impl in caller.get_hookimpls():
            if caller.name in _OPERATIONS and not (impl.wrapper or impl.hookwrapper):
                raise Rejected(f"{caller.name} must be a wrapper: a plugin cannot answer in a driver's place")


def _identity(entry: Entry) -> tuple[str, str, str, str]:
    return entry.group, entry.name, entry.distribution, entry.point.value


def _where(entry: Entry, stack: Collection[tuple[str, int]]) -> str:
    """Return where in its own file an entry's code was."""
    line = next((line for file, line in stack if file == _file(entry.instance)), 0)
    return f", {Path(_file(entry.instance)).name} line {line}" if line else ""


def _file(thing: object) -> str:
    try:
        return inspect.getfile(thing if inspect.ismodule(thing) else type(thing))
    except TypeError:
        return ""
