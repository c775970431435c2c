"""Somebody else changes the host: it is noticed, and put right; inside a sandbox only on demand."""

from __future__ import annotations

import time

import pytest
from tests.kernel.reconcile import plans
from tests.kernel.reconcile.conftest import TAG, Host
from tests.kernel.snapshot import assert_becomes, assert_same, network

from engine.reconcile.convergence import Report
from engine.reconcile.watch import Watch
from engine.spec import firewall, links, wireguard
from engine.spec.firewall import OpenPort, SealedPort
from engine.spec.links import Redirect, Sysctl
from engine.spec.resource import Plan, Resource

NFT = f"inet {TAG.table}"
DAMAGE = {
    "bridge": "ip link del br7",
    "tunnel": "ip link del vx7",
    "link down": "ip link set br7 down",
    "link mtu": "ip link set vx7 mtu 1300",
    "link mac": "ip link set br7 address 02:42:00:00:00:99",
    "port left": "ip link set vx7 nomaster",
    "port setting": "bridge link set dev vx7 learning on",
    "address": "ip address del 10.7.0.1/24 dev br7",
    "route": "ip route del 10.77.0.0/16",
    "route changed": "ip route change 10.77.0.0/16 via 10.7.0.3 dev br7 proto 201",
    "route v6": "ip route del fd77::/64",
    "neighbour": "ip neighbour del 10.7.0.2 dev br7",
    "neighbour changed": "ip neighbour change fd07::2 lladdr 02:42:00:00:00:01 dev br7",
    "entry": "bridge fdb del 02:42:0a:07:00:02 dev vx7 dst 192.0.2.7",
    "entry changed": "bridge fdb replace 02:42:0a:07:00:02 dev vx7 dst 192.0.2.9",
    "flood entry": "bridge fdb del 00:00:00:00:00:00 dev vx7 dst 192.0.2.8",
    "shaper": "ip link del if7",
    "queue": "tc qdisc del dev if7 root",
    "queue changed": "tc qdisc change dev if7 root tbf rate 5mbit burst 64kb latency 50ms",
    "parameter": "sysctl -qw net.ipv4.conf.br7.arp_notify=0",
    "whole ruleset": "nft flush ruleset",
    "rules": f"nft flush chain {NFT} forward",
    "rule inserted": f"nft insert rule {NFT} segment accept",
    "segment": f"nft delete element {NFT} segments {{ br9 }}",
    "masquerade": f"nft delete element {NFT} masquerade4 {{ 10.9.0.0/24 }}",
    "port": f"nft delete element {NFT} port4 {{ tcp . 8080 }}",
    "port range": f"nft flush map {NFT} range4",
    "forwarding": "sysctl -qw net.ipv4.ip_forward=0",
    "open port": f"nft delete element {NFT} open4 {{ 10.9.0.2 . tcp . 81 }}",
    "sealed port": f"nft delete element {NFT} sealed {{ 4790 }}",
    "redirection": "tc qdisc del dev v9x2 ingress",
    "loopback": "sysctl -qw net.ipv4.conf.br9.route_localnet=0",
    "host end of a pair": "ip link del v9x2",
    "master of a pair": "ip link set v9x2 nomaster",
    "pair settings": "bridge link set dev v9x2 hairpin off",
}
LOSS = {
    "bridge": "bridge", "veth": "host end of a pair", "vxlan": "tunnel", "ifb": "shaper", "bridge-port": "port setting",
    "address": "address", "route": "route", "neighbour": "neighbour", "fdb": "entry", "shape": "queue",
    "redirect": "redirection", "sysctl": "parameter", "segment": "segment", "masquerade": "masquerade",
    "port": "port", "open-port": "open port", "sealed-port": "sealed port",
}  # fmt: skip
"""For each kind of thing that the engine makes on a host, the damage that takes one away."""
ELSEWHERE = {
    "extern": "is never ours",
    "macvlan": "tests/kernel/addresses/test_parent.py: it goes with its parent",
    "ipvlan": "as macvlan; not in every kernel",
    "vlan": "tests/kernel/addresses/test_vlan.py; not in every kernel",
    "dummy": "as ifb; not in every kernel",
    "wireguard": "tests/kernel/overlay: it has an applier of its own",
}
SETTINGS = {"port setting", "parameter"}
"""What is no object, and is changed, not taken away: the doctor sees it, and `settings` hears of a parameter."""


SHAPED = Redirect(ns="host", link="v9x2", to="if7")


def busy(host: Host):
    """Make one of everything."""
    more = [
        plans.port(8080, 2), plans.port(9000, 2, target_port=9000, count=11), SealedPort(port=4790, link="vx7"),
        OpenPort(address="10.9.0.2", protocol="tcp", port=81), SHAPED,
    ]  # fmt: skip
    host.reconciler.apply("net:7", plans.overlay())
    host.reconciler.apply("net:9", plans.network())
    sandbox = host.sandbox("s")
    host.reconciler.apply("ep:9:2", plans.endpoint(2, 9, *more), sandbox=sandbox)
    return sandbox


