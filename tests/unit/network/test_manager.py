"""Networks as records: what is refused, what is found, what clients see. Nothing touches the host."""

import json

import pytest

from engine.network.manager import NetworkManager
from engine.network.model import ContainerRef, EndpointSettings, PortRequest
from engine.network.replanning import elect
from engine.plugins import Plugins
from engine.reconcile.applier import Sandbox
from engine.spec.errors import (
    ApplyFailed,
    Conflict,
    Forbidden,
    InvalidParameter,
    NotFound,
    Unavailable,
    Unsupported,
)
from engine.state import State


class FakeReconciler:
    """Remembers plans, and fails on demand."""

    def __init__(self):
        self.plans, self.fail = {}, None

    def apply(self, owner, plan, *, sandbox=None, creating=False):
        if self.fail and owner.startswith(self.fail):
            raise ApplyFailed("injected")
        self.plans[owner] = plan

    def remove(self, owner, *, namespace_gone=False):
        self.plans.pop(owner, None)
        return []

    def adopt(self, owner, plan, *, sandbox=None):
        self.plans[owner] = plan

    def plan_of(self, owner):
        return self.plans.get(owner)


class World:
    def __init__(self, path):
        self.path, self.events, self.reconciler = path, [], FakeReconciler()
        self.open()

    def open(self):
        self.state = State(self.path / "db")
        self.plugins = Plugins()
        self.networks = NetworkManager(self.state, self.plugins, self.reconciler, self.path / "netns", self)

    def emit(self, type, action, id, attributes=None):
        self.events.append((type, action, id, attributes))

    def attach(self, name, network, **settings):
        ref = ContainerRef(id=name.encode().hex().ljust(64, "0"), name=name, hostname=name)
        ports = settings.pop("ports", ())
        sandbox = Sandbox(self.path / "netns" / ref.id)
        return self.networks.attach(network, ref, sandbox, EndpointSettings(**settings), ports)

    def rows(self):
        return [
            self.state._db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in ("objects", "claims")
        ]


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.network.hostnet.routed_prefixes", lambda: ("172.17.0.0/16", "10.1.0.0/16"))
    monkeypatch.setattr("engine.network.hostnet.link_names", lambda: ["eth0"])
    monkeypatch.setattr("engine.network.ports._probe", lambda port, number: None)
    return World(tmp_path)


def test_the_predefined_networks_are_there_and_stay(world):
    world.networks.restore([])
    names = {n.name: n for n in world.networks.list()}
    assert set(names) == {"bridge", "host", "none"}
    assert names["bridge"].pools[0].subnet == "172.18.0.0/16"
    with pytest.raises(Forbidden, match="predefined"):
        world.networks.remove("bridge")
    world.open()
    world.networks.restore([])
    assert {n.name: n.id for n in world.networks.list()} == {n.name: n.id for n in names.values()}
    assert world.networks.default_network("bridge").id == names["bridge"].id


def test_default_networks_of_drivers_and_options(world):
    world.networks.restore([])
    plain = world.networks.default_network("bridge")
    small = world.networks.default_network("bridge", {"mtu": "1400"})
    assert plain.predefined
    assert small.name.startswith("bridge-")
    assert len(small.name) == len("bridge-") + 6
    assert world.networks.default_network("bridge", {"com.docker.network.driver.mtu": "1400"}).id == small.id
    world.open()
    assert world.networks.default_network("bridge", {"mtu": "1400"}).id == small.id


