"""What the network manager stores and hands around: networks, attachments, ports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.lease import Lease
from engine.spec.ipam import Pool
from engine.spec.network import LinkFact, Subnet
from engine.spec.values import family_of

Protocol = Literal["tcp", "udp", "sctp"]
GATEWAY = "gateway/"
"""What `default_for` of a network begins with that is the way out of others."""


class Record(BaseModel):
    """Base of what is stored. Immutable: a change makes a copy, and the copy is written."""

    model_config = ConfigDict(frozen=True)

    def doc(self) -> dict[str, Any]:
        """Return the JSON document that the database holds."""
        return self.model_dump(mode="json")


class ContainerRef(Record):
    """How the network manager knows a container."""

    id: str
    name: str
    hostname: str = ""
    labels: Mapping[str, str] = Field(default_factory=dict)
    exposed: tuple[str, ...] = ()
    """The ports that it listens at, as `80/tcp`."""
    dns: tuple[str, ...] = ()
    """The name servers that it was given."""
    ndots: int = 0
    """Names with fewer dots are completed from the search list first, if that was asked for (resolv.conf(5))."""


class EndpointSettings(Record):
    """A container's wishes for one network; empty means that the engine chooses."""

    ip: str = ""
    ip6: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()
    ifname: str = ""
    """Name of the link inside the container."""
    driver_opts: Mapping[str, str] = Field(default_factory=dict)
    gw_priority: int = 0
    """The container's default route is on its network of the highest priority."""


class PortRequest(Record):
    """A port to publish. `host_ip` "" means all addresses of the host.

    `host_port` 0 means any free port; with a greater `host_port_end`, the first free one from `host_port` to it.
    """

    protocol: Protocol = "tcp"
    target_port: int
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0


class PortSpan(Record):
    """Which published ports are meant: `count` from `host_port` on. "" and 0 mean any address and any target."""

    protocol: Protocol = "tcp"
    host_ip: str = ""
    host_port: int
    count: int = 1
    target_port: int = 0

    @property
    def text(self) -> str:
        """How a person writes it."""
        last = f"-{self.host_port + self.count - 1}" if self.count > 1 else ""
        address = f"[{self.host_ip}]:" if ":" in self.host_ip else f"{self.host_ip}:" if self.host_ip else ""
        target = f":{self.target_port}" if self.target_port else ""
        return f"{address}{self.host_port}{last}{target}/{self.protocol}"


class PublishedPort(Record):
    """A port that is published: `count` ports from `host_port` on go to as many from `target_port` on.

    `host_port` 0: they are open at the endpoint's own address, and no port of the host is taken.
    """

    protocol: Protocol
    host_ip: str
    """"" means all addresses of the host of this family."""
    family: int
    host_port: int
    target_port: int
    count: int = 1

    @property
    def start(self) -> int:
        """The first port that clients use."""
        return self.host_port or self.target_port

    @property
    def span(self) -> PortSpan:
        """What names it."""
        return PortSpan(
            protocol=self.protocol,
            host_ip=self.host_ip,
            host_port=self.start,
            count=self.count,
            target_port=self.target_port,
        )


class NetworkRecord(Record):
    """A network."""

    id: str
    name: str
    driver: str
    scope: Literal["local", "global"] = "local"
    created: str
    given: Mapping[str, str] = Field(default_factory=dict)
    """The options as they were given: what `inspect` shows, and what is read again when the driver's model changes."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """The settled options."""
    ipam_driver: str
    ipam_options: Mapping[str, str] = Field(default_factory=dict)
    pools: tuple[Pool, ...] = ()
    chosen_pools: bool = False
    """The engine chose all pools: they may change as long as nobody uses the network."""
    labels: Mapping[str, str] = Field(default_factory=dict)
    internal: bool = False
    ipv6: bool = False
    attachable: bool = False
    predefined: bool = False
    """One of the networks that exist from the start, and cannot be removed."""
    default_for: str = ""
    """Which driver and options this is the default network of; "" for one that a person made."""
    vni: int | None = None
    """Virtual network identifier, of a network that spans hosts."""
    ifname: str
    mac: str
    link_prefix: str = "eth"
    """Links in containers are called so, with a number."""
    adopted: bool = False
    """The host link `ifname` was there before, and is not ours."""
    host_binding: str = ""
    """Address of the host on which ports are published where a request names none."""
    package: str = ""
    """Distribution and version of the driver that made it."""
    plan: str = ""
    """The plan (JSON) that was applied when it was used last."""
    links: Mapping[str, LinkFact] = Field(default_factory=dict)
    """By option: the host links that its options select, as they were when that plan was made."""

    @property
    def subnets(self) -> tuple[Subnet, ...]:
        """The address pools, as drivers see them."""
        return tuple(Subnet(prefix=p.subnet, gateway=p.gateway) for p in self.pools)

    @property
    def is_gateway(self) -> bool:
        """Whether the engine made it as the way out of containers on networks that lead nowhere."""
        return self.default_for.startswith(GATEWAY)

    @property
    def owner(self) -> str:
        """Who owns its resources, to the reconciler."""
        return f"net:{self.id}"

    def address_space(self, pool: Pool) -> str:
        """Return the space of claims on a pool's addresses."""
        return f"address/{self.id}/{pool.subnet}"


class Attachment(Record):
    """A container's endpoint on a network: what it wished for, and what it got."""

    id: str
    network: str
    """Network id."""
    network_name: str
    driver: str
    container: ContainerRef
    settings: EndpointSettings
    sandbox: str
    """Path of the container's network namespace."""
    ifname: str
    host_ifname: str
    mac: str
    addresses: tuple[str, ...] = ()
    """With their prefix lengths."""
    network_gateways: tuple[str, ...] = ()
    """The network's gateways of the addresses' families."""
    gateways: tuple[str, ...] = ()
    """Those of them that the container's default routes go through."""
    ports: tuple[PublishedPort, ...] = ()
    arriving: bool = False
    """A running container is being connected. What a killed daemon left so is taken away again."""
    unsettled: bool = False
    """Its plan has changed, and is being applied. What a killed daemon left so is applied again, in the sandbox too."""
    lease: Lease | None = None
    """What a DHCP server gave, where that is the network's way to addresses."""
    plan: str = ""
    """The plan (JSON) that was applied."""

    @property
    def owner(self) -> str:
        """Who owns its resources, to the reconciler. An endpoint's id is new at each attachment: so no generation."""
        return f"ep:{self.network}:{self.id}:0"

    def address(self, family: int) -> str | None:
        """Return the address of a family, without prefix length."""
        return next((a.partition("/")[0] for a in self.addresses if family_of(a) == family), None)


def now() -> str:
    """Return the time as Docker writes it (RFC 3339, UTC)."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
