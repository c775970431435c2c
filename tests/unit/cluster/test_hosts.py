"""Several hosts on one store: networks, addresses, peers, names; a store that is away; garbage."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.unit.cluster.store_contract import until
from tests.unit.cluster.worlds import Host

from engine.cluster.memory import MemoryStore
from engine.cluster.model import CLAIMS, ENDPOINTS, NETWORKS, NODES, SPEC, Identity
from engine.cluster.store import Delete, Put
from engine.spec.errors import Conflict, EngineError, NotFound, Unavailable, Unsupported
from engine.state import State


def create(host, name="app", **options):
    return host.networks.create(name, "routes", **options)


def visible(host, name="app"):
    return [n for n in host.networks.list() if n.name == name]


def test_a_network_is_visible_from_every_host_as_it_was_made(hosts):
    made = create(hosts[0], labels={"a": "b"}, internal=True, attachable=True, options={"mtu": "1400"})
    until(lambda: visible(hosts[1]) == [made] == visible(hosts[2]))
    assert made.scope == "global"
    assert made.vni == 4096
    assert create(hosts[1], "other").vni == 4097
    assert hosts[2].networks.inspect(hosts[2].networks.get("app"))["Attachable"] is True


def test_names_and_pools_are_unique_also_when_all_hosts_create_at_once(hosts):
    made, errors = [], []

    def many(host):
        for n in range(5):
            made.append(create(host, f"{host.name}-{n}"))
            try:
                create(host, f"same-{n}")
            except Conflict as err:
                errors.append(err)

    threads = [threading.Thread(target=many, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: all(len(h.networks.list()) == 3 + 20 for h in hosts))
    assert len(errors) == 10
    networks = [n for n in hosts[0].networks.list() if n.scope == "global"]
    assert len({n.vni for n in networks}) == 20
    assert len({n.pools[0].subnet for n in networks}) == 20


def test_no_address_is_given_twice_when_all_hosts_join_at_once(hosts):
    create(hosts[0], ipam=[{"Subnet": "10.9.0.0/24"}])
    got, errors = [], []

    def many(host):
        try:
            for n in range(20):
                got.append(host.attach(f"{host.name}{n}", "app"))
        except EngineError as err:
            errors.append(err)

    until(lambda: all(visible(h) for h in hosts))
    threads = [threading.Thread(target=many, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    addresses = [a.addresses[0] for a in got]
    assert len(set(addresses)) == len({a.mac for a in got}) == 60
    for host in hosts:
        until(lambda host=host: len(host.reconciler.peers()) == 40)


def test_a_full_pool_says_so(hosts):
    create(hosts[0], ipam=[{"Subnet": "10.9.0.0/29"}])
    until(lambda: visible(hosts[1]))
    for n in range(5):
        hosts[n % 2].attach(f"c{n}", "app")
    with pytest.raises(Unavailable, match="no address is free"):
        hosts[1].attach("more", "app")


def test_peers_come_change_and_go_with_their_names(hosts):
    one, two, three = hosts
    create(one, ipam=[{"Subnet": "10.9.0.0/24"}])
    until(lambda: visible(two) and visible(three))
    first = one.attach("web", "app")
    two.attach("db", "app")
    address = first.addresses[0].partition("/")[0]
    until(lambda: two.reconciler.peers() == {f"{address}/32 via 192.0.2.1"})
    until(lambda: two.names.remote == {first.id: "web"})
    assert three.reconciler.peers() == set()  # it does not use the network
    renamed = first.container.model_copy(update={"name": "www"})
    one.networks.rename(renamed)
    until(lambda: two.names.remote == {first.id: "www"})
    one.detach("web", "app")
    until(lambda: not two.reconciler.peers() and not two.names.remote)
    two.detach("db", "app")
    assert two.cluster._peers.view(first.network) is None
    assert not one.cluster.store.list(ENDPOINTS).entries + one.cluster.store.list(CLAIMS).entries


def test_a_join_costs_hosts_of_other_networks_nothing(hosts):
    create(hosts[0], "one")
    create(hosts[0], "two")
    until(lambda: visible(hosts[1], "two"))
    hosts[0].attach("a", "one")
    hosts[1].attach("b", "two")
    applied = hosts[1].reconciler.applied
    for n in range(20):
        hosts[0].attach(f"x{n}", "one")
    time.sleep(0.1)
    assert hosts[1].reconciler.applied == applied


def test_a_taken_address_or_mac_that_was_asked_for_is_refused_with_its_holder(hosts):
    create(hosts[0], ipam=[{"Subnet": "10.9.0.0/24"}])
    until(lambda: visible(hosts[1]))
    hosts[0].attach("web", "app", ip="10.9.0.7", mac="02:00:00:00:00:07")
    with pytest.raises(Conflict, match=r"10\.9\.0\.7"):
        hosts[1].attach("other", "app", ip="10.9.0.7")
    with pytest.raises(Conflict, match="02:00:00:00:00:07 is taken by container web on host1"):
        hosts[1].attach("other", "app", mac="02:00:00:00:00:07")
    assert len(hosts[0].cluster.store.list(ENDPOINTS).entries) == 1


def test_a_network_in_use_anywhere_is_not_removed(hosts):
    create(hosts[0])
    until(lambda: visible(hosts[1]) and visible(hosts[2]))
    hosts[1].attach("web", "app")
    with pytest.raises(Conflict, match="network app is in use by web on host2"):
        hosts[0].networks.remove("app")
    assert hosts[0].networks.prune() == []
    hosts[1].detach("web", "app")
    hosts[2].networks.remove("app")
    until(lambda: not visible(hosts[0]) and not visible(hosts[1]))
    with pytest.raises(NotFound):
        hosts[0].networks.remove("app")


def test_what_fails_on_the_host_is_taken_back_in_the_cluster(hosts):
    create(hosts[0])
    hosts[0].reconciler.fail = "ep:"
    with pytest.raises(Exception, match="injected"):
        hosts[0].attach("web", "app")
    assert not hosts[0].cluster.store.list(ENDPOINTS).entries + hosts[0].cluster.store.list(CLAIMS).entries


def test_a_peer_that_cannot_be_applied_is_tried_again(hosts):
    create(hosts[0])
    until(lambda: visible(hosts[1]))
    hosts[1].attach("db", "app")
    hosts[1].reconciler.fail = "peer:"
    hosts[0].attach("web", "app")
    time.sleep(0.1)
    assert not hosts[1].reconciler.peers()
    hosts[1].reconciler.fail = ""
    until(lambda: len(hosts[1].reconciler.peers()) == 1)


def test_a_store_that_is_away_fails_joins_and_nothing_else(hosts):
    one, two, _ = hosts
    create(one)
    until(lambda: visible(two))
    one.attach("web", "app")
    two.attach("db", "app")
    until(lambda: len(one.reconciler.peers()) == 1)
    two.store.away = True
    with pytest.raises(Unavailable, match="the store is away"):
        two.attach("more", "app")
    with pytest.raises(Unavailable):
        create(two, "other")
    two.detach("db", "app")  # the cluster hears of it when it is back
    assert len(two.cluster.store.store.list(ENDPOINTS).entries) == 2
    two.networks.create("local", "bridge")
    two.store.away = False
    two.networks.spanning.returned()
    until(lambda: not one.reconciler.peers())


def test_a_restart_keeps_what_was_and_hears_the_rest(hosts):
    one, two, three = hosts
    create(one)
    until(lambda: visible(two) and visible(three))
    one.attach("web", "app")
    three.attach("x", "app")
    two.attach("db", "app")
    until(lambda: len(two.reconciler.peers()) == 2)
    two.kill()
    three.detach("x", "app")
    two.store.away = True
    two.start()  # without the store it knows what it knew
    assert len(two.reconciler.peers()) == 2
    assert set(two.names.remote.values()) == {"web", "x"}
    two.store.away = False
    until(lambda: len(two.reconciler.peers()) == 1)
    assert len(two.cluster.store.list(ENDPOINTS).entries) == 2


def test_endpoints_of_containers_that_ended_while_the_daemon_was_down_go(hosts):
    one, two, _ = hosts
    create(one)
    until(lambda: visible(two))
    one.attach("web", "app")
    two.attach("db", "app")
    two.kill()
    two.living.clear()
    two.start()
    until(lambda: len(one.cluster.store.list(ENDPOINTS).entries) == 1)
    until(lambda: not one.reconciler.peers())


def test_a_lost_lease_is_made_good(hosts):
    one, two, _ = hosts
    create(one)
    until(lambda: visible(two))
    one.attach("web", "app")
    two.attach("db", "app")
    until(lambda: len(one.reconciler.peers()) == 1)
    former = two.memory.lease
    two.store.revoke(former)  # as after a partition that lasted longer than the time of grace
    until(lambda: two.memory.lease != former and len(one.cluster.store.list(ENDPOINTS).entries) == 2)
    until(lambda: len(one.reconciler.peers()) == 1)
    two.attach("again", "app")


def test_an_address_that_was_given_away_meanwhile_is_said(hosts):
    one, two, _ = hosts
    create(one, ipam=[{"Subnet": "10.9.0.0/24"}])
    until(lambda: visible(two))
    two.attach("db", "app", ip="10.9.0.9")
    two.store.away = True
    one.cluster.store.revoke(two.memory.lease)
    one.attach("thief", "app", ip="10.9.0.9")
    two.store.away = False
    two.cluster.members.lost()
    until(lambda: any("10.9.0.9 is taken by container thief" in f for f in two.networks.spanning.faults()))


def test_garbage_below_the_prefix_is_passed_over(hosts):
    one, two, _ = hosts
    store = one.cluster.store
    garbage = [NETWORKS + "zz", NODES + "zz", NETWORKS + "ab" * 32]
    store.commit([], [Put(key, b"\xff{not json") for key in garbage[:2]])
    store.commit([], [Put(garbage[2], b'{"id": 3}')])
    network = create(one)
    until(lambda: visible(two))
    store.commit([], [Put(f"{ENDPOINTS}{network.id}/zz", b"[]")])
    one.attach("web", "app")
    two.attach("db", "app")
    until(lambda: len(one.reconciler.peers()) == 1)
    faults = "\n".join(two.networks.spanning.faults())
    assert all(key in faults for key in (*garbage, f"{ENDPOINTS}{network.id}/zz"))
    for host, name in ((one, "web"), (two, "db")):
        host.detach(name, "app")
    one.networks.remove("app")
    assert not store.list(ENDPOINTS).entries


def test_a_node_with_a_name_or_an_address_of_another_is_kept_out(hosts, tmp_path):
    store = hosts[0].store.store
    (tmp_path / "x").mkdir()
    for number, name, address, text in (
        (4, "host1", "192.0.2.9", "has a node host1 already"), (5, "host9", "192.0.2.1", "belongs to node host1"),
    ):  # fmt: skip
        host = Host(tmp_path / "x", store, number)
        host.cluster.close(leave=True)
        from engine.cluster.cluster import Cluster
        from engine.cluster.model import Node

        cluster = Cluster(store, Node(name=name, id="another", address=address))
        with pytest.raises(Conflict, match=text):
            cluster.start()
        host.close()


def test_hosts_that_come_and_go_change_the_plans_of_networks_that_want_it(hosts):
    one, _, three = hosts
    network = create(one)
    one.attach("web", "app")
    owner = f"net:{network.id}"

    def count():
        return next(r.mtu for r in one.reconciler.plans[owner].resources if r.kind == "dummy") - 1000

    until(lambda: count() == 2)
    three.cluster.members.publish({"key": "value"})
    until(lambda: any(h.keys == {"key": "value"} for h in one.cluster.hosts()))
    three.store.revoke(three.memory.lease)
    until(lambda: count() == 1)


def test_a_vni_or_subnet_that_is_taken_is_refused(hosts):
    create(hosts[0], ipam=[{"Subnet": "10.9.0.0/24"}], options={"vni": "77"})
    with pytest.raises(Conflict, match=r"overlaps 10\.9\.0\.0/24 of network app"):
        create(hosts[1], "other", ipam=[{"Subnet": "10.9.0.0/25"}])
    with pytest.raises(Conflict, match="the VNI 77 belongs to network app"):
        create(hosts[1], "other", options={"vni": "77"})


def test_a_daemon_without_a_cluster_says_how_to_get_one(hosts, tmp_path):
    from tests.unit.cluster.worlds import Reconciler

    from engine.network.manager import NetworkManager
    from engine.plugins import Plugins

    class Events:
        def emit(self, *_arguments):
            pass

    manager = NetworkManager(State(tmp_path / "alone"), Plugins(), Reconciler(), tmp_path / "n", Events())
    with pytest.raises(Unsupported, match=r"this daemon is in none .*--cluster etcd://"):
        manager.create("app", "routes")


def test_a_network_removed_while_a_host_was_away_goes_when_that_is_back(hosts):
    one, two, _ = hosts
    create(one)
    until(lambda: visible(two))
    two.kill()
    one.networks.remove("app")
    two.start()
    until(lambda: not visible(two))
    assert not two.networks.spanning.faults()


def test_what_somebody_takes_out_of_the_store_is_written_anew(hosts):
    one, two, _ = hosts
    network, store = create(one), one.cluster.store
    until(lambda: visible(two))
    one.attach("web", "app")
    two.attach("db", "app")
    until(lambda: len(one.reconciler.peers()) == len(two.reconciler.peers()) == 1)
    keys = {e.key for e in store.list("engine/1/").entries}
    for prefix in (NODES, NETWORKS, ENDPOINTS, "engine/1/"):
        store.commit([], [Delete(prefix, below=True)])
        for host in hosts:
            host.cluster.members._hurry.set()  # it looks every few seconds
        until(lambda: {e.key for e in store.list("engine/1/").entries} >= keys)
        until(lambda: len(one.reconciler.peers()) == len(two.reconciler.peers()) == 1)
    assert visible(two)[0].vni == network.vni
    assert {s.status for s in one.cluster.members.states()} == {"ready"}
    assert not one.networks.spanning.faults() + two.networks.spanning.faults()


def test_a_network_in_use_that_vanished_and_whose_name_another_one_has_is_said(hosts):
    one, two, _ = hosts
    network = create(one)
    until(lambda: visible(two))
    one.attach("web", "app")
    one.kill()
    one.cluster.store.commit([], [Delete(NETWORKS + network.id)])
    until(lambda: not visible(two))
    create(two)
    one.start()
    until(lambda: any("cannot be put back: network with name app" in f for f in one.networks.spanning.faults()))
    assert visible(one)[0].id == network.id


def test_all_hosts_may_prune_at_once(hosts):
    for n in range(10):
        create(hosts[0], f"app{n}")
    until(lambda: all(visible(host, "app9") for host in hosts))
    with ThreadPoolExecutor(len(hosts)) as pool:
        removed = list(pool.map(lambda host: host.networks.prune(), hosts))
    assert {name for names in removed for name in names} == {f"app{n}" for n in range(10)}
    until(lambda: not any(n.scope == "global" for host in hosts for n in host.networks.list()))


@pytest.mark.parametrize("seconds", [-1e9, 1e9])
def test_a_clock_that_jumps_is_no_matter(hosts, monkeypatch, seconds):
    one, two, _ = hosts
    create(one)
    until(lambda: visible(two))
    one.attach("web", "app")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + seconds)
    two.attach("db", "app")
    until(lambda: len(one.reconciler.peers()) == len(two.reconciler.peers()) == 1)
    for host in hosts:
        host.cluster.members._hurry.set()
    assert {s.status for s in one.cluster.members.states()} == {"ready"}


@pytest.mark.parametrize(
    ("held", "text"),
    [
        (b"\xff", "something that is not a cluster of Engine's"),
        (Identity(id="ab" * 16, spec=(9, 0)).encode(), r"another version.*network specification 9\.0"),
        (Identity(id="ab" * 16, spec=(1, 0), layout=(2, 3)).encode(), r"another version.*layout 2\.3"),
    ],
)
def test_a_store_of_others_is_refused_and_all_else_works(driver, tmp_path, held, text):
    store = MemoryStore()
    store.commit([], [Put(SPEC, held)])
    host = Host(tmp_path, store, 1)
    try:
        assert isinstance(host.cluster.members.fault, Unsupported)
        assert re.search(text, " ".join(host.networks.spanning.faults()))
        with pytest.raises(Unavailable, match=f"this node is not in the cluster.*{text}"):
            create(host)
        host.networks.create("local", "bridge")
        assert store.get(SPEC).value == held
    finally:
        host.close()