def test_no_kind_is_left_out() -> None:
    """A new kind of resource needs a damage, or a reason."""
    classes = [c for module in (links, firewall, wireguard) for c in vars(module).values() if isinstance(c, type)]
    fields = [c.model_fields["kind"].default for c in classes if issubclass(c, Resource)]
    assert {kind for kind in fields if isinstance(kind, str)} == LOSS.keys() | ELSEWHERE.keys()
    assert set(LOSS.values()) <= DAMAGE.keys()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_on_the_host_is_seen_and_repaired(host: Host, damage: str) -> None:
    sandbox = busy(host)
    before = network(sandbox.path)
    host.run(*DAMAGE[damage].split())
    seen = host.reconciler.diff()
    assert seen, "the difference is not seen"
    report = host.reconciler.repair()
    assert report.ok, report
    assert host.reconciler.diff(sandboxes=True) == []
    after = network(sandbox.path)
    for state in (before, after):  # handles, and the order of elements, are not what matters
        state["firewall"] = sorted(line.strip(" \t,") for line in state["firewall"])
    if damage not in ("host end of a pair", "tunnel", "shaper"):  # its MAC address is the kernel's choice
        assert_same(before, after)
    assert host.ping("10.9.0.2")


def test_what_a_container_does_in_its_sandbox_is_not_touched_unless_asked(host: Host) -> None:
    sandbox = busy(host)
    host.run("ip", "route", "del", "default", sandbox=sandbox)
    host.run("ip", "link", "set", "eth0", "mtu", "1200", sandbox=sandbox)
    assert host.reconciler.repair().ok
    assert "default" not in host.run("ip", "-4", "route", sandbox=sandbox)
    assert {d.state for d in host.reconciler.diff(sandboxes=True)} == {"missing", "differs"}
    assert host.reconciler.repair("ep:9:2", sandboxes=True).ok
    assert "default via 10.9.0.1" in host.run("ip", "route", sandbox=sandbox)
    assert "mtu 1400" in host.run("ip", "link", "show", "eth0", sandbox=sandbox)


def test_a_bounced_link_gets_its_routes_and_addresses_back(host: Host) -> None:
    sandbox = busy(host)
    before = network(sandbox.path)[str(sandbox.path)]
    host.run("ip", "link", "set", "eth0", "down", sandbox=sandbox)
    host.run("ip", "link", "set", "eth0", "up", sandbox=sandbox)
    assert len(host.reconciler.diff(sandboxes=True)) > 1
    assert host.reconciler.repair(sandboxes=True).ok
    assert_same(before, network(sandbox.path)[str(sandbox.path)])


def test_a_renamed_link_in_a_sandbox_is_made_anew_when_asked(host: Host) -> None:
    sandbox = busy(host)
    host.run("ip", "link", "set", "eth0", "down", sandbox=sandbox)
    host.run("ip", "link", "set", "eth0", "name", "mine", sandbox=sandbox)
    assert host.reconciler.repair(sandboxes=True).ok
    assert host.ping("10.9.0.1", sandbox)


def test_a_parent_that_goes_and_comes_back(host: Host) -> None:
    for name in ("p0", "p1"):
        host.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}x")
    a, b = host.sandbox("a"), host.sandbox("b")
    for i, sandbox in ((2, a), (3, b)):
        host.reconciler.apply(f"ep:5:{i}", plans.macvlan(i), sandbox=sandbox)
    host.run("ip", "link", "del", "p0")
    report = host.reconciler.repair()
    assert {difference.state for difference in report.left} == {"waiting"}
    assert not report.errors
    host.run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "p0x")
    host.run("ip", "link", "set", "p0", "up")
    host.run("ip", "link", "set", "p0x", "up")
    assert host.reconciler.repair().ok
    assert host.ping("10.5.0.3", a)
    assert host.reconciler.diff(sandboxes=True) == []


def test_after_a_restart_adopted_plans_are_repaired_and_the_rest_collected(host: Host) -> None:
    sandbox = busy(host)
    before = network(sandbox.path)
    host.reconciler.apply("net:8", plans.network(8))
    host.reconciler.apply("ep:8:2", plans.endpoint(2, 8, plans.port(81, 2, 8)), sandbox=host.sandbox("s8"))
    host.run("ip", "address", "del", "10.9.0.1/24", "dev", "br9")
    host.run("ip", "route", "add", "10.99.0.0/24", "dev", "br7", "proto", "201")
    host.run("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vx7", "dst", "192.0.2.99")
    again = host.start()
    for owner, claimed in (("net:7", None), ("net:9", None), ("ep:9:2", sandbox)):
        plan = host.reconciler.plan_of(owner)
        assert plan
        again.adopt(owner, plan, sandbox=claimed)
    assert again.repair().ok
    found = {"/".join(d.key) for d in again.collect()}
    assert {"link/host/br8", "link/host/v8x2", "element/host/port4/tcp . 81"} <= found
    assert "route/host/10.99.0.0/24/0" in found
    assert again.collect() == []
    assert_same(before, network(sandbox.path))


