"""What a join costs in a large cluster: etcd writes, the time until other hosts know, and the work on hosts.

    python benchmarks/cluster.py [--hosts 100] [--endpoints 10000] [--joins 50] [--plot FILE.svg]

A real etcd on loopback holds the nodes, networks of growing size and all their endpoints; nothing touches the kernel.
Some hosts are watching, as daemons do: those of the joined network, and one of another network. For each size of the
joined network, medians of `--joins` joins:

    join ms       the transaction, from the joining host
    writes        revisions of etcd per join (one is one entry of its log), and keys in it
    told ms       from the end of the join until another host of the network has it, debouncing included
    plan us       making the plan of one peer with the shipped multi-host driver, on a host of that network
    first ms      a host's first join: list all peers of the network and make their plans
    others        changes that a host of another network heard of

`--plot FILE` draws them; docs/explanation/join-cost.svg is made so.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.charts import Chart, svg
from tests.etcd import running_etcd

from engine.cluster.cluster import Cluster
from engine.cluster.model import ENDPOINTS, NETWORKS, NODES, ClusterEndpoint, ClusterNetwork, Node
from engine.cluster.store import Put
from engine.network.planner import GROUP
from engine.plugins import Plugins
from engine.spec.network import LinkFact, Network, Subnet

SIZES = (10, 30, 100, 300, 1000, 3000)
DRIVER = "overlay"


class Heard:
    """A host that notes when it hears of endpoints."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.fresh = threading.Condition()

    def peers(self, network, changes) -> tuple[str, ...]:
        now = time.perf_counter()
        with self.fresh:
            self.at.update({id: now for id, remote in changes.items() if remote is not None})
            self.fresh.notify_all()
        return ()

    def network(self, id, network) -> None:
        pass

    def missed(self, network, endpoints) -> None:
        pass

    def hosts(self) -> None:
        pass

    def returned(self) -> None:
        pass


def endpoint(network: str, number: int, node: str) -> ClusterEndpoint:
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    mac = "02:42:" + (0x0A000000 + number).to_bytes(4, "big").hex(":")
    return ClusterEndpoint(
        id=secrets.token_hex(32), network=network, node=node, mac=mac, addresses=(f"{address}/8",),
        container=secrets.token_hex(32), name=f"box{number}",
    )  # fmt: skip


def fill(store, sizes: list[int], hosts: int) -> list[str]:
    """Write networks of these sizes with their endpoints; return the networks' ids."""
    ids = []
    for n in range(hosts):
        node = Node(name=f"host{n}", id=f"{n}", address=f"192.0.{2 + n // 250}.{1 + n % 250}")
        store.commit([], [Put(NODES + node.name, node.encode())])
    for number, size in enumerate(sizes):
        id = secrets.token_hex(32)
        ids.append(id)
        network = ClusterNetwork(id=id, name=f"net{number}", driver=DRIVER, vni=4096 + number, record={})
        store.commit([], [Put(NETWORKS + id, network.encode())])
        for start in range(2, size + 2, 40):
            found = [endpoint(id, n, f"host{1 + n % (hosts - 1)}") for n in range(start, min(start + 40, size + 2))]
            store.commit([], [
                put for e in found
                for put in (Put(e.key, e.encode()), *(Put(claim, e.id.encode()) for claim in e.claims))
            ])  # fmt: skip
    return ids


def cluster(etcd, name: str, address: str) -> tuple[Cluster, Heard]:
    made, heard = Cluster(etcd.store(), Node(name=name, id=name, address=address)), Heard()
    made.watch(heard)
    made.start()
    return made, heard


