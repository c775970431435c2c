"""The applier of links and of what hangs on them, by rtnetlink.

One batch is one send to the host's socket and one to a socket in the sandbox (see `creation`). The latter is opened for
each batch: a socket holds its namespace, and a namespace that is dropped must vanish.
"""

from __future__ import annotations

import errno
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import ClassVar

from engine.reconcile import advertisements, netns
from engine.reconcile import messages as m
from engine.reconcile.applier import BatchError, Context, Difference, Tag
from engine.reconcile.comparison import Comparison, unwanted
from engine.reconcile.creation import Creation, LinkAbsent, Wire, changes, reaches_inside
from engine.reconcile.observation import View, ask_link
from engine.reconcile.rtnetlink import Ack, Message, NetlinkSocket
from engine.reconcile.unlinking import Unlinking
from engine.spec.links import (
    Address,
    BridgePort,
    ForwardingEntry,
    Link,
    Macvlan,
    Neighbour,
    Redirect,
    Route,
    Shape,
    Veth,
)
from engine.spec.resource import Key, Resource

FEW = 8
"""So many links are asked for singly; for more, all are listed."""
_GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})
HELD_SECONDS = 1.0
"""The links of a namespace that is gone live on for some 50 ms, more on a loaded machine: a macvlan link that is made
anew with its old MAC address (a container that is restarted) is refused for so long."""


def _is_held(err: BatchError) -> bool:
    """Return whether another child of the parent has the MAC address, or has the parent for itself."""
    link = err.failed
    if not isinstance(link, Macvlan):
        return False
    return err.errno == errno.EADDRINUSE or (link.mode == "passthru" and err.errno == errno.EINVAL)


