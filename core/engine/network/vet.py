"""Checks of what drivers return, before anything is done with it.

It guards against mistakes: a driver that names a link of the host's, or a setting that is not a network's. A driver's
code runs in the engine, so nothing here protects against an evil one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_network

from engine.spec import firewall, links
from engine.spec.errors import DriverFault
from engine.spec.network import Endpoint, Network, Peer
from engine.spec.resource import Plan, Resource, kind_of
from engine.spec.values import contains

MOST_RESOURCES = 256
"""A plan of more is a driver's mistake."""
HOST_SYSCTLS = frozenset({"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.forwarding"})
"""Parameters of the whole host that a driver may ask for: routing between links."""
_CONTRACT = (links.__name__, firewall.__name__)
"""Modules whose kinds are a driver's to return; others are the core's own, or of volumes."""
SHORTEST_HOST_ROUTE = 8
"""A driver's route on the host covers no more than this prefix length allows."""


class Refused(Exception):
    """A resource that a driver may not return; the text says why."""


@dataclass(frozen=True)
class Bounds:
    """What a plan may refer to on the host."""

    names: frozenset[str]
    """Host links that the plan may make."""
    prefixes: tuple[str, ...]
    """Beginnings of further names of links that the plan may make."""
    network: frozenset[str]
    """Host links of the network that may be referred to."""
    parents: frozenset[str]
    """Host links that the operator selected."""
    subnets: tuple[str, ...]
    sandbox: bool
    underlay: str | None = None
    """Host link that leads to the other hosts of the cluster."""
    kin: str = ""
    """Beginning of names of links that the network's own plan makes, for the plan of a peer, which makes none."""

    def may_make(self, name: str) -> bool:
        """Return whether a host link of that name is the plan's to make."""
        return name in self.names or any(name.startswith(p) and len(name) <= len(p) + 3 for p in self.prefixes)

    def may_use(self, name: str | None) -> bool:
        """Return whether a host link of that name may carry what the plan says."""
        return name is not None and (self.may_make(name) or name in self.network or self._is_kin(name))

    def _is_kin(self, name: str) -> bool:
        return bool(self.kin) and name.startswith(self.kin) and len(name) <= len(self.kin) + 3


def vet(
    plan: object, network: Network, endpoint: Endpoint | None = None, *, peer: Peer | None = None, driver: str
) -> Plan:
    """Return a driver's plan, read anew from its JSON. Raises DriverFault that names the first wrong resource."""
    if not isinstance(plan, Plan):
        raise DriverFault("the driver returned no plan", why=f"{type(plan).__name__}", driver=driver)
    if len(plan) > MOST_RESOURCES:
        raise DriverFault(f"a plan of {len(plan)} resources", why=f"{MOST_RESOURCES} is the limit", driver=driver)
    bounds = _bounds(network, endpoint) if peer is None else _bounds_of_peer(network)
    for resource in plan.resources:
        try:
            _check(resource, bounds)
        except Refused as err:
            raise DriverFault("the driver's plan is refused", why=f"{_show(resource)}: {err}", driver=driver) from None
    try:
        again = Plan.from_json(plan.to_json())
    except ValueError as err:
        raise DriverFault("the driver's plan is not valid", why=str(err), driver=driver) from err
    if again != plan:
        raise DriverFault("the driver's plan changes when it is written to JSON", driver=driver)
    return again


def _show(resource: object) -> str:
    """Return what a resource is called; it may be so wrong that it has no key."""
    try:
        return "/".join(resource.key) if isinstance(resource, Resource) else repr(resource)
    except Exception:  # noqa: BLE001 - a resource of a driver's own making
        return type(resource).__name__


def _bounds(network: Network, endpoint: Endpoint | None) -> Bounds:
    own = network.ifname
    parents = frozenset(fact.name for fact in network.links.values())
    return Bounds(
        names=frozenset({own} - parents if endpoint is None else {endpoint.host_ifname}),
        prefixes=(own[:12],) if endpoint is None and own not in parents else (),
        network=frozenset({own}),
        parents=parents,
        subnets=tuple(s.prefix for s in network.subnets),
        sandbox=endpoint is not None,
        underlay=network.underlay.name if network.underlay else None,
    )


def _bounds_of_peer(network: Network) -> Bounds:
    """A peer's plan is about what its network's plan has made, and about ways to the peer."""
    own = _bounds(network, None)
    return replace(own, names=frozenset(), prefixes=(), kin=network.ifname[:12])


def _check(resource: Resource, bounds: Bounds) -> None:
    kind = kind_of(resource.kind)
    if kind is None or type(resource) is not kind or kind.__module__ not in _CONTRACT:
        raise Refused(f"{type(resource).__name__} is no kind of resource that a network is made of")
    checks = list(_checks_of(kind))
    if not checks:
        raise Refused("only the engine makes these")
    if resource.namespace == "sandbox" and not bounds.sandbox:
        raise Refused("a network's own plan has no sandbox")
    for check in checks:
        check(resource, bounds)


