"""The contract of network drivers.

Words (as in the Container Network Model): a **network** is a named set of endpoints that reach each other; an
**endpoint** is one container's attachment to it; a **sandbox** is the container's network namespace.

Calls, in order (all are pure: same arguments, equal answer; no file, socket, clock or random number):
    network create     `settle_network(options)`                 once; the answer is stored
    first endpoint     `network_plan(network)`                   what must exist while the network is used on this host
    attach             `endpoint_plan(network, endpoint)`        what must exist while the endpoint is attached
    a peer appears     `peer_plan(network, peer)`                for networks that span hosts, once a remote endpoint
    detach, last one   nothing: the core removes what the stored plans say
Whenever something that was handed in changes (a lease, the parent's MTU), the plan is asked for again and the core
applies the difference.

The core gives every name, address, MAC and identifier *before* the call; a driver invents none. It builds on top of
each plan, for every driver alike: IPAM, published ports, firewall, names, announcements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Generic, Literal

from pydantic import Field, SerializeAsAny
from typing_extensions import TypeVar

from engine.spec.driver import Driver, SpecVersion, hookspec
from engine.spec.options import NetworkOptions, Options
from engine.spec.resource import Plan
from engine.spec.values import Frozen, IfName, InterfaceAddress, IpAddress, Mac, Prefix, contains, family_of

NetworkOptionsT = TypeVar("NetworkOptionsT", bound=NetworkOptions, default=NetworkOptions)
"""The model of a driver's options."""


class LocalGateway(Frozen):
    """The way out of a network that leads nowhere by itself: a network of this host alone, which the core adds."""

    driver: str
    """Its driver, which must be able to publish ports."""
    options: Mapping[str, str] = Field(default_factory=dict)
    """Its options."""


class NetworkCaps(Frozen):
    """What a network driver can do. Declared, never probed by failing: the core refuses early what is not declared."""

    sandbox: Literal["private", "host"] = "private"
    """"private": each container has a network namespace of its own. "host": it uses the host's, without endpoint."""
    addresses: bool = True
    """The core allocates addresses (IPAM). Without, endpoints have none, and subnets are refused."""
    ports: bool = False
    """Traffic for the endpoint passes the host's firewall, so that the core can publish ports there."""
    shares_wire: bool = False
    """Endpoints are on a wire with machines that are not ours: addresses are probed before use and announced after."""
    host_gateway: bool = False
    """The host is the network's gateway: the core takes the first address of each subnet for it. Otherwise a gateway is
    only what the operator gives (and the first address stays free for the router that is out there)."""
    scope: Literal["local", "global"] = "local"
    """"global": the network spans the hosts of a cluster. The core keeps it, its addresses and its endpoints once for
    all hosts, gives it a VNI, and hands in peers. A daemon that is in no cluster refuses the driver."""
    hosts: bool = False
    """`network_plan` depends on `network.hosts`: it is asked for again when a host comes, goes or changes."""
    own_addresses: bool = False
    """Addresses mean nothing outside of the network, so that subnets of two such networks may overlap on request."""
    gateway: LocalGateway | None = None
    """The network itself leads nowhere, and its subnets' gateways are only set aside: containers that no other network
    of theirs leads out, and whose network is not internal, are put on this one, too. Ports are published there."""
    alone: bool = False
    """A container on such a network can be on no other one."""
    max_networks: int | None = None
    """How many networks of this driver may exist: 1 for `host` and `none`."""


class Subnet(Frozen):
    """One address pool of a network."""

    prefix: Prefix
    """The addresses of the pool."""
    gateway: IpAddress | None = None
    """Address of the router, which is the host where the driver declares `host_gateway`."""

    @property
    def gateway_address(self) -> str | None:
        """The gateway with the subnet's length, as an address of the link that is the gateway."""
        return f"{self.gateway}/{self.prefix.partition('/')[2]}" if self.gateway else None


class LinkFact(Frozen):
    """What the core found out about a host link that an option selected."""

    name: IfName
    """What the link is called on the host."""
    mtu: int | None = None
    """None while the link is absent."""
    mac: Mac | None = None
    """None while the link is absent."""
    base: IfName | None = None
    """The link is a VLAN sub-interface of this one, and made and removed by the core, which adds it to the network's
    plan in the place of `Extern`."""
    vid: int | None = Field(default=None, ge=1, le=4094)
    """VLAN identifier (802.1Q), where there is a `base`."""
    addresses: tuple[InterfaceAddress, ...] = ()
    """The host's own addresses on the link (global ones): a child of the link that the host makes for itself may speak
    with them."""

    def address_for(self, address: str) -> str | None:
        """Return the host's own address on the link that is nearest to another one: of one subnet, or of its family.

        Without prefix length; None when there is none of the family.
        """
        own = [a for a in self.addresses if family_of(a) == family_of(address)]
        near = [a for a in own if contains(a, address)]
        return (near or own)[0].partition("/")[0] if own else None


class Host(Frozen):
    """Another host of the cluster (since 1.1)."""

    name: str
    """Unique in the cluster."""
    address: IpAddress
    """Where it is reached on the underlay."""
    keys: Mapping[str, str] = Field(default_factory=dict)
    """What it publishes by name for the other hosts, such as a public key."""


