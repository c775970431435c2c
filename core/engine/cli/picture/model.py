"""What is drawn: the host, its networks, and the containers on them, from the API's answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Endpoint:
    """A container's place on a network."""

    network: str
    addresses: tuple[str, ...]
    mac: str


@dataclass(frozen=True)
class Container:
    """A running container."""

    name: str
    image: str
    endpoints: tuple[Endpoint, ...]
    ports: tuple[str, ...]
    """`8080->80/tcp`, with the host's address before it if it is not every one."""


@dataclass(frozen=True)
class Network:
    """A network."""

    name: str
    driver: str
    subnets: tuple[str, ...]
    gateways: tuple[str, ...]
    """Addresses of the host on it."""
    notes: tuple[str, ...]
    """What else is worth saying: internal, the parent, a gateway that is not the host."""

    @property
    def title(self) -> str:
        """Name, driver and notes in a line."""
        return f"{self.name} ({', '.join([self.driver, *self.notes])})"


@dataclass(frozen=True)
class Picture:
    """All of one host."""

    host: str
    networks: tuple[Network, ...]
    containers: tuple[Container, ...]

    def members(self, network: Network) -> list[tuple[Container, Endpoint]]:
        """Return the containers on a network, with their places."""
        return [(c, e) for c in self.containers for e in c.endpoints if e.network == network.name]


def picture(
    host: str,
    networks: Sequence[Mapping[str, Any]],
    containers: Sequence[Mapping[str, Any]],
    routed_by_host: Collection[str],
    only: Collection[str] = (),
) -> Picture:
    """Build a picture from the name of the host, /networks and /containers/json.

    `routed_by_host` are the drivers on whose networks the host is the gateway; on others it is some other machine.

    Of `only` these networks and their containers; else of all, but for predefined ones that nobody uses.
    """
    everyone = [_container(found) for found in containers]
    used = {endpoint.network for container in everyone for endpoint in container.endpoints}
    shown = [
        _network(n, n["Driver"] in routed_by_host)
        for n in networks
        if (n["Name"] in only if only else n["Name"] in used or n["Name"] not in _PREDEFINED)
    ]
    names = {network.name for network in shown}
    members = tuple(c for c in everyone if any(e.network in names for e in c.endpoints))
    return Picture(host, tuple(sorted(shown, key=lambda n: n.name)), tuple(sorted(members, key=lambda c: c.name)))


_PREDEFINED = frozenset({"bridge", "host", "none"})


def _network(found: Mapping[str, Any], routed_by_host: bool) -> Network:
    pools = (found.get("IPAM") or {}).get("Config") or []
    options = found.get("Options") or {}
    notes = ["internal"] if found.get("Internal") else []
    notes += [f"on {options['parent']}"] if options.get("parent") else []
    gateways = tuple(pool["Gateway"] for pool in pools if pool.get("Gateway"))
    if not routed_by_host:
        notes += [f"gateway {gateway}" for gateway in gateways]
    return Network(
        name=found["Name"],
        driver=found["Driver"],
        subnets=tuple(pool["Subnet"] for pool in pools if pool.get("Subnet")),
        gateways=gateways if routed_by_host else (),
        notes=tuple(notes),
    )


def _container(found: Mapping[str, Any]) -> Container:
    joined = (found.get("NetworkSettings") or {}).get("Networks") or {}
    return Container(
        name=found["Names"][0].removeprefix("/"),
        image=found["Image"],
        endpoints=tuple(
            Endpoint(
                name, tuple(filter(None, (e.get("IPAddress"), e.get("GlobalIPv6Address")))), e.get("MacAddress") or ""
            )
            for name, e in joined.items()
        ),
        ports=tuple(dict.fromkeys(_port(port) for port in found.get("Ports") or () if port.get("PublicPort"))),
    )


def _port(port: Mapping[str, Any]) -> str:
    address = f"[{port['IP']}]:" if ":" in port["IP"] else f"{port['IP']}:"
    shown = "" if port["IP"] in ("0.0.0.0", "::") else address
    return f"{shown}{port['PublicPort']}->{port['PrivatePort']}/{port['Type']}"