def test_the_operators_chain_survives_everything_but_its_deletion(host: Host) -> None:
    busy(host)
    host.run("nft", "add", "rule", *NFT.split(), "user", "tcp", "dport", "22", "counter", "drop")
    host.run("nft", "flush", "chain", *NFT.split(), "postrouting")
    assert host.reconciler.repair().ok
    assert "dport 22" in host.run("nft", "list", "chain", *NFT.split(), "user")
    for owner in ("ep:9:2", "net:9", "net:7"):
        assert host.reconciler.remove(owner) == []
    assert host.reconciler.collect() == []
    assert "dport 22" in host.run("nft", "list", "chain", *NFT.split(), "user")
    host.run("nft", "flush", "chain", *NFT.split(), "user")
    assert len(host.reconciler.collect()) == 1
    assert host.run("nft", "list", "ruleset") == ""


def test_another_versions_table_is_replaced_with_the_operators_rules_carried_over(host: Host) -> None:
    host.run("nft", "add", "table", *NFT.split())
    host.run("nft", "add", "set", *NFT.split(), "segments", "{ type ipv4_addr; }")
    host.run("nft", "add", "chain", *NFT.split(), "user")
    host.run("nft", "add", "rule", *NFT.split(), "user", "tcp", "dport", "22", "drop")
    host.reconciler.apply("net:9", plans.network())
    assert host.reconciler.diff() == []
    assert "dport 22" in host.run("nft", "list", "chain", *NFT.split(), "user")


class Watched:
    """Repairs on notification, and counts."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.reports: list[Report] = []
        self.watch = Watch(host.reconciler, self.changed)

    def changed(self, lost: frozenset[str]) -> bool:
        self.reports.append(self.host.reconciler.repair(lost=lost))
        return not self.reports[-1].errors


@pytest.fixture
def watched(host: Host):
    made = Watched(host)
    yield made
    made.watch.stop()


def test_our_own_changes_do_not_set_the_watch_going(host: Host, watched: Watched) -> None:
    sandbox = busy(host)
    host.reconciler.apply("ep:9:2", plans.endpoint(2, 9, plans.port(8081, 2), SHAPED), sandbox=sandbox)
    time.sleep(0.2)
    assert host.reconciler.remove("ep:9:2") == []
    assert host.reconciler.remove("net:9") == []
    time.sleep(0.3)
    assert watched.reports == []


@pytest.mark.parametrize(
    "damage",
    [*sorted(set(LOSS.values()) - SETTINGS), "route v6", "whole ruleset", "rules", "link down", "rule inserted"],
)
def test_losses_are_repaired(host: Host, watched: Watched, damage: str) -> None:
    busy(host)
    host.run(*DAMAGE[damage].split())
    assert_becomes([], lambda: [str(d) for d in host.reconciler.diff(sandboxes=True)])
    assert watched.reports

    def at_rest() -> bool:
        count = len(watched.reports)
        time.sleep(0.4)
        return len(watched.reports) == count

    assert_becomes(True, at_rest)  # a repair does not go on for ever by itself


def test_a_repair_that_failed_is_tried_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.reconcile.watch.FIRST_PAUSE", 0.02)
    answers = iter([False, False, True])
    calls: list[frozenset[str]] = []

    def repair(lost: frozenset[str]) -> bool:
        calls.append(lost)
        if len(calls) == 2:
            raise OSError("refused")
        return next(answers)

    watch = Watch(host.reconciler, repair, well=False)
    try:
        assert_becomes(4, lambda: len(calls))
        time.sleep(0.3)
        assert len(calls) == 4
    finally:
        watch.stop()


def test_a_replugged_parent_is_noticed(host: Host, watched: Watched) -> None:
    host.run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "p0x")
    a = host.sandbox("a")
    host.reconciler.apply("ep:5:2", plans.macvlan(2), sandbox=a)
    host.run("ip", "link", "del", "p0")
    host.run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "p0x")
    assert_becomes([], lambda: [str(d) for d in host.reconciler.diff(sandboxes=True)])


def test_a_shared_value_goes_with_its_last_owner(host: Host) -> None:
    plan = Plan.of(Sysctl(ns="host", name="net.ipv4.ip_default_ttl", value="65"))
    host.reconciler.apply("a", plan)
    host.reconciler.apply("b", plan)
    host.reconciler.remove("a")
    assert host.reconciler.diff() == []
    host.reconciler.remove("b")
    assert host.run("cat", "/proc/sys/net/ipv4/ip_default_ttl").strip() == "65"  # set, never restored
