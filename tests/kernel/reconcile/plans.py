"""Plans as drivers would return them."""

from __future__ import annotations

from typing import Any

from engine.spec.firewall import Masquerade, PortMap, Segment
from engine.spec.links import (
    Address,
    Bridge,
    BridgePort,
    Extern,
    ForwardingEntry,
    Ifb,
    Macvlan,
    Neighbour,
    Route,
    Shape,
    Sysctl,
    Veth,
    Vxlan,
)
from engine.spec.resource import Plan, Resource


def network(n: int = 9, **segment: Any) -> Plan:
    """A bridge network with both families."""
    name = f"br{n}"
    return Plan.of(
        Segment(link=name, **segment),
        Masquerade(subnet=f"10.{n}.0.0/24"),
        Masquerade(subnet=f"fd0{n}::/64"),
        Bridge(name=name, mac=f"02:42:00:00:00:{n:02x}", mtu=1400),
        Address(ns="host", link=name, address=f"10.{n}.0.1/24"),
        Address(ns="host", link=name, address=f"fd0{n}::1/64"),
        # Without, the bridge sends no neighbour solicitation before its link-local address is proven, 2 s later.
        Sysctl(ns="host", name="net.ipv6.conf.{link}.accept_dad", link=name, value="0"),
    )


def endpoint(i: int, n: int = 9, *more: Resource, **port: bool) -> Plan:
    """A container's end of it."""
    host = f"v{n}x{i}"
    return Plan.of(
        Veth(name=host, peer="eth0", master=f"br{n}", peer_mac=f"02:42:0a:{n:02x}:00:{i:02x}", mtu=1400, peer_mtu=1400),
        BridgePort(link=host, hairpin=True, **port),
        Address(link="eth0", address=f"10.{n}.0.{i}/24"),
        Address(link="eth0", address=f"fd0{n}::{i:x}/64"),
        Route(destination="0.0.0.0/0", via=f"10.{n}.0.1", link="eth0"),
        Route(destination="::/0", via=f"fd0{n}::1", link="eth0"),
        *more,
    )


def port(number: int, i: int, n: int = 9, protocol: str = "tcp", **more: object) -> PortMap:
    values = {"protocol": protocol, "host_port": number, "target": f"10.{n}.0.{i}", "target_port": 80, **more}
    return PortMap.model_validate(values)


def macvlan(i: int, parent: str = "p0", mode: str = "bridge") -> Plan:
    return Plan.of(
        Extern(name=parent),
        Macvlan.model_validate(
            {"name": "eth0", "ns": "sandbox", "parent": parent, "mode": mode, "mac": f"02:42:0a:05:00:{i:02x}"}
        ),
        Address(link="eth0", address=f"10.5.0.{i}/24"),
        Address(link="eth0", address=f"fd05::{i:x}/64"),
        Route(destination="0.0.0.0/0", via="10.5.0.1", link="eth0"),
    )


def overlay() -> Plan:
    """Every kind of thing that hangs on a host link."""
    return Plan.of(
        Bridge(name="br7", mac="02:42:00:00:00:07"),
        Vxlan(name="vx7", vni=77, local="127.0.0.1", master="br7", mtu=1450),
        BridgePort(link="vx7", learning=False, neigh_suppress=True),
        Ifb(name="if7"),
        Address(ns="host", link="br7", address="10.7.0.1/24"),
        Route(ns="host", destination="10.77.0.0/16", via="10.7.0.2", link="br7"),
        Route(ns="host", destination="fd77::/64", link="br7"),
        Neighbour(link="br7", address="10.7.0.2", mac="02:42:0a:07:00:02"),
        Neighbour(link="br7", address="fd07::2", mac="02:42:0a:07:00:02"),
        ForwardingEntry(link="vx7", mac="02:42:0a:07:00:02", dst="192.0.2.7"),
        ForwardingEntry(link="vx7", mac="00:00:00:00:00:00", dst="192.0.2.7"),
        ForwardingEntry(link="vx7", mac="00:00:00:00:00:00", dst="192.0.2.8"),
        Shape(ns="host", link="if7", rate=10_000_000),
        Sysctl(ns="host", name="net.ipv4.conf.{link}.arp_notify", link="br7", value="1"),
    )
