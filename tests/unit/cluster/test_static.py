"""A file of peers in the place of a store."""

import json

import pytest
from tests.unit.cluster.store_contract import StoreContract, until
from tests.unit.cluster.worlds import Host

from engine.cluster.access import open_cluster
from engine.cluster.membership import Memory
from engine.cluster.model import ENDPOINTS, NETWORKS, ClusterEndpoint, ClusterNetwork
from engine.cluster.options import ClusterOptions, unpack_token
from engine.cluster.static import Partition, PeersFile, StaticStore
from engine.cluster.store import Put
from engine.spec.errors import InvalidParameter, Unsupported

NODES = [{"name": f"host{n}", "address": f"192.0.2.{n}"} for n in (1, 2, 3)]


def write(path, **changes):
    path.write_text(json.dumps({"cluster": "test", "nodes": NODES, "addresses_per_node": 8} | changes))
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "peers.json")


@pytest.fixture
def store(file, tmp_path):
    return StaticStore(Partition(PeersFile.read(file), "host1"), tmp_path / "own.json")


class TestStatic(StoreContract):
    pass


def network(name="app", subnet="10.9.0.0/24"):
    record = {"pools": [{"subnet": subnet, "gateway": "10.9.0.1"}]}
    return ClusterNetwork(id="ab" * 32, name=name, driver="x", vni=5000, record=record)


def test_a_network_brings_all_addresses_that_others_may_give(store, file, tmp_path):
    made = network()
    store.commit([], [Put(NETWORKS + made.id, made.encode())])
    found = [ClusterEndpoint.model_validate_json(e.value) for e in store.list(ENDPOINTS).entries]
    assert {e.node for e in found} == {"host2", "host3"}
    assert sorted(e.addresses[0] for e in found if e.node == "host2") == sorted(f"10.9.0.{n}/24" for n in range(8, 16))
    # On the other host the same ones have the same MAC.
    partition = Partition(PeersFile.read(file), "host2")
    seen = {e.addresses: e.mac for e in partition.assumed(made)}
    assert {e.addresses: e.mac for e in found if e.node == "host3"}.items() <= seen.items()
    # After a restart the network is there again.
    again = StaticStore(Partition(PeersFile.read(file), "host1"), tmp_path / "own.json")
    assert [e.key for e in again.list(NETWORKS).entries] == [NETWORKS + made.id]
    assert len(again.list(ENDPOINTS).entries) == len(found)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is no JSON"), ("[]", "is malformed"), ('{"nodes": []}', "nodes"),
        ('{"nodes": [{"name": "a", "address": "x"}]}', "nodes.0.address"),
        ('{"nodes": [{"name": "a", "address": "192.0.2.1"}, {"name": "a", "address": "192.0.2.2"}]}', "the name a"),
        ('{"nodes": [{"name": "a", "address": "192.0.2.1"}], "addresses_per_node": 7}', "no power of two"),
        ('{"nodes": [{"name": "a", "address": "192.0.2.1"}], "more": 1}', "more"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_name(tmp_path, text, why):
    path = tmp_path / "peers.json"
    path.write_text(text)
    with pytest.raises(InvalidParameter, match=f"{path}.*{why}"):
        PeersFile.read(path)


def test_a_node_that_is_not_in_the_file_is_refused(file):
    with pytest.raises(InvalidParameter, match="host9, is not in the file of peers: it has host1, host2, host3"):
        Partition(PeersFile.read(file), "host9")


@pytest.mark.usefixtures("driver")
def test_hosts_reach_each_other_without_a_word(file, tmp_path):
    (tmp_path / "s").mkdir()
    found = []
    for number in (1, 2):
        partition = Partition(PeersFile.read(file), f"host{number}")
        store = StaticStore(partition, tmp_path / f"{number}.json")
        found.append(Host(tmp_path / "s", store, number, partition=partition))
    try:
        one, two = found
        got = []
        for host in found:
            with pytest.raises(InvalidParameter, match="one subnet"):
                host.networks.create("app", "routes")
            with pytest.raises(InvalidParameter, match="too small"):
                host.networks.create("app", "routes", ipam=[{"Subnet": "10.9.0.0/30"}])
            ipam = [{"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1"}]
            got.append(host.networks.create("app", "routes", ipam=ipam))
        assert got[0].id == got[1].id
        assert got[0].vni == got[1].vni
        a, b = one.attach("web", "app"), two.attach("db", "app")
        assert a.addresses == ("10.9.0.2/24",)
        assert b.addresses == ("10.9.0.8/24",)
        until(lambda: "10.9.0.8/32 via 192.0.2.2" in one.reconciler.peers())
        until(lambda: "10.9.0.2/32 via 192.0.2.1" in two.reconciler.peers())
        entry = one.cluster.store.get(f"{ENDPOINTS}{a.network}/" + one.cluster.partition.network_id("x"))
        assert entry is None
        known = [ClusterEndpoint.model_validate_json(e.value) for e in one.cluster.store.list(ENDPOINTS).entries]
        assert next(e.mac for e in known if e.addresses == b.addresses) == b.mac
        with pytest.raises(Unsupported, match="cannot be chosen"):
            one.attach("more", "app", ip="10.9.0.5")
        one.detach("web", "app")
        one.networks.remove("app")
        assert not one.reconciler.peers()
        assert not one.cluster.store.list(ENDPOINTS).entries
    finally:
        for host in found:
            host.close()


# What a daemon is told


@pytest.mark.parametrize(
    ("url", "endpoints"),
    [
        ("etcd://a:1,b:2", ("a:1", "b:2")), ("etcd://a", ("a:2379",)),
        ("etcds://[2001:db8::1]:7/", ("[2001:db8::1]:7",)),
        ("file:///x", ()),
    ],
)  # fmt: skip
def test_urls(url, endpoints):
    assert ClusterOptions(url).endpoints == endpoints


@pytest.mark.parametrize("url", ["", "a:1", "http://a", "etcd://", "etcd://a:x", "etcd://u@a:1", "etcd://a:99999"])
def test_wrong_urls(url):
    with pytest.raises(InvalidParameter, match="is no cluster"):
        _ = ClusterOptions(url).endpoints


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"node": "a b"}, "no name for a node"), ({"advertise": "127.0.0.1"}, "cannot reach"),
        ({"advertise": "x"}, "no address"), ({"user": "u"}, "go together"), ({"ca": "/none"}, "cannot be read"),
        ({"certificate": "/none"}, "go together"),
    ],
)  # fmt: skip
def test_wrong_options(changes, why, tmp_path):
    options = ClusterOptions(**({"url": "etcd://192.0.2.9:1", "advertise": "192.0.2.1"} | changes))
    with pytest.raises(InvalidParameter, match=why):
        open_cluster(options, "id", "1", Memory(), tmp_path)


