"""IPv6: beside IPv4, alone, from a prefix of the engine's choice, and several subnets."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest

from engine.spec.errors import Conflict, InvalidParameter, Unavailable

OUTSIDE6 = "2001:db8::2"


def families(run, endpoint) -> set[str]:
    links = json.loads(run("ip", "-j", "address", "show", "eth0", namespace=endpoint.sandbox))
    return {a["family"] for a in links[0]["addr_info"] if a["scope"] == "global"}


@pytest.mark.parametrize("driver", ["bridge", "macvlan"])
def test_ipv6_alone(host, lan, run, ping, driver):
    options = {"parent": "p0"} if driver == "macvlan" else {}
    record = host.networks.create("six", driver, options=options, ipv4=False, ipv6=True)
    (pool,) = record.pools
    assert ip_network(pool.subnet).subnet_of(ip_network("fd00::/8"))
    assert ip_network(pool.subnet).prefixlen == 64
    shown = host.networks.inspect(record)
    assert (shown["EnableIPv4"], shown["EnableIPv6"]) == (False, True)
    a, b = host.container("a", "six"), host.container("b", "six")
    assert families(run, a) == {"inet6"}
    assert a.address(4) is None
    assert ping(a, b.address(6))
    assert ping("/proc/thread-self/ns/net", a.address(6))
    assert json.loads(run("ip", "-4", "-j", "route", namespace=a.sandbox)) == []
    if driver == "bridge":
        assert ping(a, OUTSIDE6)
    assert host.reconciler.diff(sandboxes=True) == []
    with pytest.raises(InvalidParameter, match="no subnet of network six has the address"):
        host.container("c", "six", ip="10.0.0.9")
    host.end(a)
    host.end(b)


def test_a_published_port_of_a_container_with_ipv6_alone(host, run):
    from engine.network.model import PortRequest

    host.networks.create("six", ipv4=False, ipv6=True)
    a = host.container("a", "six", ports=(PortRequest(target_port=80, host_port=8080),))
    assert {p.family for p in a.ports} == {6}
    host.end(a)


def test_prefixes_of_our_choice_differ_and_stay(host):
    one, two = (host.networks.create(name, ipv6=True) for name in ("one", "two"))
    chosen = [next(p.subnet for p in n.pools if ":" in p.subnet) for n in (one, two)]
    assert chosen[0] != chosen[1]
    host.state.close()
    host.reconciler.close()
    host.start()
    assert [p.subnet for p in host.networks.get("one").pools] == [p.subnet for p in one.pools]


def test_several_subnets_are_used_one_after_the_other(host, ping):
    ipam = [{"Subnet": "10.77.0.0/30"}, {"Subnet": "10.78.0.0/30"}, {"Subnet": "fd77::/126"}]
    host.networks.create("many", ipam=ipam)
    a = host.container("a", "many")
    b = host.container("b", "many")
    assert (a.address(4), b.address(4)) == ("10.77.0.2", "10.78.0.2")
    assert b.gateways[0] == "10.78.0.1"
    assert ping(a, b.address(4))  # through the host, which has an address in both
    assert ping(a, b.address(6))
    with pytest.raises(Unavailable, match="no address is free"):
        host.container("c", "many")
    shown = host.networks.inspect(host.networks.get("many"))["Status"]["IPAM"]["Subnets"]
    assert shown["10.77.0.0/30"] == {"IPsInUse": 4, "DynamicIPsAvailable": 0}
    host.end(a)
    host.end(b)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"ipv4": False}, InvalidParameter, "needs IPv4, IPv6 or both"),
        (
            {"ipv4": False, "ipv6": True, "ipam": [{"Subnet": "10.9.0.0/24"}]},
            InvalidParameter,
            "IPv4, which is turned off",
        ),
        ({"ipam": [{"Subnet": "fd09::/64"}, {"Subnet": "fd09::/80"}]}, Conflict, "overlaps"),
        ({"ipam": [{"Subnet": "fd09::1/64"}]}, InvalidParameter, "malformed subnet"),
    ],
)
def test_what_is_refused(host, arguments, kind, text):
    with pytest.raises(kind, match=text):
        host.networks.create("bad", **arguments)


def test_usage_of_pools(host):
    ipam = [{"Subnet": "10.79.0.0/24", "IPRange": "10.79.0.64/28", "AuxiliaryAddresses": {"nas": "10.79.0.70"}}]
    record = host.networks.create("use", ipam=[*ipam, {"Subnet": "fd79::/64"}])
    a = host.container("a", "use")
    shown = host.networks.inspect(record)["Status"]["IPAM"]["Subnets"]
    assert shown["10.79.0.0/24"] == {"IPsInUse": 5, "DynamicIPsAvailable": 14}
    assert shown["fd79::/64"]["IPsInUse"] == 3
    host.end(a)


def test_an_address_that_a_container_must_have_is_kept_for_it(host, monkeypatch):
    host.networks.create("net", ipam=[{"Subnet": "10.80.0.0/29", "Gateway": "10.80.0.1"}])
    fixed = {"10.80.0.2": "some other container", "10.80.0.4": b"b".hex().ljust(64, "0")}
    monkeypatch.setattr(host.networks._addresses, "_fixed", lambda network: fixed)
    a, b = host.container("a", "net"), host.container("b", "net")
    assert (a.address(4), b.address(4)) == ("10.80.0.3", "10.80.0.4")
    c = host.container("c", "net", ip="10.80.0.2")  # who asks for it gets it, while the other one does not run
    assert c.address(4) == "10.80.0.2"
    for endpoint in (a, b, c):
        host.end(endpoint)


@pytest.mark.parametrize("subnet", ["192.0.2.0/24", "192.0.2.0/30", "192.0.0.0/16", "2001:db8:2::/64"])
def test_the_hosts_own_wire_is_no_subnet_of_a_bridge(host, lan, subnet):
    with pytest.raises(Conflict, match=r"is the host's own: p0 has the address (192\.0\.2\.|2001:db8:2::)2/"):
        host.networks.create("bad", ipam=[{"Subnet": subnet}])
    host.networks.create("wire", "macvlan", options={"parent": "p0"}, ipam=[{"Subnet": subnet}])


def test_a_network_that_is_in_use_is_not_taken_for_the_hosts_own_wire(host):
    host.networks.create("one", ipam=[{"Subnet": "10.81.0.0/24"}])
    a = host.container("a", "one")
    with pytest.raises(Conflict, match=r"overlaps 10\.81\.0\.0/24 of network one"):
        host.networks.create("two", ipam=[{"Subnet": "10.81.0.0/24"}])
    host.end(a)
    host.networks.remove("one")
    host.networks.create("two", ipam=[{"Subnet": "10.81.0.0/24"}])
