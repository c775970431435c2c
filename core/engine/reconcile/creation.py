"""One batch of links, and of what hangs on them, on its way into the kernel.

Traps that it heeds:
    the kernel goes on after an error   everything is made with EXCL, host links get an index that is chosen here, and
                                        later messages name that index, never a name that might be a stranger's
    an alias is ignored at creation     it comes in a second message of the same send; the group is honoured at once
    links with a parent                 are made from the host, in the sandbox, under a passing name: kernels before
                                        6.15 look for a link of the wanted name on the host, and find the host's eth0
    a link that is up takes the first   one on the host is brought up by a second send, after it was told to ignore
    router advertisement                them
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from engine.reconcile import advertisements
from engine.reconcile import messages as m
from engine.reconcile.applier import BatchError, Tag
from engine.reconcile.observation import ask_link
from engine.reconcile.rtnetlink import NLM_F_CREATE, NLM_F_REPLACE, Message, NetlinkSocket
from engine.spec.errors import EngineError, Unsupported
from engine.spec.links import (
    Address,
    BridgePort,
    Extern,
    ForwardingEntry,
    Ipvlan,
    Link,
    Macvlan,
    Neighbour,
    Redirect,
    Route,
    Shape,
    Veth,
    Vlan,
    Vxlan,
)
from engine.spec.resource import Resource

_REPLACE = NLM_F_CREATE | NLM_F_REPLACE


class LinkAbsent(Exception):
    """A link that a resource names is not there."""


@dataclass
class Wire:
    """The sockets of one batch."""

    host: NetlinkSocket
    sandbox: NetlinkSocket | None = None
    sandbox_fd: int | None = None

    def of(self, ns: str) -> NetlinkSocket:
        """Return the socket of a namespace."""
        if ns == "host":
            return self.host
        if self.sandbox is None:
            raise FileNotFoundError(errno.ENOENT, "there is no sandbox")
        return self.sandbox

    def index(self, ns: str, name: str | None) -> int:
        """Return the index of a link; 0 for no name."""
        if name is None:
            return 0
        found = self.of(ns).index(name)
        if not found:
            raise LinkAbsent(name)
        return found


def alias_of(tag: Tag, owner: str) -> str:
    """Return the alias by which a host link says whose it is."""
    return f"engine:{tag.instance}:{owner}"


def reaches_inside(item: Resource) -> bool:
    """Tell whether a resource, or its other end, is in the sandbox."""
    return item.namespace == "sandbox" or (isinstance(item, Veth) and item.peer_ns == "sandbox")


def _born_outside(item: Resource) -> bool:
    """A link in a sandbox that only the host can make: its parent, or its underlay, is there."""
    return isinstance(item, Macvlan | Ipvlan | Vlan | Vxlan) and item.ns == "sandbox"


@dataclass(frozen=True)
class _Step:
    resource: Resource
    message: Message
    makes: bool
    """The first message of a resource makes it; the others complete it."""
    birth: bool = False
    """Whether it is sent before the links of the batch are brought up."""


class Creation:
    """One batch on its way into the kernel: first what is sent to the host, then what is sent to the sandbox."""

    def __init__(self, tag: Tag, choose_index: Callable[[], int], wire: Wire, owner: str) -> None:
        self._tag = tag
        self._choose_index = choose_index
        self._wire = wire
        self._owner = owner
        self._chosen: dict[tuple[str, str], int] = {}
        self._passing: dict[str, Link] = {}
        self._created: list[Resource] = []

    def run(self, batch: Sequence[Resource]) -> list[Resource]:
        """Send everything and return what is new; raises BatchError."""
        try:
            steps = [step for item in batch for step in self._encoded(self._outside, item)]
            self._send("host", [step for step in steps if step.birth])
            for ns, name in self._chosen:
                if ns == "host":
                    advertisements.ignore(name)
            self._send("host", [step for step in steps if not step.birth])
            self._send("sandbox", [step for item in batch for step in self._encoded(self._within, item)])
        except BaseException:
            self._drop_passing()
            raise
        return self._created

    def _encoded(self, encode: Callable[[Resource], Iterator[_Step]], item: Resource) -> list[_Step]:
        try:
            return list(encode(item))
        except LinkAbsent as err:
            cause = OSError(errno.ENODEV, f"there is no link {err}")
            raise BatchError(item, cause, self._created, errno=errno.ENODEV) from err
        except EngineError as err:
            raise BatchError(item, err, self._created) from err

    def _send(self, ns: str, steps: list[_Step]) -> None:
        if not steps:
            return
        failed: tuple[_Step, OSError] | None = None
        acks = self._wire.of(ns).send([step.message for step in steps])
        for step, ack in zip(steps, acks, strict=True):
            if ack.errno:
                failed = failed or (step, ack.error())
            elif step.makes:
                self._created.append(step.resource)
                self._passing = {name: link for name, link in self._passing.items() if link is not step.resource}
        if failed:
            step, err = failed
            exists = err.errno == errno.EEXIST
            raise BatchError(step.resource, err, self._created, exists=exists, errno=err.errno or 0)

    def _drop_passing(self) -> None:
        """Delete links that still have their passing name."""
        if not self._passing or self._wire.sandbox is None:
            return
        indexes = [index for name in self._passing if (index := self._wire.sandbox.index(name))]
        self._wire.sandbox.send([m.delete_link(index) for index in indexes])

    def _index(self, ns: str, name: str | None) -> int:
        return self._chosen.get((ns, name or "")) or self._wire.index(ns, name)

    def _outside(self, item: Resource) -> Iterator[_Step]:
        if isinstance(item, Extern):
            self._index("host", item.name)
        elif isinstance(item, Link) and item.ns == "host":
            yield from self._host_link(item)
        elif isinstance(item, Link) and _born_outside(item):
            name = f"e{secrets.token_hex(6)}"
            self._passing[name] = item
            parent = self._index("host", getattr(item, "parent", None))
            message = m.new_link(item, index=0, name=name, parent=parent, ns_fd=self._wire.sandbox_fd)
            yield _Step(item, message, makes=False)
        elif item.namespace == "host":
            yield from self._hanging(item)

    def _host_link(self, link: Link) -> Iterator[_Step]:
        index = self._chosen[("host", link.name)] = self._choose_index()
        group, alias = self._tag.link_group, alias_of(self._tag, self._owner)
        data = b""
        if isinstance(link, Veth):
            data = self._peer(link, group)
        parent = self._index("host", getattr(link, "parent", None))
        master = self._index("host", link.master)
        message = m.new_link(link, index=index, parent=parent, master=master, group=group, data=data)
        yield _Step(link, message, makes=True, birth=True)
        mtu = link.mtu if link.kind == "bridge" else None
        yield _Step(link, m.set_link(index, alias=alias, mtu=mtu), makes=False, birth=True)
        if link.up:
            yield _Step(link, m.set_link(index, up=True), makes=False)
        if isinstance(link, Veth) and link.peer_ns == "host":
            peer = self._chosen[("host", link.peer)]
            yield _Step(link, m.set_link(peer, alias=alias), makes=False, birth=True)
            if link.peer_up:
                yield _Step(link, m.set_link(peer, up=True), makes=False)

    def _peer(self, link: Veth, group: int) -> bytes:
        if link.peer_ns == "sandbox":
            if self._wire.sandbox_fd is None:
                raise Unsupported(f"{link.name}: its other end is in a sandbox, and there is none")
            return m.veth_peer(link, index=0, group=None, ns_fd=self._wire.sandbox_fd)
        index = self._chosen[("host", link.peer)] = self._choose_index()
        return m.veth_peer(link, index=index, group=group, ns_fd=None)

    def _within(self, item: Resource) -> Iterator[_Step]:
        if isinstance(item, Veth) and item.ns == "host" and item.peer_ns == "sandbox":
            if item.peer_up:
                yield _Step(item, m.set_link(self._index("sandbox", item.peer), up=True), makes=False)
        elif item.namespace != "sandbox":
            return
        elif isinstance(item, Link) and _born_outside(item):
            passing = next(name for name, link in self._passing.items() if link is item)
            index = self._chosen[("sandbox", item.name)] = self._index("sandbox", passing)
            master = self._index("sandbox", item.master) or None
            yield _Step(item, m.set_link(index, name=item.name), makes=True)
            # One message of its own: a link that has its name, and cannot be brought up, is there and must be undone.
            yield _Step(item, m.set_link(index, up=item.up or None, master=master), makes=False)
        elif isinstance(item, Link):
            yield from self._sandbox_link(item)
        else:
            yield from self._hanging(item)

    def _sandbox_link(self, link: Link) -> Iterator[_Step]:
        index = self._chosen[("sandbox", link.name)] = self._choose_index()
        data = b""
        if isinstance(link, Veth):
            if link.peer_ns == "host":
                raise Unsupported(f"{link.name}: a pair with one end on the host is described from the host's end")
            peer = self._chosen[("sandbox", link.peer)] = self._choose_index()
            data = m.veth_peer(link, index=peer, group=None, ns_fd=None)
        master = self._index("sandbox", link.master)
        yield _Step(link, m.new_link(link, index=index, up=link.up or None, master=master, data=data), makes=True)
        if link.kind == "bridge" and link.mtu:
            yield _Step(link, m.set_link(index, mtu=link.mtu), makes=False)
        if isinstance(link, Veth) and link.peer_up:
            yield _Step(link, m.set_link(peer, up=True), makes=False)

    def _hanging(self, item: Resource) -> Iterator[_Step]:
        index = self._index(item.namespace, getattr(item, "link", None))
        if isinstance(item, Redirect):
            yield _Step(item, m.ingress(index), makes=True)
            yield _Step(item, m.redirection(index, self._index(item.ns, item.to)), makes=False)
        else:
            yield _Step(item, _hanging_message(item, index, self._tag.proto), makes=True)


def _hanging_message(item: Resource, index: int, proto: int, *, replace: bool = False) -> Message:
    flags = _REPLACE if replace else m.NEW
    match item:
        case Address():
            return m.address(item, index, proto)
        case Route():
            return m.route(item, index, proto, flags=flags)
        case Neighbour():  # in the place of what the kernel has learnt, or asks for in vain, by itself
            return m.neighbour(item, index, proto, flags=_REPLACE)
        case ForwardingEntry():
            return m.forwarding_entry(item, index, flags=flags)
        case Shape():
            return m.shape(item, index, flags=flags)
        case BridgePort():
            return m.bridge_port(item, index)
    raise Unsupported(f"rtnetlink cannot make a resource of kind {item.kind}")


def changes(tag: Tag, wire: Wire, owner: str, old: Resource, new: Resource) -> Iterator[tuple[str, Message]]:
    """Yield the messages that give an existing thing the values that `new` sets."""
    if not isinstance(new, Link):
        index = wire.index(new.namespace, getattr(new, "link", None))
        yield new.namespace, _hanging_message(new, index, tag.proto, replace=True)
        return
    before = cast(Link, old)
    index = wire.index(new.ns, new.name)
    master = wire.index(new.ns, new.master) if new.master else (0 if before.master else None)
    alias = alias_of(tag, owner) if new.ns == "host" else ""
    mac = _to_change(wire, new.ns, new.name, new.mac)
    yield new.ns, m.set_link(index, alias=alias, up=new.up, mac=mac, mtu=new.mtu, master=master)
    if isinstance(new, Veth) and (wire.sandbox is not None or new.peer_ns == "host"):
        peer = wire.index(new.peer_ns, new.peer)
        mac = _to_change(wire, new.peer_ns, new.peer, new.peer_mac)
        yield new.peer_ns, m.set_link(peer, up=new.peer_up, mac=mac, mtu=new.peer_mtu)
    if isinstance(new, Vxlan) and new.local:
        yield new.ns, m.set_link(index, info=("vxlan", m.vxlan_local(new)))


def _to_change(wire: Wire, ns: str, name: str, mac: str | None) -> str | None:
    """Return the MAC address that a link is to get, None if it has it: set again, it costs the link its neighbours.

    (`neigh_changeaddr` in the kernel's net/core/neighbour.c: permanent ones go as well.)
    """
    if mac is None:
        return None
    seen = ask_link(wire.of(ns), name)
    return None if seen is not None and seen.mac == mac.lower() else mac
