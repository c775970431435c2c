"""Which ports are taken, in memory."""

import pytest

from engine.network.model import PortRequest, PortSpan, PublishedPort
from engine.network.ports import RUN, Ports, carve, port_resources, routed_families
from engine.spec.errors import Conflict, InvalidParameter, Unavailable
from engine.spec.firewall import OpenPort, PortMap, Segment
from engine.spec.resource import Plan

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


RANGE = PublishedPort(protocol="tcp", host_ip="", family=4, host_port=8000, target_port=80, count=10)


def span(port: int, count: int = 1, **fields: object) -> PortSpan:
    return PortSpan.model_validate({"host_port": port, "count": count, **fields})


def test_a_piece_is_cut_out_of_a_range():
    left, taken = carve([RANGE], [span(8003, 2)])
    assert [(p.host_port, p.target_port, p.count) for p in left] == [(8000, 80, 3), (8005, 85, 5)]
    assert [(p.host_port, p.target_port, p.count) for _, p in taken] == [(8003, 83, 2)]
    assert carve([RANGE], [span(7990, 100)]) == ([], [(span(7990, 100), RANGE)])
    left, taken = carve([RANGE], [span(8000), span(8009)])
    assert [p.host_port for p in left] == [8001]
    assert [p.host_port for _, p in taken] == [8000, 8009]


@pytest.mark.parametrize("other", [
    span(8003, protocol="udp"), span(8003, host_ip="127.0.0.1"), span(8003, host_ip="::"), span(8003, target_port=84),
    span(7999), span(8010),
])  # fmt: skip
def test_what_is_not_meant_stays(other: PortSpan):
    assert carve([RANGE], [other]) == ([RANGE], [])


def test_the_address_that_is_shown_and_the_target_may_be_named():
    assert carve([RANGE], [span(8003, host_ip="0.0.0.0", target_port=83)])[1]


def test_ports_of_routed_families_are_opened_and_take_nothing():
    ports = Ports()
    targets = {4: "10.0.0.2", 6: "fd00::2"}
    requests = [PortRequest(target_port=80, host_port=8123)]
    first = ports.publish(requests, targets, "a", "a", routed=[6])
    assert [(p.family, p.host_port, p.start) for p in first] == [(4, 8123, 8123), (6, 0, 80)]
    ports.publish(requests, {6: "fd00::3"}, "b", "b", routed=[6])
    with pytest.raises(Conflict, match="container a"):
        ports.publish(requests, targets, "c", "c", routed=[])
    assert port_resources(first, targets) == [
        PortMap(protocol="tcp", host_port=8123, target="10.0.0.2", target_port=80),
        OpenPort(address="fd00::2", protocol="tcp", port=80),
    ]
    assert [p.target_port for _, p in carve(first, [span(80)])[1]] == [80]
    assert routed_families(Plan.of(Segment(link="b", routed=(4,)))) == {4}