@pytest.mark.parametrize(
    ("request_", "kind", "text"),
    [
        ({"name": "taken"}, Conflict, "already exists"),
        ({"name": "-x"}, InvalidParameter, "no name for a network"),
        ({"name": "default"}, InvalidParameter, "no name for a network"),
        ({"driver": "brigde"}, NotFound, "Did you mean 'bridge'"),
        ({"options": {"mtuu": "1"}}, InvalidParameter, "unknown option 'mtuu'.*Did you mean 'mtu'"),
        ({"options": {"mtu": "many"}}, InvalidParameter, "mtu: "),
        ({"options": {"com.docker.network.bridge.name": "much-too-long-name"}}, InvalidParameter, "no name for a link"),
        ({"options": {"com.docker.network.bridge.name": "lo"}}, Conflict, "has a link lo already"),
        ({"ipam_driver": "rnage"}, NotFound, "Did you mean 'range'"),
        ({"ipam_options": {"x": "1"}}, InvalidParameter, "unknown option 'x'"),
        ({"ipam": [{"Subnet": "10.5.0.0"}]}, InvalidParameter, "10.5.0.0"),
        ({"ipam": [{"Subnet": "10.5.0.1/24"}]}, InvalidParameter, "should be 10.5.0.0/24"),
        ({"ipam": [{"Subnet": "10.5.0.0/33"}]}, InvalidParameter, "10.5.0.0/33"),
        ({"ipam": [{"Subnet": "10.5.0.0/24", "Gateway": "10.6.0.1"}]}, InvalidParameter, "10.6.0.1 is not in"),
        ({"ipam": [{"Subnet": "10.5.0.0/24", "Gateway": "x"}]}, InvalidParameter, "malformed IPAM"),
        ({"ipam": [{"Subnet": "10.9.128.0/17"}]}, Conflict, "overlaps 10.9.0.0/16 of network taken"),
        ({"ipam": [{"Subnet": "10.5.0.0/24"}, {"Subnet": "10.5.0.0/25"}]}, Conflict, "overlaps"),
        ({"ipam": [{"Subnet": "127.9.0.0/16"}]}, InvalidParameter, "127.0.0.0/8 is loopback"),
        ({"ipam": [{"Subnet": "0.0.0.0/0"}]}, InvalidParameter, "cannot be used"),
        ({"ipam": [{"Subnet": "224.1.0.0/24"}]}, InvalidParameter, "multicast"),
        ({"ipam": [{"Subnet": "255.255.255.0/24"}]}, InvalidParameter, "240.0.0.0/4 is reserved"),
        ({"ipam": [{"Subnet": "fe80::/64"}]}, InvalidParameter, "neighbours on one link"),
        ({"ipam": [{"Subnet": "ff05::/64"}]}, InvalidParameter, "multicast"),
        ({"driver": "macvlan", "options": {"parent": "eth9"}}, Unavailable, "no link 'eth9'.*Links: eth0"),
        ({"driver": "macvlan", "options": {"parent": "mac:zz"}}, InvalidParameter, "malformed link selector"),
        ({"driver": "none", "ipam": [{"Subnet": "10.5.0.0/24"}]}, Unsupported, "no addresses"),
    ],
)
def test_bad_requests_leave_nothing(world, request_, kind, text):
    world.networks.create("taken", ipam=[{"Subnet": "10.9.0.0/16"}])
    before, world.events[:] = world.rows(), []
    with pytest.raises(kind, match=text):
        world.networks.create(**{"name": "new", "driver": "bridge"} | request_)
    assert world.rows() == before
    assert world.events == []


def test_finding_listing_and_removing(world):
    one = world.networks.create("one", labels={"tier": "db"})
    two = world.networks.create("two", internal=True, attachable=True)
    for ref in ("one", one.id, one.id[:8]):
        assert world.networks.get(ref).id == one.id
    with pytest.raises(NotFound, match="network three not found"):
        world.networks.get("three")
    assert [n.name for n in world.networks.list({"label": ["tier=db"]})] == ["one"]
    assert [n.name for n in world.networks.list({"name": ["o"], "driver": ["bridge"], "type": ["custom"]})] == [
        "one",
        "two",
    ]
    with pytest.raises(InvalidParameter, match="invalid filter 'nmae'"):
        world.networks.list({"nmae": ["x"]})
    a = world.attach("a", "two")
    with pytest.raises(Conflict, match="network two is in use by a"):
        world.networks.remove("two")
    assert list(world.networks.prune({"label!": ["tier"]})) == []
    assert list(world.networks.prune()) == ["one"]
    world.networks.detach(a.container.id, "two")
    world.networks.remove(two.id)
    assert world.rows() == [[], []]
    assert [e[1] for e in world.events] == ["create", "create", "connect", "destroy", "disconnect", "destroy"]


def test_what_docker_clients_see(world):
    net = world.networks.create(
        "net", options={"com.docker.network.driver.mtu": "1400"},
        ipam=[{"Subnet": "10.5.0.0/24", "AuxiliaryAddresses": {"nas": "10.5.0.2"}}], labels={"a": "b"},
    )  # fmt: skip
    a = world.attach("a", "net", aliases=("db",), ports=[PortRequest(target_port=80, host_port=8080)])
    shown = world.networks.inspect(net)
    assert shown["IPAM"]["Config"] == [
        {"Subnet": "10.5.0.0/24", "Gateway": "10.5.0.1", "AuxiliaryAddresses": {"nas": "10.5.0.2"}}
    ]
    assert shown["Options"] == {"com.docker.network.driver.mtu": "1400"}
    assert shown["Containers"][a.container.id]["IPv4Address"] == "10.5.0.3/24"
    seen = world.networks.inspect_endpoints(a.container.id)["net"]
    assert (seen["IPAddress"], seen["IPPrefixLen"], seen["Gateway"]) == ("10.5.0.3", 24, "10.5.0.1")
    assert seen["DNSNames"][:2] == ["a", "db"]
    assert world.networks.port_bindings(a.container.id) == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}


