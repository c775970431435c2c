"""Requests for network drivers: what the core would hand in, in every variety that a driver must cope with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine_sdk import Endpoint, EngineError, LinkFact, Network, Peer, Plan, Subnet
from engine_sdk.testing.checks import NotDeclared
from engine_sdk.testing.subject import Subject


@dataclass(frozen=True)
class Case:
    """A variety of requests."""

    name: str
    families: tuple[int, ...] = ()
    """Address families of the network's subnets."""
    internal: bool = False
    leased: bool = True
    """The endpoint has its addresses already."""


CASES = (
    Case("ipv4", (4,)),
    Case("ipv6", (6,)),
    Case("dual-stack", (4, 6)),
    Case("internal", (4,), internal=True),
    Case("addresses-to-come", (4, 6), leased=False),
    Case("no-addresses"),
    Case("no-addresses-internal", internal=True),
)


def applies(subject: Subject, case: Case) -> bool:
    """Return whether the core would ask this driver so: with IPAM there are subnets, without there are none."""
    return bool(case.families) == bool(subject.caps.addresses)


def cases(subject: Subject) -> list[Case]:
    """Return the varieties that the driver has plans for.

    Those that it refuses are left out, and so are its failures: each variety has a check of its own that shows them.
    The last failure is raised if nothing is left.
    """
    answered: list[Case] = []
    failure: Exception | None = None
    for case in CASES:
        if applies(subject, case):
            try:
                endpoint_plan(subject, net := network(subject, case), endpoint(subject, case, net))
            except (NotDeclared, AssertionError, EngineError) as err:
                failure = err
            else:
                answered.append(case)
    if failure and not answered:
        raise failure
    return answered


def _prefix(family: int, number: int) -> str:
    return f"10.211.{number}.0/24" if family == 4 else f"fd00:ec:{number}::/64"


def _address(family: int, number: int, host: int) -> str:
    return f"10.211.{number}.{host}" if family == 4 else f"fd00:ec:{number}::{host:x}"


def network(subject: Subject, case: Case, number: int = 1) -> Network[Any]:
    """Return a network as the core would hand it in; networks of other numbers have nothing in common."""
    subnets = tuple(Subnet(prefix=_prefix(f, number), gateway=_address(f, number, 1)) for f in case.families)
    identifier = f"{number:02x}" * 32
    return Network(
        id=identifier,
        name=f"conformance{number}",
        driver=subject.name,
        options=subject.settle(subnets),
        labels={"made-by": "the conformance kit"},
        subnets=subnets,
        internal=case.internal,
        mac=f"02:ec:00:00:{number:02x}:00",
        ifname=f"ecn{identifier[:9]}",
        links={
            option: LinkFact(
                name=name,
                mtu=1450,
                mac=f"02:ec:ff:00:00:{n:02x}",
                addresses=(f"198.18.{n}.2/24", f"fd00:ec:ff:{n:x}::2/64"),
            )
            for n, (option, name) in enumerate(subject.parents.items())
        },
        **(_of_cluster(number) if subject.caps.scope == "global" else {}),
    )


def _of_cluster(number: int) -> dict[str, Any]:
    """Return what only networks that span hosts have. The peers' hosts are in the same prefix."""
    underlay = LinkFact(name="ecu0", mtu=1450, mac="02:ec:ff:00:00:ff", addresses=("192.0.2.200/24",))
    return {"vni": 4096 + number, "host": "192.0.2.200", "underlay": underlay}


def endpoint(
    subject: Subject, case: Case, net: Network[Any], number: int = 1, *, generation: int = 0, ifname: str = "eth0"
) -> Endpoint:
    """Return an endpoint of that network; with another generation it is the same endpoint, attached again."""
    where = int(net.id[:2], 16)
    families = case.families if case.leased else ()
    return Endpoint(
        id=f"{number:02x}{net.id[:2]}" * 16,
        generation=generation,
        ifname=ifname,
        host_ifname=f"ecv{where:02x}{number:02x}{generation:02x}",
        mac=f"02:ec:00:01:{where:02x}:{number:02x}",
        addresses=tuple(f"{_address(f, where, number + 1)}/{24 if f == 4 else 64}" for f in families),
        gateways=() if case.internal else tuple(_address(f, where, 1) for f in families),
        container_id=f"{number:02x}" * 32,
        container_name=f"box{number}",
        hostname=f"box{number}",
        labels={"number": str(number)},
        aliases=(f"alias{number}",),
    )


def peer(case: Case, net: Network[Any], number: int = 1) -> Peer:
    """Return an endpoint of that network on another host."""
    where = int(net.id[:2], 16)
    return Peer(
        id=f"{number:02x}fe" * 16,
        host=f"192.0.2.{number}",
        mac=f"02:ec:00:02:{where:02x}:{number:02x}",
        addresses=tuple(f"{_address(f, where, 100 + number)}/{24 if f == 4 else 64}" for f in case.families),
    )


def network_plan(subject: Subject, net: Network[Any]) -> Plan:
    """Ask for the network's plan; no answer means that nothing must exist."""
    return _plan("network_plan", subject.ask("network_plan", network=net))


def endpoint_plan(subject: Subject, net: Network[Any], end: Endpoint) -> Plan:
    """Ask for the endpoint's plan. A driver that uses the host's namespace has none."""
    if subject.caps.sandbox == "host":
        return Plan()
    return _plan("endpoint_plan", subject.ask("endpoint_plan", network=net, endpoint=end))


def peer_plan(subject: Subject, net: Network[Any], other: Peer) -> Plan:
    """Ask for the plan of a remote endpoint."""
    return _plan("peer_plan", subject.ask("peer_plan", network=net, peer=other))


def _plan(operation: str, answer: object) -> Plan:
    if answer is None:
        return Plan()
    if not isinstance(answer, Plan):
        raise AssertionError(f"{operation} returned {type(answer).__name__}: {answer!r}; a Plan is expected")
    return answer


def all_plans(subject: Subject) -> dict[str, Plan]:
    """Return every plan that this kit asks for, by a name that says which."""
    plans: dict[str, Plan] = {}
    for case in cases(subject):
        net = network(subject, case)
        plans[f"{case.name}/network"] = network_plan(subject, net)
        ends = {
            "first": endpoint(subject, case, net),
            "second": endpoint(subject, case, net, 2, ifname="eth1"),
            "first-again": endpoint(subject, case, net, generation=1),
        }
        plans |= {f"{case.name}/{which}": endpoint_plan(subject, net, end) for which, end in ends.items()}
        if subject.caps.scope == "global":
            plans[f"{case.name}/peer"] = peer_plan(subject, net, peer(case, net))
    return plans


def answers(subject: Subject) -> dict[str, str]:
    """Return every plan as text, to compare with those of another time and place."""
    return {name: plan.to_json() for name, plan in all_plans(subject).items()}