def planned(plugins: Plugins, remotes) -> float:
    """Return the seconds that the driver takes for the plan of one peer."""
    model = plugins.get(GROUP, DRIVER).options_model
    network = Network(
        id="ab" * 32, name="n", driver=DRIVER, options=model(), mac="02:42:00:00:00:01", ifname="br-ab", vni=4096,
        subnets=(Subnet(prefix="10.0.0.0/8"),), host="192.0.2.250", underlay=LinkFact(name="eth0", mtu=1500),
    )  # fmt: skip
    took = []
    for remote in remotes:
        started = time.perf_counter()
        plugins.call(GROUP, DRIVER, "peer_plan", network=network, peer=remote.peer)
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def measure(etcd, id: str, other: str, size: int, joins: int, plugins: Plugins) -> dict[str, float]:
    joiner, _ = cluster(etcd, "joiner", "198.51.100.1")
    watcher, heard = cluster(etcd, "watcher", "198.51.100.2")
    stranger, strange = cluster(etcd, "stranger", "198.51.100.3")
    try:
        started = time.perf_counter()
        view = watcher.use(id)
        with heard.fresh:
            heard.fresh.wait_for(lambda: len(heard.at) >= size, 60)
        listed = time.perf_counter() - started
        remotes = list(view.told.values())
        planned(plugins, remotes[:5])  # the first call of a driver is slower
        plan = planned(plugins, remotes)
        stranger.use(other)
        stranger.use(other).follower.wait(30)
        time.sleep(0.2)
        strange_before, took, told = len(strange.at), [], []
        before = joiner.store.list(ENDPOINTS + id)
        for n in range(joins):
            fresh = endpoint(id, size + 100 + n, "joiner")
            started = time.perf_counter()
            joiner.endpoints.join(id, fresh)
            done = time.perf_counter()
            took.append(done - started)
            with heard.fresh:
                assert heard.fresh.wait_for(lambda fresh=fresh: fresh.id in heard.at, 10)
            told.append(max(0.0, heard.at[fresh.id] - done))
        after = joiner.store.list(ENDPOINTS + id)
        return {
            "size": size,
            "join ms": 1000 * statistics.median(took),
            "writes": (after.revision - before.revision) / joins,
            "keys": 1 + len(endpoint(id, 1, "x").claims),
            "told ms": 1000 * statistics.median(told),
            "plan us": 1e6 * plan,
            "first ms": 1000 * (listed + size * plan),
            "others": len(strange.at) - strange_before,
        }
    finally:
        for each in (joiner, watcher, stranger):
            each.close(leave=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--endpoints", type=int, default=10_000)
    parser.add_argument("--joins", type=int, default=50)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    sizes = [s for s in SIZES if s * 3 <= given.endpoints]
    rest = given.endpoints - sum(sizes)
    all_sizes = [*sizes, *[min(500, rest - n) for n in range(0, rest, 500)]]
    plugins = Plugins()
    plugins.get(GROUP, DRIVER)
    with tempfile.TemporaryDirectory() as directory, running_etcd(Path(directory)) as etcd:
        store = etcd.store()
        ids = fill(store, all_sizes, given.hosts)
        total = len(store.list(ENDPOINTS).entries)
        print(f"{given.hosts} hosts, {len(ids)} networks, {total} endpoints\n")
        rows = [measure(etcd, ids[n], ids[-1], size, given.joins, plugins) for n, size in enumerate(sizes)]
        store.close()
    print("".join(f"{name:>10}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:>10.4g}" for value in row.values()))
    if given.plot:
        given.plot.write_text(svg(charts(rows)))


def charts(rows: list[dict[str, float]]) -> list[Chart]:
    """Return what a join costs, and what a host's first one does."""
    sizes, across = [row["size"] for row in rows], "endpoints of the network on all hosts"
    joins = {
        "the joining host: one transaction": [row["join ms"] for row in rows],
        "until another host of the network has it": [row["told ms"] for row in rows],
        "hosts of other networks: changes heard of": [row["others"] for row in rows],
    }
    first = {"a host's first join: listing, and plans of all peers": [row["first ms"] for row in rows]}
    return [Chart("A join", sizes, joins, "ms", across), Chart("The first join", sizes, first, "ms", across, False)]


if __name__ == "__main__":
    main()