class NetlinkApplier:
    """Links, bridge ports, addresses, routes, neighbours, forwarding entries, token buckets, redirects."""

    families: ClassVar[frozenset[str]] = frozenset(
        {"link", "bridge-port", "address", "route", "neighbour", "fdb", "qdisc", "redirect"}
    )

    def __init__(self, tag: Tag) -> None:
        self._tag = tag
        self._unlinking = Unlinking()
        self._socket: NetlinkSocket | None = None
        self._next = (1 << 20) + secrets.randbelow(1 << 24)

    def _host(self) -> NetlinkSocket:
        if self._socket is None:
            self._socket = NetlinkSocket()
        return self._socket

    @contextmanager
    def _wire(self, context: Context, inside: bool) -> Iterator[Wire]:
        """Open the sockets; the reconciler's thread is in the sandbox only while one is made."""
        if not inside or context.sandbox is None:
            yield Wire(self._host())
            return
        with ExitStack() as stack:
            namespace = stack.enter_context(netns.opened(context.sandbox.path))
            with netns.entered(namespace):
                socket = stack.enter_context(NetlinkSocket())
            yield Wire(self._host(), socket, namespace)

    def choose_index(self) -> int:
        """Return an index that no link of the host has."""
        while True:
            self._next = self._next + 1 if self._next < (1 << 30) else 1 << 20
            if not self._host().name(self._next):
                return self._next

    def create(self, batch: Sequence[Resource], context: Context) -> Sequence[Resource]:
        """Make a batch; see `Applier.create`. A parent that a namespace which is gone still holds is waited for."""
        end = time.monotonic() + HELD_SECONDS
        while True:
            try:
                return self._create(batch, context)
            except BatchError as err:
                if not _is_held(err) or time.monotonic() > end:
                    raise
                if any(self.remove([item], context) for item in reversed(err.created)):
                    raise
            time.sleep(HELD_SECONDS / 100)

    def _create(self, batch: Sequence[Resource], context: Context) -> Sequence[Resource]:
        try:
            with self._wire(context, any(reaches_inside(item) for item in batch)) as wire:
                return Creation(self._tag, self.choose_index, wire, context.owner).run(batch)
        except OSError as err:  # no sandbox, or answers were lost: what is new then is found by observing
            raise BatchError(batch[0], err, (), exists=err.errno == errno.ENOBUFS, errno=err.errno or 0) from err

    def update(self, old: Resource, new: Resource, context: Context) -> None:
        """Give an existing thing the values of `new`; see `Applier.update`."""
        try:
            for name in _names_on_host(new):
                advertisements.ignore(name)
            with self._wire(context, reaches_inside(new)) as wire:
                for ns, message in changes(self._tag, wire, context.owner, old, new):
                    for ack in wire.of(ns).send([message]):
                        if ack.errno:
                            raise ack.error()
        except LinkAbsent as err:
            cause = OSError(errno.ENODEV, f"there is no link {err}")
            raise BatchError(new, cause, (), errno=errno.ENODEV) from err
        except OSError as err:
            raise BatchError(new, err, (), errno=err.errno or 0) from err

    def remove(self, batch: Sequence[Resource], context: Context) -> list[tuple[Resource, Exception]]:
        """Remove a batch; see `Applier.remove`. Links go last: what else there is hangs on them, or on others."""
        ns = batch[0].namespace
        links = [item for item in batch if isinstance(item, Link)]
        try:
            with self._wire(context, ns == "sandbox") as wire:
                others = [item for item in batch if not isinstance(item, Link)]
                steps = [(item, message) for item in others if (message := _removal(item, self._tag, wire.of(ns)))]
                acks = wire.of(ns).send([message for _, message in steps])
                answers = [(item, ack) for (item, _), ack in zip(steps, acks, strict=True)]
                answers += [(item, self._unlink(item, wire)) for item in links]
        except FileNotFoundError:
            return []  # the sandbox is gone, and all that was in it
        except OSError as err:
            return [(item, err) for item in batch]
        return [(item, ack.error()) for item, ack in answers if ack.errno and ack.errno not in _GONE]

    def _unlink(self, item: Link, wire: Wire) -> Ack:
        """Delete a link; ENODEV if it is gone, or is a stranger's by now."""
        if item.ns == "sandbox":
            index = wire.of("sandbox").index(item.name)
        else:
            seen = ask_link(wire.host, item.name)
            index = seen.index if seen and seen.group == self._tag.link_group else 0
        if not index:
            return Ack(errno.ENODEV)
        looker = wire.of(item.ns)
        if item.ns == "host":
            return self._unlinking.delete(index, NetlinkSocket(), looker)
        assert wire.sandbox_fd is not None
        with netns.entered(wire.sandbox_fd):
            sender = NetlinkSocket()
        return self._unlinking.delete(index, sender, looker)

    def diff(self, wanted: Mapping[Key, Resource], contexts: Mapping[Key, Context]) -> list[Difference]:
        """Compare with the kernel; see `Applier.diff`."""
        few = sum(1 for item in wanted.values() if isinstance(item, Link)) <= FEW
        host = View(self._host(), few=few)
        found: list[Difference] = []
        by_sandbox: dict[str, list[Key]] = {}
        for key, item in wanted.items():
            sandbox = contexts[key].sandbox
            by_sandbox.setdefault(str(sandbox.path) if sandbox and reaches_inside(item) else "", []).append(key)
        for path, keys in by_sandbox.items():
            with ExitStack() as stack:
                view: View | None = None
                if path:
                    try:
                        wire = stack.enter_context(self._wire(contexts[keys[0]], True))
                        view = View(wire.of("sandbox"))
                    except FileNotFoundError:
                        view = None  # it is gone: all that is wanted in it is missing
                comparison = Comparison(self._tag, host, view, looked_inside=bool(path))
                for key in keys:
                    difference = comparison.of(wanted[key], contexts[key].owner)
                    if difference:
                        found.append(difference)
        return found

    def unwanted(self, wanted: Mapping[Key, Resource]) -> list[Difference]:
        """Return links, addresses, routes and entries of ours that nobody wants; see `Applier.unwanted`."""
        return unwanted(self._tag, View(self._host()), wanted)

    def discard(self, difference: Difference) -> None:
        """Remove one thing that `unwanted` returned."""
        if difference.resource is not None:
            for _, err in self.remove([difference.resource], Context(difference.owner)):
                raise err
            return
        seen = ask_link(self._host(), difference.key[2])
        if seen and seen.group == self._tag.link_group:
            ack = self._unlinking.delete(seen.index, NetlinkSocket(), self._host())
            if ack.errno and ack.errno not in _GONE:
                raise ack.error()


def _names_on_host(item: Resource) -> Iterator[str]:
    if isinstance(item, Link) and item.ns == "host":
        yield item.name
    if isinstance(item, Veth) and item.peer_ns == "host":
        yield item.peer


def _removal(item: Resource, tag: Tag, socket: NetlinkSocket) -> Message | None:
    """Return the message that removes a thing which is no link; None if what it hangs on is gone."""
    link: str | None = getattr(item, "link", None)
    index = socket.index(link) if link else 0
    if link and not index:
        return None
    match item:
        case Address():
            return m.address(item, index, tag.proto, delete=True)
        case Route():
            return m.route(item, index, tag.proto, delete=True)
        case Neighbour():
            return m.neighbour(item, index, tag.proto, delete=True)
        case ForwardingEntry():
            return m.forwarding_entry(item, index, delete=True)
        case Shape():
            return m.shape(item, index, delete=True)
        case Redirect():
            return m.ingress(index, delete=True)
        case BridgePort():
            return m.bridge_port(item, index, reset=True)
    return None
