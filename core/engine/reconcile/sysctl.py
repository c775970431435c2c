"""The applier of kernel parameters: files below /proc/sys/net, seen from inside the namespace that they belong to.

(/sys does not follow the namespace of a thread; /proc/sys/net does.) A value that is set is never restored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, cast

from engine.reconcile import netns
from engine.reconcile.applier import BatchError, Context, Difference
from engine.reconcile.settings import Settings
from engine.spec.links import Sysctl
from engine.spec.resource import Key, Resource

ROOT = Path("/proc/sys")


def path_of(item: Sysctl) -> Path:
    """Return the file of a parameter. A link's name is one component, whatever dots are in it."""
    return ROOT.joinpath(*(part.replace("{link}", item.link or "") for part in item.name.split(".")))


class SysctlApplier:
    """Kernel parameters."""

    families: ClassVar[frozenset[str]] = frozenset({"sysctl"})

    def __init__(self, settings: Settings | None = None) -> None:
        """`settings` watches the host's parameters."""
        self._settings = settings

    def create(self, batch: Sequence[Resource], context: Context) -> Sequence[Resource]:
        """Set values."""
        done: list[Resource] = []
        current = batch[0]
        try:
            with _place(batch[0], context):
                for current in batch:
                    path_of(cast(Sysctl, current)).write_text(cast(Sysctl, current).value)
                    self._keep(cast(Sysctl, current))
                    done.append(current)
        except OSError as err:
            raise BatchError(current, err, done, errno=err.errno or 0) from err
        return done

    def _keep(self, item: Sysctl) -> None:
        if self._settings and item.ns == "host":
            self._settings.keep(path_of(item), item.value)

    def update(self, old: Resource, new: Resource, context: Context) -> None:
        """Set one value."""
        self.create([new], context)

    def remove(self, batch: Sequence[Resource], context: Context) -> list[tuple[Resource, Exception]]:
        """Do nothing: nobody knows who else relies on a value, and those of a link go with it."""
        return []

    def diff(self, wanted: Mapping[Key, Resource], contexts: Mapping[Key, Context]) -> list[Difference]:
        """Compare values, as words."""
        found: list[Difference] = []
        for key, item in wanted.items():
            parameter = cast(Sysctl, item)
            try:
                with _place(item, contexts[key]):
                    seen = path_of(parameter).read_text()
                    self._keep(parameter)
            except OSError:  # no such parameter (its link is not there), or no such sandbox
                found.append(Difference(key, "missing", owner=contexts[key].owner, resource=item))
                continue
            if seen.split() != parameter.value.split():
                fields = {"value": (parameter.value, seen.strip())}
                found.append(Difference(key, "differs", fields, contexts[key].owner, item))
        return found

    def unwanted(self, wanted: Mapping[Key, Resource]) -> list[Difference]:
        """Return nothing: values carry no tag."""
        return []

    def discard(self, difference: Difference) -> None:
        """Do nothing."""


@contextmanager
def _place(item: Resource, context: Context) -> Iterator[None]:
    if item.namespace == "host" or context.sandbox is None:
        yield
        return
    with netns.opened(context.sandbox.path) as namespace, netns.entered(namespace):
        yield