class Network(Frozen, Generic[NetworkOptionsT]):
    """A network as its driver sees it."""

    id: str = Field(pattern=r"^[0-9a-f]{12,64}$")
    """Unique on this engine, hexadecimal."""
    name: str
    """What the operator calls it."""
    driver: str
    """Name of the driver."""
    options: SerializeAsAny[NetworkOptionsT]
    """The settled options."""
    labels: Mapping[str, str] = Field(default_factory=dict)
    """What the operator attached to the network."""
    subnets: tuple[Subnet, ...] = ()
    """At most one IPv4 and one IPv6 pool, unless the operator asks for more; none without IPAM."""
    internal: bool = False
    """No traffic to or from the outside."""
    mac: Mac
    """For the network's own link on this host, if it has one: pinned, so that neighbours' caches stay right."""
    ifname: IfName
    """For the network's own link on this host: unique on it, stable over the network's life."""
    links: Mapping[str, LinkFact] = Field(default_factory=dict)
    """By option name: the host links that options of type `ParentLink` select."""
    vni: int | None = Field(default=None, ge=1, lt=1 << 24)
    """Virtual network identifier (RFC 7348), unique in the cluster; None for a network of one host. Since 1.1."""
    host: IpAddress | None = None
    """This host's own address on the underlay, by which the other hosts reach it. Since 1.1, like the two below."""
    underlay: LinkFact | None = None
    """The host link that has that address: it may be the parent of what the plan makes. None while it is absent."""
    hosts: tuple[Host, ...] = ()
    """The other hosts of the cluster, by name; only where the driver declares `hosts`."""

    def link(self, option: str) -> LinkFact:
        """Return the host link that the option of that name selects."""
        return self.links[option]

    def host_name(self, purpose: str) -> str:
        """Return a host link name of this network for a further purpose (at most 3 characters), such as "vx"."""
        if not 0 < len(purpose) <= 3:
            raise ValueError("a purpose has 1 to 3 characters")
        return f"{self.ifname[:12]}{purpose}"


class Endpoint(Frozen):
    """A container's attachment to a network, as the driver sees it.

    `addresses` may be empty: the network has no IPAM, or a lease is not there yet. A plan must be possible even so.
    """

    id: str
    """Unique on this engine, hexadecimal."""
    generation: int = 0
    """Counts attachments: a host link's name is not free at once after its namespace went."""
    ifname: IfName
    """Name of the link inside the sandbox."""
    host_ifname: IfName
    """Name of the link's host end, if it has one: unique for endpoint and generation."""
    mac: Mac
    """For the link inside the sandbox."""
    addresses: tuple[InterfaceAddress, ...] = ()
    """For the link inside the sandbox; see above."""
    gateways: tuple[IpAddress, ...] = ()
    """Next hops of the default routes, at most one a family. Empty if another endpoint of the container has them."""
    container_id: str = ""
    """Empty when the endpoint is made before its container is known."""
    container_name: str = ""
    """What the operator calls the container."""
    hostname: str = ""
    """What the container calls itself."""
    labels: Mapping[str, str] = Field(default_factory=dict)
    """The container's labels."""
    aliases: tuple[str, ...] = ()
    """Further names of the container on this network."""
    options: Mapping[str, str] = Field(default_factory=dict)
    """Options of this endpoint alone (`--driver-opt` of `network connect`)."""


class Peer(Frozen):
    """An endpoint of the same network on another host.

    Its plan is made of things on this host: entries and routes on the network's own links, and routes to its addresses.
    """

    id: str
    """The endpoint's id on the other host."""
    host: IpAddress
    """Address of the other host on the underlay."""
    mac: Mac
    """Of the link inside the container."""
    addresses: tuple[InterfaceAddress, ...] = ()
    """Of the link inside the container."""
    node: str = ""
    """Name of the other host. Since 1.1."""


class NetworkDriver(Driver, Generic[NetworkOptionsT]):
    """Base of network drivers. Only `endpoint_plan` must be written."""

    GROUP: ClassVar[str] = "engine.network"
    SPEC: ClassVar[SpecVersion] = SpecVersion(1, 1)
    OPERATIONS: ClassVar[tuple[str, ...]] = ("settle_network", "network_plan", "endpoint_plan", "peer_plan")
    REQUIRED: ClassVar[tuple[str, ...]] = ("endpoint_plan",)
    needs: ClassVar[SpecVersion] = SpecVersion(1, 0)

    caps: ClassVar[NetworkCaps] = NetworkCaps()
    """What the driver can do."""
    options_model: ClassVar[type[Options]] = NetworkOptions

    @hookspec(firstresult=True)
    def settle_network(self, options: NetworkOptionsT, subnets: tuple[Subnet, ...]) -> NetworkOptionsT | None:
        """Check options that depend on each other, and fill in choices that must not change later.

        Called once, when a network is created; the answer is stored. Raise InvalidParameter to refuse.
        """
        return None

    @hookspec(firstresult=True)
    def network_plan(self, network: Network[NetworkOptionsT]) -> Plan | None:
        """Return what must exist while the network is used on this host."""
        return None

    @hookspec(firstresult=True)
    def endpoint_plan(self, network: Network[NetworkOptionsT], endpoint: Endpoint) -> Plan | None:
        """Return what must exist while the endpoint is attached. `endpoint.addresses` may be empty."""
        return None

    @hookspec(firstresult=True)
    def peer_plan(self, network: Network[NetworkOptionsT], peer: Peer) -> Plan | None:
        """Return what must exist on this host for one endpoint on another host."""
        return None
