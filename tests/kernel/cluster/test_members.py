"""Three members of etcd: one of them, or their leader, ends; and processes that allocate at the same time."""

import subprocess
import sys
import time

import pytest
from tests.etcd import running_etcd
from tests.unit.cluster.store_contract import until

from engine.cluster.cluster import Cluster, Settings
from engine.cluster.model import ENDPOINTS, NETWORKS, ClusterEndpoint, ClusterNetwork, Node
from engine.cluster.store import Put

NET = "ab" * 32


class Heard:
    def __init__(self):
        self.known = {}

    def peers(self, network, changes):
        for id, remote in changes.items():
            if remote is None:
                self.known.pop(id, None)
            else:
                self.known[id] = remote
        return ()

    def network(self, id, network):
        pass

    def missed(self, network, endpoints):
        pass

    def hosts(self):
        pass

    def returned(self):
        pass


def endpoint(number, node):
    return ClusterEndpoint(
        id=f"{number:064x}", network=NET, node=node, mac=f"02:42:0a:09:00:{number:02x}",
        addresses=(f"10.9.0.{number}/24",), name=f"c{number}",
    )  # fmt: skip


def a_network(store):
    store.commit([], [Put(NETWORKS + NET, ClusterNetwork(id=NET, name="n", driver="x", vni=1, record={}).encode())])


def node(etcd, number, **settings):
    store, heard = etcd.store(), Heard()
    made = Cluster(store, Node(name=f"n{number}", id=f"n{number}", address=f"192.0.2.{number}"), Settings(**settings))
    made.watch(heard)
    made.start()
    return made, heard


def test_the_leader_ends_and_the_log_is_compacted(tmp_path):
    with running_etcd(tmp_path / "etcd", members=3) as etcd:
        (one, _), (two, heard) = node(etcd, 1, wait=30.0), node(etcd, 2, wait=30.0)
        try:
            a_network(one.store)
            two.use(NET)
            one.endpoints.join(NET, endpoint(1, "n1"))
            until(lambda: len(heard.known) == 1)
            leader = etcd.leader()
            leader.stop(9)
            started = time.monotonic()
            one.endpoints.join(NET, endpoint(2, "n1"))
            assert time.monotonic() - started < 30
            until(lambda: len(heard.known) == 2)
            for n in range(3, 8):
                one.endpoints.join(NET, endpoint(n, "n1"))
            revision = one.store.list(ENDPOINTS).revision
            alive = [m for m in etcd.members if m is not leader]
            etcd.ctl("compact", str(revision), endpoints=[alive[0].client])
            etcd.start(leader)
            one.endpoints.leave(NET, endpoint(1, "n1"))
            one.endpoints.join(NET, endpoint(9, "n1"))
            until(lambda: {int(id, 16) for id in heard.known} == {2, 3, 4, 5, 6, 7, 9})
            assert {s.node.name: s.status for s in two.members.states()} == {"n1": "ready", "n2": "ready"}
        finally:
            one.close(leave=True)
            two.close(leave=True)


def test_a_node_that_dies_goes_with_its_endpoints(tmp_path):
    with running_etcd(tmp_path / "etcd") as etcd:
        (one, _), (two, heard) = node(etcd, 1, grace=5), node(etcd, 2)
        try:
            a_network(one.store)
            two.use(NET)
            one.endpoints.join(NET, endpoint(1, "n1"))
            until(lambda: len(heard.known) == 1)
            one.members._closed.set()  # it gives no sign of life any more
            one.members._hurry.set()
            until(lambda: [s.status for s in two.members.states() if s.node.name == "n1"] == ["down"])
            assert len(heard.known) == 1
            until(lambda: not heard.known)
            assert [s.node.name for s in two.members.states()] == ["n2"]
            assert not two.store.list("engine/1/claims/").entries
        finally:
            one.close(leave=False)
            two.close(leave=True)


PROCESS = """
import sys
from engine.cluster.cluster import Cluster, Settings
from engine.cluster.etcd import EtcdAccess, EtcdStore
from engine.cluster.model import ClusterEndpoint, ClusterNetwork, Node
from engine.cluster.networks import free_vni
from engine.spec.errors import Conflict

NET, number = sys.argv[1], int(sys.argv[2])
store = EtcdStore(EtcdAccess(tuple(sys.argv[3].split(","))))
name = f"n{number}"
cluster = Cluster(store, Node(name=name, id=name, address=f"192.0.2.{number}"), Settings())
cluster.start()
sys.stdin.readline()
for n in range(8):
    made = lambda found: ClusterNetwork(id=f"{number:032x}{n:032x}", name=f"{name}-{n}", driver="x", vni=free_vni(found), record={})
    cluster.networks.create(made)
    free = 2
    while True:
        endpoint = ClusterEndpoint(id=f"{number:032x}{n:032x}", network=NET, node=name, mac=f"02:42:0a:09:00:{free:02x}", addresses=(f"10.9.0.{free}/24",))
        try:
            cluster.endpoints.join(NET, endpoint)
            break
        except Conflict:
            free += 1
    print(free, flush=True)
store.close()
import os
os._exit(0)
"""  # noqa: E501


def test_processes_that_allocate_at_once_never_get_the_same(tmp_path):
    with running_etcd(tmp_path / "etcd") as etcd:
        store = etcd.store()
        a_network(store)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PROCESS, NET, str(n), ",".join(etcd.endpoints)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for n in range(1, 5)
        ]  # fmt: skip
        try:
            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
            got = [line for process in processes for line in process.communicate(timeout=90)[0].split()]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert len(got) == len(set(got)) == 32
        networks = [ClusterNetwork.model_validate_json(e.value) for e in store.list(NETWORKS).entries]
        assert len({n.vni for n in networks}) == len(networks) == 33
        assert len(store.list(f"{ENDPOINTS}{NET}/").entries) == 32
        store.close()


pytestmark = pytest.mark.timeout(150)