def _checks_of(kind: type[Resource]) -> Iterable[Callable[[Resource, Bounds], None]]:
    for base, check in _CHECKS:
        if issubclass(kind, base):
            yield check


def _link(resource: Resource, bounds: Bounds) -> None:
    assert isinstance(resource, links.Link)
    if resource.ns == "host" and not bounds.may_make(resource.name):
        raise Refused("names of host links are given by the engine (network.ifname, endpoint.host_ifname)")
    if resource.ns == "sandbox" and resource.name == "lo":
        raise Refused("loopback is the engine's")
    if resource.ns == "host" and resource.master and not bounds.may_use(resource.master):
        raise Refused(f"master {resource.master} is no link of this network")
    parent = getattr(resource, "parent", None)
    if parent is not None and parent not in bounds.parents and not bounds.may_use(parent):
        raise Refused(f"parent {parent} is neither selected by an option of type ParentLink nor of this network")


def _veth(resource: Resource, bounds: Bounds) -> None:
    assert isinstance(resource, links.Veth)
    if resource.peer_ns == "host" and not bounds.may_make(resource.peer):
        raise Refused("names of host links are given by the engine")
    if resource.peer_ns == "sandbox" and not bounds.sandbox:
        raise Refused("a network's own plan has no sandbox")


def _extern(resource: Resource, bounds: Bounds) -> None:
    assert isinstance(resource, links.Extern)
    if resource.name not in bounds.parents:
        raise Refused("only links that an option of type ParentLink selects may be relied upon")


def _on_link(resource: Resource, bounds: Bounds) -> None:
    link = getattr(resource, "link", None)
    if bounds.kin and isinstance(resource, links.Route) and link == bounds.underlay:
        return  # its destination is checked
    if resource.namespace == "host" and not bounds.may_use(link):
        raise Refused(f"{link} is no link of this network")


def _redirect(resource: Resource, bounds: Bounds) -> None:
    assert isinstance(resource, links.Redirect)
    if resource.ns == "host" and not bounds.may_use(resource.to):
        raise Refused(f"{resource.to} is no link of this network")


def _route(resource: Resource, bounds: Bounds) -> None:
    assert isinstance(resource, links.Route)
    if resource.ns == "host" and int(resource.destination.partition("/")[2]) < SHORTEST_HOST_ROUTE:
        raise Refused(f"a route on the host to more than a /{SHORTEST_HOST_ROUTE}")
    length = int(resource.destination.partition("/")[2])
    inside = (contains(p, resource.destination) and int(p.partition("/")[2]) <= length for p in bounds.subnets)
    if bounds.kin and not any(inside):
        raise Refused("a route to a peer leads to an address of the network")


def _sysctl(resource: Resource, bounds: Bounds) -> None:
    assert isinstance(resource, links.Sysctl)
    if resource.ns == "host" and resource.link is None and resource.name not in HOST_SYSCTLS:
        raise Refused("not a parameter of the host that a driver may set")
    if (
        resource.ns == "host"
        and resource.name.rpartition(".")[2] in ("accept_ra", "autoconf")
        and resource.value != "0"
    ):
        raise Refused("links on the host ignore router advertisements: everybody on their wire can send one")
    if resource.link is not None:
        _on_link(resource, bounds)


def _masquerade(resource: Resource, bounds: Bounds) -> None:
    assert isinstance(resource, firewall.Masquerade)
    subnet = ip_network(resource.subnet)
    for prefix in bounds.subnets:
        other = ip_network(prefix)
        if other.version == subnet.version and other.prefixlen <= subnet.prefixlen and other.overlaps(subnet):
            return
    raise Refused("not a subnet of this network")


def _sealed_port(resource: Resource, bounds: Bounds) -> None:
    assert isinstance(resource, firewall.SealedPort)
    if resource.link != bounds.underlay:
        raise Refused("only by the underlay's link (network.underlay) may traffic of a port be kept from others")


_CHECKS: tuple[tuple[type[Resource], Callable[[Resource, Bounds], None]], ...] = (
    (links.Link, _link),
    (links.Veth, _veth),
    (links.Extern, _extern),
    *((kind, _on_link) for kind in (links.Address, links.Route, links.Neighbour, links.ForwardingEntry)),
    *((kind, _on_link) for kind in (links.BridgePort, links.Shape, firewall.Segment, links.Redirect)),
    (links.Redirect, _redirect),
    (links.Route, _route),
    (links.Sysctl, _sysctl),
    (firewall.Masquerade, _masquerade),
    (firewall.SealedPort, _sealed_port),
)
"""What is checked for each kind; a kind that is not here (a published port) is no driver's to return."""
