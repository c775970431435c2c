"""Links, and what hangs on them, compared with what the kernel shows: only fields that a resource sets."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from engine.reconcile import messages as m
from engine.reconcile.applier import Difference, Tag
from engine.reconcile.observation import SeenLink, View, number
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
    link_key,
)
from engine.spec.resource import Key, Resource
from engine.spec.values import unpack

Fields = dict[str, tuple[object, object]]
"""Field -> (wanted, seen)."""
V6_METRIC = 1024
"""What the kernel makes of metric 0 of an IPv6 route (IP6_RT_PRIO_USER)."""
BURST_TOLERANCE = 0.001
"""A burst comes back as ticks, rounded."""


def _unequal(**pairs: tuple[object, object]) -> Fields:
    return {name: pair for name, pair in pairs.items() if pair[0] is not None and pair[0] != pair[1]}


class Comparison:
    """Compares resources with the host's namespace and, if it was looked into, with a sandbox's (None: it is gone)."""

    def __init__(self, tag: Tag, host: View, sandbox: View | None, *, looked_inside: bool) -> None:
        self._tag = tag
        self._host = host
        self._sandbox = sandbox
        self._looked_inside = looked_inside

    def of(self, item: Resource, owner: str) -> Difference | None:
        """Return how a resource differs, or None."""
        state, fields = self._state(item)
        return Difference(item.key, state, fields, owner, item) if state else None

    def _state(self, item: Resource) -> tuple[str, Fields]:
        if isinstance(item, Extern):
            return ("", {}) if self._host.link(item.name) else ("waiting", {})
        view = self._host if item.namespace == "host" else self._sandbox
        if view is None:
            return "missing", {}
        if isinstance(item, Link):
            return self._link(item, view)
        match item:
            case BridgePort():
                return self._bridge_port(item, view)
            case Address():
                return ("", {}) if (view.index(item.link), item.address) in view.addresses else ("missing", {})
            case Route():
                return self._route(item, view)
            case Neighbour():
                seen = view.neighbours.get((view.index(item.link), item.address))
                return _judge(_unequal(mac=(item.mac, seen[0]))) if seen else ("missing", {})
            case ForwardingEntry():
                return self._forwarding_entry(item, view)
            case Shape():
                return self._shape(item, view)
            case Redirect():
                return self._redirect(item, view)
        raise TypeError(f"cannot compare a resource of kind {item.kind}")

    def _link(self, item: Link, view: View) -> tuple[str, Fields]:
        seen = view.link(item.name)
        if seen is None:
            return "missing", {}
        if item.ns == "host" and seen.group != self._tag.link_group:
            return "foreign", {"group": (self._tag.link_group, seen.group)}
        fixed = _unequal(kind=(item.kind, seen.kind))
        if not fixed:
            fixed = self._particulars(item, seen)
        if fixed:
            return "replace", fixed
        master = view.index(item.master) if item.master else None
        fields = _unequal(mac=(item.mac, seen.mac), mtu=(item.mtu, seen.mtu), up=(item.up, seen.up))
        if item.ns == "host":
            fields |= _unequal(heeds_routers=(False, seen.heeds_routers))
        if master is not None and (master != seen.master or not master):
            fields["master"] = (item.master, view.names.get(seen.master, ""))
        if isinstance(item, Vxlan) and item.local:
            local = seen.data.get(m.VXLAN_LOCAL6 if ":" in item.local else m.VXLAN_LOCAL)
            fields |= _unequal(local=(item.local, unpack(local) if local else None))
        if isinstance(item, Veth):
            peer = self._peer(item, seen)
            if "peer" in peer:
                return "replace", peer
            fields |= peer
        return _judge(fields)

    def _particulars(self, item: Link, seen: SeenLink) -> Fields:
        """Compare what is fixed when a link is made."""
        fields: Fields = {}
        if isinstance(item, Macvlan | Ipvlan | Vlan):
            parent = self._host.socket.index(item.parent)
            if parent and parent != seen.parent:
                fields["parent"] = (item.parent, self._host.socket.name(seen.parent))
        first, second = number(seen.data.get(1)), number(seen.data.get(2))
        match item:
            case Macvlan():
                return fields | _unequal(mode=(item.mode, _name(m.MACVLAN_MODES, first)))
            case Ipvlan():
                mode, isolation = _name(m.IPVLAN_MODES, first), _name(m.IPVLAN_FLAGS, second)
                return fields | _unequal(mode=(item.mode, mode), isolation=(item.isolation, isolation))
            case Vlan():
                return fields | _unequal(vid=(item.vid, first))
            case Vxlan():
                port = struct.unpack(">H", seen.data.get(m.VXLAN_PORT, bytes(2)))[0]
                return fields | _unequal(vni=(item.vni, first), port=(item.port, port))
        return fields

    def _peer(self, item: Veth, seen: SeenLink) -> Fields:
        if item.peer_ns == "sandbox" and not self._looked_inside:
            return {}
        view = self._sandbox if item.peer_ns == "sandbox" else self._host
        peer = view.link(item.peer) if view else None
        if peer is None or peer.parent != seen.index:
            return {"peer": (item.peer, None)}
        return _unequal(
            peer_heeds_routers=(False if item.peer_ns == "host" else None, peer.heeds_routers),
            peer_mac=(item.peer_mac, peer.mac),
            peer_mtu=(item.peer_mtu, peer.mtu),
            peer_up=(item.peer_up, peer.up),
        )

    def _bridge_port(self, item: BridgePort, view: View) -> tuple[str, Fields]:
        seen = view.link(item.link)
        if seen is None or not seen.port:
            return "missing", {}
        pairs: dict[str, tuple[object, object]] = {
            name: (getattr(item, name), bool(number(seen.port.get(bit)))) for name, bit in m.BRPORT.items()
        }
        return _judge(_unequal(**pairs))

    def _route(self, item: Route, view: View) -> tuple[str, Fields]:
        metric = item.metric or (V6_METRIC if ":" in item.destination else 0)
        candidates = view.routes.get((item.destination, metric), [])
        if not candidates:
            return "missing", {}
        index = view.index(item.link) if item.link else None
        best: Fields = {}
        for seen in candidates:
            fields = _unequal(
                via=(item.via, seen.via), source=(item.source, seen.source),
                link=(item.link if index != seen.index else None, "" if index is None else view.names.get(seen.index)),
            )  # fmt: skip
            if item.via is None and seen.via is not None:
                fields["via"] = (None, seen.via)
            if not fields:
                return "", {}
            best = best or fields
        if item.namespace == "host" and all(seen.proto != self._tag.proto for seen in candidates):
            return "foreign", best
        return ("replace" if "source" in best else "differs"), best

    def _forwarding_entry(self, item: ForwardingEntry, view: View) -> tuple[str, Fields]:
        ends = view.forwarding.get((view.index(item.link), item.mac, item.table))
        if not ends or (item.key[-1] == item.dst and item.dst not in ends):
            return "missing", {}
        if item.dst and item.dst not in ends:
            return "differs", {"dst": (item.dst, ", ".join(sorted(str(end) for end in ends)))}
        return "", {}

    def _shape(self, item: Shape, view: View) -> tuple[str, Fields]:
        seen = view.buckets.get(view.index(item.link))
        if seen is None:
            return "missing", {}
        rate, ticks = seen
        fields = _unequal(rate=(item.rate // 8 * 8, rate * 8))
        wanted = m.burst_ticks(item)
        if abs(wanted - ticks) > max(2, wanted * BURST_TOLERANCE):
            fields["burst"] = (item.burst, f"{ticks} ticks instead of {wanted}")
        return _judge(fields)

    def _redirect(self, item: Redirect, view: View) -> tuple[str, Fields]:
        seen = view.redirection(view.index(item.link))
        if seen is None:
            return "missing", {}
        to = view.index(item.to)
        return ("", {}) if seen == to and to else ("replace", {"to": (item.to, view.names.get(seen, ""))})


def _judge(fields: Fields) -> tuple[str, Fields]:
    return ("differs" if fields else ""), fields


def _name(table: Mapping[str, int], value: int) -> str:
    return next((name for name, known in table.items() if known == value), str(value))


def unwanted(tag: Tag, view: View, wanted: Mapping[Key, Resource]) -> list[Difference]:
    """Return what carries our tag in the host's namespace and is not among the wanted keys.

    The proto of addresses, routes and neighbours is common to all engines on a host: only what hangs on a link of our
    group is ours.
    """
    prefix = f"engine:{tag.instance}:"
    ours = {
        link.index: link
        for link in view.links.values()
        if link.group == tag.link_group and (not link.alias or link.alias.startswith(prefix))
    }
    found: list[Difference] = []
    for index, link in list(ours.items()):
        key = link_key("host", link.name)
        if key not in wanted:
            found.append(Difference(key, "unwanted", owner=link.alias.removeprefix(prefix)))
            del ours[index]  # what hangs on it goes with it
    for item in _tagged(tag, view, ours):
        if item.key not in wanted:
            found.append(Difference(item.key, "unwanted", resource=item))
    return found


def _tagged(tag: Tag, view: View, ours: Mapping[int, SeenLink]) -> list[Resource]:
    found: list[Resource] = []
    for (index, address), proto in view.addresses.items():
        if index in ours and proto == tag.proto:
            found.append(Address(ns="host", link=ours[index].name, address=address))
    for routes in view.routes.values():
        for route in routes:
            if route.index in ours and route.proto == tag.proto:
                metric = 0 if ":" in route.destination and route.metric == V6_METRIC else route.metric
                found.append(
                    Route(ns="host", destination=route.destination, via=route.via, link=ours[route.index].name,
                          metric=metric)
                )  # fmt: skip
    for (index, address), (mac, proto) in view.neighbours.items():
        if index in ours and proto == tag.proto:
            found.append(Neighbour(link=ours[index].name, address=address, mac=mac))
    for (index, mac, table), ends in view.forwarding.items():
        if index in ours and ours[index].kind == "vxlan" and table == "self":
            found.extend(ForwardingEntry(link=ours[index].name, mac=mac, dst=end) for end in ends if end)
    return found