@pytest.mark.parametrize("owner", ["net:", "ep:"])
def test_a_failed_attachment_gives_everything_back(world, owner):
    world.networks.create("net", ipam=[{"Subnet": "10.5.0.0/30"}])
    world.reconciler.fail = owner
    before = world.rows()
    for _ in range(3):
        with pytest.raises(ApplyFailed):
            world.attach("a", "net", ports=[PortRequest(target_port=80, host_port=8080)])
    assert world.reconciler.plans == {}
    assert [r[:3] for r in world.rows()[0]] == [r[:3] for r in before[0]]
    assert world.rows()[1] == before[1] == []
    world.reconciler.fail = None
    assert world.attach("a", "net", ports=[PortRequest(target_port=80, host_port=8080)]).addresses == ("10.5.0.2/30",)


def test_a_container_that_comes_back_has_its_address_if_that_is_free(world):
    world.networks.create("n", ipam=[{"Subnet": "10.9.0.0/29"}], ipv6=True)
    first = world.attach("first", "n")
    world.attach("second", "n")
    world.networks.detach(first.container.id, "n", namespace_gone=True)
    world.open()
    assert world.attach("third", "n").addresses[0] == "10.9.0.4/29"
    assert world.attach("first", "n").addresses == first.addresses
    world.networks.detach(first.container.id, "n", namespace_gone=True)
    assert world.attach("thief", "n", ip="10.9.0.2").addresses[0] == first.addresses[0]
    assert world.attach("first", "n").addresses[0] == "10.9.0.5/29"


def test_the_dead_that_come_back_have_their_addresses_and_few_are_remembered(world, monkeypatch):
    monkeypatch.setattr("engine.network.recalling.RECALLED", 2)
    record = world.networks.create("n", ipam=[{"Subnet": "10.9.0.0/24"}])
    had = {name: world.attach(name, "n").addresses for name in ("a", "b", "c")}
    world.open()
    world.networks.restore(set())
    [[_, id, _, doc]] = [row for row in world.rows()[0] if row[0] == "last-addresses"]
    recalled = list(json.loads(doc)["names"])
    assert (id, len(recalled)) == (record.id, 2)
    assert [world.attach(name, "n").addresses for name in recalled[::-1]] == [had[name] for name in recalled[::-1]]
    world.networks.restore(set())
    world.networks.remove("n")
    assert not [row for row in world.rows()[0] if row[0] == "last-addresses"]


def test_restore_wants_the_living_and_forgets_the_dead(world):
    world.networks.create("net", ipam=[{"Subnet": "10.5.0.0/24"}])
    a = world.attach("a", "net", ports=[PortRequest(target_port=80, host_port=8080)])
    b = world.attach("b", "net")
    plans = dict(world.reconciler.plans)
    world.reconciler = FakeReconciler()
    world.open()
    world.networks.restore([a.container.id])
    assert world.reconciler.plans == {k: v for k, v in plans.items() if k != b.owner}
    assert world.networks.attachments(a.container.id) == [a]
    assert world.networks.attachments(b.container.id) == []
    with pytest.raises(Conflict, match=r"10\.5\.0\.2.*container a"):
        world.attach("c", "net", ip="10.5.0.2")
    with pytest.raises(Conflict, match="published by container a"):
        world.attach("c", "net", ports=[PortRequest(target_port=80, host_port=8080)])
    assert world.attach("c", "net").addresses == ("10.5.0.3/24",)


def test_who_has_the_default_route():
    assert elect([("1", "b", 0, ["10.0.0.1"]), ("2", "a", 0, ["10.1.0.1", "fd00::1"])]) == {4: "2", 6: "2"}
    assert elect([("1", "b", 7, ["10.0.0.1"]), ("2", "a", 0, ["10.1.0.1", "fd00::1"])]) == {4: "1", 6: "2"}
    assert elect([("1", "b", 9, [])]) == {}
