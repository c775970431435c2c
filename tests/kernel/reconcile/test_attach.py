"""Attaching, detaching, changing: the state of a real kernel."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from tests.kernel.reconcile import plans
from tests.kernel.reconcile.conftest import TAG, Host
from tests.kernel.snapshot import assert_becomes, assert_same, network

from engine.reconcile import netns
from engine.reconcile.probes import KINDS, link_kind_supported
from engine.spec.errors import ApplyFailed, Conflict, Unavailable, Unsupported
from engine.spec.links import Address, Bridge, Dummy, Extern, Ipvlan, Link, Macvlan, Route, Sysctl, Veth, Vlan, Vxlan
from engine.spec.resource import Plan


def attach(host: Host, i: int, n: int = 9, *more):
    sandbox = host.sandbox(f"s{n}-{i}")
    host.reconciler.apply(f"ep:{n}:{i}", plans.endpoint(i, n, *more), sandbox=sandbox)
    return sandbox


def test_two_containers_on_a_bridge_reach_each_other_and_nothing_is_left(host: Host) -> None:
    before = network()
    host.reconciler.apply("net:9", plans.network())
    a, b = attach(host, 2), attach(host, 3)
    assert host.ping("10.9.0.3", a)
    assert host.ping("fd09::2", b)
    assert host.ping("10.9.0.1", a)
    assert "mtu 1400" in host.run("ip", "link", "show", "eth0", sandbox=a)
    assert host.reconciler.diff(sandboxes=True) == []
    assert host.reconciler.collect() == []
    assert f"alias engine:{TAG.instance}:ep:9:2" in host.run("ip", "link", "show", "v9x2")
    for i in (2, 3):
        netns.destroy(host.path / f"s9-{i}")
        assert host.reconciler.remove(f"ep:9:{i}", namespace_gone=True) == []
    assert host.reconciler.remove("net:9") == []
    assert_becomes(["lo"], lambda: [name for _, name in socket.if_nameindex()])
    assert [d.key[0] for d in host.reconciler.collect()] == ["firewall"]
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")  # set, never restored
    assert_becomes(before, network)


def test_detaching_while_the_sandbox_stays(host: Host) -> None:
    host.reconciler.apply("net:9", plans.network())
    sandbox = host.sandbox("s")
    before = network(sandbox.path)
    host.reconciler.apply("ep:9:2", plans.endpoint(2, 9, plans.port(8080, 2)), sandbox=sandbox)
    assert host.reconciler.remove("ep:9:2") == []
    assert_same(before, network(sandbox.path))


def test_applying_twice_changes_nothing(host: Host) -> None:
    host.reconciler.apply("net:9", plans.network())
    sandbox = attach(host, 2, 9, plans.port(8080, 2))
    before = network(sandbox.path)
    host.reconciler.apply("net:9", plans.network())
    host.reconciler.apply("ep:9:2", plans.endpoint(2, 9, plans.port(8080, 2)), sandbox=sandbox)
    assert_same(before, network(sandbox.path))
    again = host.start()  # a new process that knows nothing finds everything there
    again.apply("net:9", plans.network())
    again.apply("ep:9:2", plans.endpoint(2, 9, plans.port(8080, 2)), sandbox=sandbox)
    assert_same(before, network(sandbox.path))
    assert again.collect() == []


def test_every_kind_on_the_host(host: Host) -> None:
    before = network()
    host.reconciler.apply("net:7", plans.overlay())
    assert host.reconciler.diff() == []
    assert host.reconciler.collect() == []
    assert "dst 192.0.2.8" in host.run("bridge", "fdb", "show", "dev", "vx7")
    assert "10Mbit" in host.run("tc", "qdisc", "show", "dev", "if7")
    assert host.reconciler.remove("net:7") == []
    assert_same(before, network())


def test_macvlan_on_a_parent_and_the_hosts_own_eth0_is_no_obstacle(host: Host) -> None:
    host.run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "eth0")
    host.run("ip", "link", "set", "p0", "up")
    host.run("ip", "link", "set", "eth0", "up")
    before = network()
    sandboxes = [host.sandbox("a"), host.sandbox("b")]
    for i, sandbox in enumerate(sandboxes, 2):
        host.reconciler.apply(f"ep:5:{i}", plans.macvlan(i), sandbox=sandbox)
    assert host.ping("10.5.0.3", sandboxes[0])
    assert host.ping("fd05::2", sandboxes[1])
    assert host.reconciler.diff(sandboxes=True) == []
    for i in (2, 3):
        assert host.reconciler.remove(f"ep:5:{i}") == []
    assert_same(before, network())


def test_an_absent_parent(host: Host) -> None:
    before = network()
    with pytest.raises(Unavailable, match="p0 is not there"):
        host.reconciler.apply("ep:5:2", plans.macvlan(2), sandbox=host.sandbox("a"))
    assert_same(before, network())
    assert host.reconciler.owners() == []


def test_a_mode_that_the_parent_refuses_is_explained(host: Host) -> None:
    host.run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1")
    a, b = host.sandbox("a"), host.sandbox("b")
    host.reconciler.apply("ep:5:2", plans.macvlan(2), sandbox=a)
    with pytest.raises(ApplyFailed, match="passthru") as caught:
        host.reconciler.apply("ep:5:3", plans.macvlan(3, mode="passthru"), sandbox=b)
    assert caught.value.details["errno"] == "EINVAL"
    assert "eth0" not in host.run("ip", "link", sandbox=b)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"veth", "ifb"}))
def test_each_kind_of_link_is_made_or_named_as_unsupported(host: Host, kind: str) -> None:
    host.run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1")
    samples: dict[str, Link] = {
        "bridge": Bridge(name="x0", ns="sandbox", mtu=1300), "dummy": Dummy(name="x0", ns="sandbox"),
        "ipvlan": Ipvlan(name="x0", ns="sandbox", parent="p0"),
        "macvlan": Macvlan(name="x0", ns="sandbox", parent="p0"),
        "vlan": Vlan(name="x0", ns="sandbox", parent="p0", vid=5),
        "vxlan": Vxlan(name="x0", ns="sandbox", vni=5, local="127.0.0.1"),
    }  # fmt: skip
    sandbox = host.sandbox("s")
    plan = Plan.of(samples[kind], Address(link="x0", address="10.1.1.1/24"))
    if link_kind_supported(kind):
        host.reconciler.apply("ep", plan, sandbox=sandbox)
        assert host.reconciler.diff(sandboxes=True) == []
        assert "x0" in host.run("ip", "link", sandbox=sandbox)
    else:
        with pytest.raises(Unsupported, match=f"the kernel has no {kind}"):
            host.reconciler.apply("ep", plan, sandbox=sandbox)
        assert "x0" not in host.run("ip", "link", sandbox=sandbox)


def test_a_strangers_link_is_kept(host: Host) -> None:
    host.run("ip", "link", "add", "br9", "type", "bridge")
    before = network()
    with pytest.raises(Conflict, match="br9 exists already: it is not Engine's"):
        host.reconciler.apply("net:9", Plan.of(*plans.network().by_kind(Bridge, Address)))
    assert_same(before, network())
    assert host.reconciler.collect() == []


def test_a_strangers_address_in_the_way(host: Host) -> None:
    host.run("ip", "link", "add", "p0", "type", "bridge")
    plan = Plan.of(Extern(name="p0"), Route(ns="host", destination="10.6.0.0/16", link="p0", metric=5))
    host.run("ip", "link", "set", "p0", "up")
    host.run("ip", "route", "add", "10.6.0.0/16", "via", "127.0.0.1", "dev", "lo", "metric", "5")
    before = network()
    with pytest.raises(Conflict):
        host.reconciler.apply("net:6", plan)
    assert_same(before, network())


def test_changing_a_plan_changes_only_the_difference(host: Host) -> None:
    host.reconciler.apply("net:9", plans.network())
    sandbox = attach(host, 2, 9, plans.port(8080, 2))
    index = host.run("ip", "-o", "link", "show", "v9x2").split(":")[0]
    changed = [r for r in plans.endpoint(2, 9, plans.port(8081, 2)).resources if r.key[-1] != "fd09::2/64"]
    changed = [r.model_copy(update={"mtu": 1350}) if isinstance(r, Veth) else r for r in changed]
    changed = [r for r in changed if not (isinstance(r, Route) and ":" in r.destination)]
    host.reconciler.apply("ep:9:2", Plan.of(changed), sandbox=sandbox)
    assert host.run("ip", "-o", "link", "show", "v9x2").split(":")[0] == index
    assert "mtu 1350" in host.run("ip", "link", "show", "v9x2")
    assert "fd09::2" not in host.run("ip", "address", sandbox=sandbox)
    ruleset = host.run("nft", "list", "ruleset")
    assert "tcp . 8081" in ruleset
    assert "tcp . 8080" not in ruleset
    assert host.reconciler.diff(sandboxes=True) == []


def test_changing_the_primary_address_keeps_the_default_route(host: Host) -> None:
    host.reconciler.apply("net:9", plans.network())
    sandbox = attach(host, 2)
    moved = [
        Address(link="eth0", address="10.9.0.77/24") if r.key[-1] == "10.9.0.2/24" else r
        for r in plans.endpoint(2).resources
    ]
    host.reconciler.apply("ep:9:2", Plan.of(moved), sandbox=sandbox)
    assert host.reconciler.diff(sandboxes=True) == []
    assert host.ping("10.9.0.1", sandbox)


def test_a_change_that_fails_goes_back(host: Host) -> None:
    host.run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1")
    a, b = host.sandbox("a"), host.sandbox("b")
    for i, sandbox in ((2, a), (3, b)):
        host.reconciler.apply(f"ep:5:{i}", plans.macvlan(i), sandbox=sandbox)
    before = network(a.path)
    with pytest.raises(ApplyFailed):  # the parent has a second child: the kernel refuses after the old link has gone
        host.reconciler.apply("ep:5:2", plans.macvlan(2, mode="passthru"), sandbox=a)
    assert host.reconciler.plan_of("ep:5:2") == plans.macvlan(2)
    assert host.reconciler.diff(sandboxes=True) == []
    assert_same(before, network(a.path))


def test_replacing_a_network_link_takes_its_endpoints_along(host: Host) -> None:
    host.reconciler.apply("net:9", plans.network())
    a, b = attach(host, 2), attach(host, 3)
    host.run("ip", "link", "del", "br9")
    assert host.reconciler.repair("net:9").ok
    assert host.reconciler.diff(sandboxes=True) == []
    assert host.ping("10.9.0.3", a)
    assert host.ping("10.9.0.2", b)


def test_attaching_when_the_bridge_was_deleted_meanwhile(host: Host) -> None:
    host.reconciler.apply("net:9", plans.network())
    host.run("ip", "link", "del", "br9")
    sandbox = attach(host, 2)
    assert host.ping("10.9.0.1", sandbox)


def test_a_parameter_of_a_link_with_a_dot_in_its_name(host: Host) -> None:
    name = "net.ipv4.conf.{link}.arp_notify"
    plan = Plan.of(Bridge(name="b.5"), Sysctl(ns="host", name=name, link="b.5", value="1"))
    host.reconciler.apply("net", plan)
    assert host.run("cat", "/proc/sys/net/ipv4/conf/b.5/arp_notify").strip() == "1"
    assert host.reconciler.diff() == []


def test_a_parameter_of_the_sandbox_is_not_the_hosts(host: Host) -> None:
    sandbox = host.sandbox("s")
    plan = Plan.of(Sysctl(name="net.ipv4.ip_default_ttl", value="77"))
    host.reconciler.apply("ep", plan, sandbox=sandbox)
    assert host.run("cat", "/proc/sys/net/ipv4/ip_default_ttl", sandbox=sandbox).strip() == "77"
    assert host.run("cat", "/proc/sys/net/ipv4/ip_default_ttl").strip() == "64"
    host.run("sysctl", "-qw", "net.ipv4.ip_default_ttl=9", sandbox=sandbox)
    (difference,) = host.reconciler.diff(sandboxes=True)
    assert difference.fields == {"value": ("77", "9")}


def test_a_new_namespace_has_its_loopback_up_and_is_listed(host: Host) -> None:
    sandbox = host.sandbox("s")
    assert host.ping("127.0.0.1", sandbox)
    assert netns.present(host.path) == [sandbox.path]
    with pytest.raises(FileExistsError):
        netns.create(sandbox.path)
    netns.destroy(sandbox.path)
    netns.destroy(sandbox.path)
    assert netns.present(host.path) == []


def test_a_sandbox_that_is_gone(host: Host) -> None:
    host.reconciler.apply("net:9", plans.network())
    before = network()
    sandbox = host.sandbox("s")
    netns.destroy(sandbox.path)
    with pytest.raises(ApplyFailed, match="sandbox is gone"):
        host.reconciler.apply("ep:9:2", plans.endpoint(2), sandbox=sandbox)
    assert_same(before, network())
    host.reconciler.adopt("ep:9:3", plans.endpoint(3), sandbox=sandbox)
    assert {d.state for d in host.reconciler.diff(sandboxes=True)} == {"missing"}
    report = host.reconciler.repair(sandboxes=True)
    assert report.errors
    assert host.reconciler.remove("ep:9:3") == []
    assert_same(before, network())


def test_many_threads_attach_and_none_is_left_in_a_sandbox(host: Host) -> None:
    host.reconciler.apply("net:9", plans.network())
    threads = [threading.Thread(target=attach, args=(host, i, 9, plans.port(8000 + i, i))) for i in range(2, 14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(host.reconciler.owners()) == 13
    assert host.reconciler.diff(sandboxes=True) == []
    reconciler = Path(f"/proc/self/task/{host.reconciler.thread_id}/ns/net")
    assert reconciler.stat().st_ino == Path(f"/proc/self/task/{threading.get_native_id()}/ns/net").stat().st_ino
