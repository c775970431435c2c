"""A daemon, a host or etcd is away for a while and comes back: traffic goes on, and nothing is left over."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.hosts import ClusterHost, TestCluster
from tests.host import until

LATE = 5
"""So many answers may be on their way, on a busy machine, when pings end: a quarter of a second."""


class _Stream:
    """Pings from a container to another one, twenty a second, without the daemon's help."""

    def __init__(self, host: ClusterHost, container: str, target: str) -> None:
        id = host.engine("inspect", "-f", "{{.Id}}", container).stdout.strip()
        argv = [*host.enter, "nsenter", f"--net={host.exec_root / 'netns' / id}"]
        argv += ["ping", "-i", "0.05", "-W", "1", target]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def lost(self) -> int:
        """End it, and return how many answers are missing."""
        self._process.send_signal(2)
        out, _ = self._process.communicate(timeout=20)
        sent, received = (int(word) for word in out.rpartition("---\n")[2].split()[0:4:3])
        assert sent > 3, out
        return sent - received


def _ip(host: ClusterHost, container: str) -> str:
    form = '{{(index .NetworkSettings.Networks "net").IPAddress}}'
    return host.engine("inspect", "-f", form, container).stdout.strip()


def test_a_killed_daemon_stops_no_traffic_and_leaves_nothing_over(net: TestCluster) -> None:
    first, second, third = net.hosts
    stream = _Stream(first, "c1", _ip(second, "c2"))
    first.kill_daemon()
    second.kill_daemon()
    third.engine("run", "-d", "--name", "late", "--network", "net", "busybox", "sleep", "1000")
    third.engine("rm", "-f", "c3")
    time.sleep(0.5)
    first.start_daemon()
    second.start_daemon()
    assert stream.lost() <= LATE, first.log()[-3000:]
    net.until_consistent()
    until(lambda: first.ping("c1", "late"), "a container that came meanwhile")
    assert not first.ping("c1", "c3")
    for host in (first, second):
        host.until_healthy()


def test_a_host_that_boots_again_is_as_if_it_had_never_been(net: TestCluster) -> None:
    first, second, _ = net.hosts
    second.lose_power()
    second.boot()
    assert second.engine("ps", "-q").stdout == ""
    net.until_consistent()
    until(lambda: len(first.entries()["fdb"]) == 1, "the end of its container's entries")
    second.engine("start", "c2")
    net.until_all_reach_all()
    net.until_consistent()


def test_a_host_gets_another_address(net: TestCluster) -> None:
    _, second, _ = net.hosts
    former = second.address
    second.stop_daemon()
    for address in ("192.0.2.99", former):
        second.move(address)
        second.start_daemon()
        net.until_all_reach_all()
        net.until_consistent()
        assert any(address in node["address"] for node in net.values("engine/1/nodes/"))
        if address != former:
            second.stop_daemon()


@contextmanager
def _etcd_away(net: TestCluster) -> Iterator[None]:
    member = net.members[0]
    member.end()
    try:
        yield
    finally:
        member.start()
        member.wait()


def test_etcd_is_away_for_a_while(net: TestCluster) -> None:
    first, second, third = net.hosts
    stream = _Stream(first, "c1", _ip(third, "c3"))
    start = ["run", "-d", "--name", "new", "--network", "net", "busybox", "sleep", "1000"]
    with _etcd_away(net):
        refused = second.engine(*start, check=False)
        assert refused.returncode
        assert "etcd" in refused.stderr
        second.engine("rm", "-f", "new", check=False)
        until(lambda: "cannot be reached" in second.engine("doctor", check=False).stdout, "doctor's word for it")
        second.engine("run", "--rm", "busybox", "true")  # what is this host's alone goes on
        first.kill_daemon()
        first.start_daemon()  # the daemon starts without it, and knows what it knew
        second.engine("rm", "-f", "c2")
    assert stream.lost() <= LATE
    until(lambda: _starts(second), "joins work again")
    net.until_consistent()
    until(lambda: first.ping("c1", "new"), "the new container")
    assert not first.ping("c1", "c2")
    second.until_healthy()


def _starts(host: ClusterHost) -> bool:
    done = host.engine("run", "-d", "--name", "new", "--network", "net", "busybox", "sleep", "1000", check=False)
    if done.returncode:
        host.engine("rm", "-f", "new", check=False)
    return done.returncode == 0
