from __future__ import annotations

import pytest
from tests.unit.reconcile.fakes import Early, Late, Thing

from engine.reconcile.order import creation_order, dependents, removal_order, runs
from engine.reconcile.wanted import Claim, Task
from engine.spec.errors import InvalidParameter
from engine.spec.firewall import Masquerade, PortMap, Segment
from engine.spec.links import Address, Bridge, BridgePort, Route, Veth
from engine.spec.resource import Plan


def tasks(*items) -> list[Task]:
    return Claim("owner", Plan.of(*items), None).tasks()


def names(found: list[Task]) -> list[str]:
    return [task.resource.key[-1] for task in found]


def test_phases_go_before_requirements_and_requirements_before_the_plans_order() -> None:
    found = creation_order(tasks(Late(name="z"), Thing(name="b", needs=("c",)), Thing(name="c"), Early(name="y")))
    assert names(found) == ["y", "c", "b", "z"]


def test_removal_is_the_reverse() -> None:
    plan = tasks(Thing(name="b", needs=("c",)), Thing(name="c"), Early(name="y"))
    assert names(removal_order(plan)) == ["b", "c", "y"]


def test_a_requirement_that_is_not_in_the_plan_does_not_count() -> None:
    assert names(creation_order(tasks(Thing(name="b", needs=("elsewhere",))))) == ["b"]


def test_a_thing_that_requires_itself_is_no_circle() -> None:
    assert names(creation_order(tasks(Thing(name="a", needs=("a",))))) == ["a"]


def test_a_circle_is_refused_with_its_path() -> None:
    circle = tasks(Thing(name="a", needs=("b",)), Thing(name="b", needs=("a",)))
    with pytest.raises(InvalidParameter, match="thing/host/a"):
        creation_order(circle)


def test_a_network_and_its_endpoint() -> None:
    port = PortMap(protocol="tcp", host_port=80, target="10.0.0.2", target_port=80)
    plan = tasks(
        port, Route(destination="0.0.0.0/0", via="10.0.0.1", link="eth0"), Address(link="eth0", address="10.0.0.2/24"),
        BridgePort(link="v", hairpin=True), Veth(name="v", peer="eth0", master="br"), Bridge(name="br"),
        Masquerade(subnet="10.0.0.0/24"), Segment(link="br"),
    )  # fmt: skip
    kinds = [task.resource.kind for task in creation_order(plan)]
    assert kinds == ["masquerade", "segment", "bridge", "veth", "bridge-port", "address", "route", "port"]
    kinds = [task.resource.kind for task in removal_order(plan)]
    assert kinds[0] == "port"  # exposure goes first, policy last
    assert set(kinds[-2:]) == {"masquerade", "segment"}


def test_dependents_are_found_through_others_and_through_the_other_end_of_a_pair() -> None:
    pair = Veth(name="v", peer="eth0", master="br")
    plan = tasks(Bridge(name="br"), pair, Address(link="eth0", address="10.0.0.2/24"), Thing(name="x"))
    assert [t.resource.kind for t in dependents(plan[:1], plan)] == ["veth", "address"]
    assert dependents(plan[:1], plan, Task.lives_on) == []  # a port outlives its bridge
    assert [t.resource.kind for t in dependents([plan[1]], plan, Task.lives_on)] == ["address"]


def test_runs() -> None:
    assert runs([1, 1, 2, 1], lambda n: n) == [[1, 1], [2], [1]]
