"""Which ports are taken, in memory."""

import pytest

from engine.network.model import PortRequest
from engine.network.ports import RUN, Ports, port_resources
from engine.spec.errors import Conflict, InvalidParameter, Unavailable
from engine.spec.links import PortMap

V4 = {4: "10.0.0.2"}


@pytest.fixture(autouse=True)
def free_host(monkeypatch):
    """Let the host have every address, and no process listen anywhere."""
    monkeypatch.setattr("engine.network.ports._probe", lambda port, number: None)


def publish(ports, owner, *requests, targets=V4, binding=""):
    return ports.publish([PortRequest(**r) for r in requests], targets, owner, f"container {owner}", binding)


def test_conflicts_are_by_address_protocol_and_family():
    ports = Ports()
    publish(ports, "a", {"target_port": 80, "host_port": 80, "host_ip": "127.0.0.1"})
    publish(ports, "b", {"target_port": 80, "host_port": 80, "host_ip": "192.0.2.1"})
    publish(ports, "c", {"target_port": 80, "host_port": 80, "protocol": "udp"})
    publish(ports, "d", {"target_port": 80, "host_port": 80}, targets={6: "fd00::2"})
    for host_ip in ("", "0.0.0.0", "127.0.0.1"):
        with pytest.raises(Conflict, match=r"already published by container container [ab]"):
            publish(ports, "e", {"target_port": 81, "host_port": 80, "host_ip": host_ip})


def test_all_or_none_and_release():
    ports = Ports()
    publish(ports, "a", {"target_port": 80, "host_port": 80})
    before = dict(ports._taken)
    with pytest.raises(Conflict):
        publish(ports, "b", {"target_port": 1, "host_port": 81}, {"target_port": 2, "host_port": 80})
    assert ports._taken == before
    got = publish(ports, "b", {"target_port": 1, "host_port": 81})
    ports.release(got, "b")
    assert ports._taken == before


def test_a_run_of_ports_is_one_range_that_meets_single_ports():
    ports = Ports()
    run = [{"target_port": 100 + n, "host_port": 200 + n} for n in range(RUN)]
    got = publish(ports, "a", *run, {"target_port": 1, "host_port": 2})
    assert sorted((p.host_port, p.target_port, p.count) for p in got) == [(2, 1, 1), (200, 100, RUN)]
    with pytest.raises(Conflict):
        publish(ports, "b", {"target_port": 1, "host_port": 200 + RUN - 1})
    with pytest.raises(Conflict):
        publish(ports, "b", *[{"target_port": n + 1, "host_port": 190 + n} for n in range(RUN)])
    short = publish(ports, "b", *[{"target_port": n + 1, "host_port": 300 + n} for n in range(RUN - 1)])
    assert {p.count for p in short} == {1}
    with pytest.raises(Conflict):
        publish(ports, "c", *[{"target_port": n + 1, "host_port": 290 + n} for n in range(RUN)])


def test_chosen_ports(tmp_path, monkeypatch):
    range_file = tmp_path / "range"
    range_file.write_text("40000\t40003\n")
    monkeypatch.setattr("engine.network.ports._EPHEMERAL", range_file)
    ports = Ports()
    got = publish(ports, "a", *[{"target_port": n} for n in (1, 2, 3)])
    assert [p.host_port for p in got] == [40000, 40001, 40002]
    ports.release(got, "a")
    assert publish(ports, "a", {"target_port": 1})[0].host_port == 40003
    assert [p.host_port for p in publish(ports, "b", *[{"target_port": n} for n in (1, 2, 3)])] == [40000, 40001, 40002]
    with pytest.raises(Unavailable, match="no host port is free for 9/tcp"):
        publish(ports, "c", {"target_port": 9})
    both = publish(Ports(), "a", {"target_port": 1}, targets={4: "10.0.0.2", 6: "fd00::2"})
    assert [(p.family, p.host_port) for p in both] == [(4, 40000), (6, 40000)]


def test_addresses():
    assert publish(Ports(), "a", {"target_port": 1, "host_port": 1, "host_ip": "0.0.0.0"})[0].host_ip == ""
    bound = publish(Ports(), "a", {"target_port": 1, "host_port": 1}, binding="127.0.0.1")
    assert bound[0].host_ip == "127.0.0.1"
    with pytest.raises(InvalidParameter, match="no IPv6 address"):
        publish(Ports(), "a", {"target_port": 1, "host_port": 1, "host_ip": "::"})
    with pytest.raises(InvalidParameter, match="no address"):
        publish(Ports(), "a", {"target_port": 1, "host_port": 1}, targets={})
    maps = port_resources(bound, V4)
    assert maps == [PortMap(protocol="tcp", host_ip="127.0.0.1", host_port=1, target="10.0.0.2", target_port=1)]


def test_what_an_earlier_process_published_is_taken():
    ports = Ports()
    ports.adopt(publish(Ports(), "a", {"target_port": 1, "host_port": 1}), "a", "old")
    with pytest.raises(Conflict, match="container old"):
        publish(ports, "b", {"target_port": 1, "host_port": 1})
