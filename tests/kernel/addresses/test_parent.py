"""A parent that goes away, comes back, or gets other addresses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from engine.reconcile.watch import Watch
from engine.spec.errors import Conflict, Unavailable

from .test_conflicts import SUBNETS

HERE = "/proc/thread-self/ns/net"


def until(condition, what: str, seconds: float = 30.0) -> None:
    """Wait for a condition."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"in vain waited for {what}"
        time.sleep(0.01)


@pytest.fixture
def watched(host) -> Iterator[None]:
    """What the daemon does when the host changes."""

    def changed(lost: frozenset[str]) -> bool:
        followed = host.networks.follow_links()
        report = host.reconciler.repair(lost=lost)
        host.networks.announce({d.owner for d in report.fixed if d.key[0] == "link"})
        return followed and not report.errors

    watch = Watch(host.reconciler, changed)
    yield
    watch.stop()


@pytest.fixture
def home(host, lan):
    return host.networks.create("home", "macvlan", options={"parent": "p0"}, ipam=SUBNETS)


def addresses(run, endpoint) -> set[str]:
    """Return what a container's link has: its addresses, and the next hops of its default routes."""
    found = json.loads(run("ip", "-j", "address", "show", "eth0", namespace=endpoint.sandbox, check=False) or "[]")
    seen = {f"{a['local']}/{a['prefixlen']}" for link in found for a in link["addr_info"] if a["scope"] == "global"}
    for version in ("-4", "-6"):
        routes = json.loads(run("ip", version, "-j", "route", "show", "default", namespace=endpoint.sandbox) or "[]")
        seen |= {route["gateway"] for route in routes}
    return seen


def test_children_come_back_with_a_parent_that_was_away(host, lan, run, ping, home, watched):
    a, b = host.container("a", "home"), host.container("b", "home")
    full = {*a.addresses, *a.gateways}
    assert addresses(run, a) == full
    run("ip", "link", "delete", "p0")
    until(lambda: not addresses(run, a), "the link to go with its parent")
    with pytest.raises(Unavailable, match=r"no link 'p0' on the host.*Links: "):
        host.container("c", "home")
    time.sleep(0.7)  # the watch has tried in vain by now
    lan.connect()
    until(lambda: addresses(run, a) == full, "the container's link")
    until(lambda: ping(HERE, b.address(4), tries=1), "the shim")
    assert ping(lan.path, a.address(4))
    assert ping(b, a.address(6))
    until(lambda: host.reconciler.diff(sandboxes=True) == [], "agreement")
    host.end(a)
    host.end(b)


def test_after_a_restart_of_the_daemon_an_absent_parent_is_waited_for(host, lan, run, ping, home):
    a = host.container("a", "home")
    full = {*a.addresses, *a.gateways}
    host.reconciler.close()
    host.state.close()
    run("ip", "link", "delete", "p0")
    host.start()
    host.networks.restore([a.container.id])
    report = host.reconciler.repair()
    assert [d.state for d in report.left if d.key == ("link", "host", "p0")] == ["waiting"]
    lan.connect()
    host.networks.follow_links()
    host.reconciler.repair()
    assert addresses(run, a) == full
    assert ping(HERE, a.address(4))
    host.end(a)


def test_what_the_host_is_called_on_the_wire_may_change(host, lan, run, ping, home, watched):
    a = host.container("a", "home")
    assert ping(HERE, a.address(4))
    run("ip", "address", "delete", "192.0.2.2/24", "dev", "p0")
    run("ip", "address", "add", "192.0.2.200/24", "dev", "p0")
    until(lambda: ping(a, "192.0.2.200", tries=1), "the new address")
    until(lambda: ping(HERE, a.address(4), tries=1), "the container")
    until(lambda: host.reconciler.diff(sandboxes=True) == [], "agreement")
    host.end(a)


def test_a_container_leaves_while_the_parent_is_away(host, lan, run, home):
    host.networks.create("second")
    a = host.container("a", "home")
    from engine.reconcile.applier import Sandbox

    host.networks.attach("second", a.container, Sandbox(host.networks.sandbox_path(a.container.id)))
    run("ip", "link", "delete", "p0")
    host.networks.detach(a.container.id, "home")
    (left,) = host.networks.attachments(a.container.id)
    assert left.gateways  # the default route has passed over
    host.end(left)


def test_a_parent_that_is_down_is_no_reason_to_fail(host, lan, run, ping, home, watched):
    run("ip", "link", "set", "p0", "down")
    a = host.container("a", "home")
    assert addresses(run, a) == {*a.addresses, *a.gateways}
    run("ip", "link", "set", "p0", "up")
    run("ip", "address", "add", "2001:db8:2::2/64", "dev", "p0", "nodad")  # IPv6 addresses go with a link that is down
    assert ping(lan.path, a.address(4))
    until(lambda: ping(HERE, a.address(6), tries=1), "the container by IPv6")
    until(lambda: host.reconciler.diff(sandboxes=True) == [], "agreement")
    host.end(a)


def test_two_networks_on_one_parent_for_one_container(host, lan):
    for name, subnet in (("one", "198.18.1.0/24"), ("two", "198.18.2.0/24")):
        options = {"parent": "p0", "mode": "passthru"}
        host.networks.create(name, "macvlan", options=options, ipam=[{"Subnet": subnet}])
    a = host.container("a", "one")
    with pytest.raises(Conflict, match="passthru"):
        host.container("b", "two")
    host.end(a)
    host.end(host.container("b", "two"))