def test_a_token_takes_all_that_another_host_needs(tmp_path, file):
    for name, text in (("pw", "secret\n"), ("ca.pem", "PEM")):
        (tmp_path / name).write_text(text)
    options = ClusterOptions(
        "etcd://a:1", "192.0.2.1", "host1", "root", str(tmp_path / "pw"), str(tmp_path / "ca.pem"), wait=3.0, grace=9
    )
    found = unpack_token(f" {options.token()}\n", tmp_path / "other", advertise="192.0.2.2", node="host2")
    assert (found.url, found.advertise, found.node, found.user) == ("etcd://a:1", "192.0.2.2", "host2", "root")
    assert (found.wait, found.grace) == (3.0, 9)
    password = tmp_path / "other" / "password"
    assert found.password_file == str(password)
    assert password.read_text() == "secret\n"
    assert password.stat().st_mode & 0o777 == 0o600
    of_file = unpack_token(ClusterOptions(f"file://{file}").token(), tmp_path / "third")
    assert PeersFile.read(tmp_path / "third" / "peers") == PeersFile.read(file)
    assert of_file.url == f"file://{tmp_path / 'third' / 'peers'}"
    for wrong in ("", "x", "engine-join-", "engine-join-!!!!", "engine-join-e30"):
        with pytest.raises(InvalidParameter, match="no token"):
            unpack_token(wrong, tmp_path / "fourth")
