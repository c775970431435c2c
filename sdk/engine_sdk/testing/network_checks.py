"""What a network driver must do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine_sdk import Address, Link, Plan, Veth
from engine_sdk.testing import network_requests as requests
from engine_sdk.testing.checks import Checks, NotDeclared, explain
from engine_sdk.testing.common_checks import add_common_checks, settling_twice_changes_nothing
from engine_sdk.testing.network_kernel_checks import add_kernel_checks
from engine_sdk.testing.network_requests import Case
from engine_sdk.testing.subject import Subject

CHECKS = Checks()
add_common_checks(CHECKS)


def _needs(condition: bool, what: str) -> None:
    if not condition:
        raise NotDeclared(f"driver does not declare {what}")


@CHECKS.pure
def settling_is_final(subject: Subject) -> None:
    """Options that were settled once stay as they are when they are settled again, and survive JSON."""
    subnets = requests.network(subject, requests.cases(subject)[0]).subnets

    def settle(options: Any) -> Any:
        answer = subject.ask("settle_network", options=options, subnets=subnets)
        return options if answer is None else answer

    settling_twice_changes_nothing(subject, settle)


def _plan_for(case: Case) -> None:
    """Register the check that there are plans for one variety of requests."""

    def body(subject: Subject) -> None:
        _needs(requests.applies(subject, case), "addresses" if case.families else "to do without addresses")
        net = requests.network(subject, case)
        requests.network_plan(subject, net)
        plan = requests.endpoint_plan(subject, net, requests.endpoint(subject, case, net))
        found = (a.address for a in plan.resources if isinstance(a, Address) and a.ns == "sandbox")
        addresses = {a.partition("/")[0] for a in found}
        given = {a.partition("/")[0] for a in requests.endpoint(subject, case, net).addresses}
        if subject.caps.sandbox == "private" and addresses != given:
            raise AssertionError(f"the endpoint was given {sorted(given)}, its plan has {sorted(addresses)}")

    name = f"has_a_plan_{case.name.replace('-', '_')}"
    CHECKS.add("pure", name, body, f"There are plans for a network and an endpoint: {case.name.replace('-', ' ')}.")


for _case in requests.CASES:
    _plan_for(_case)


@CHECKS.pure
def plans_survive_json(subject: Subject) -> None:
    """A plan that is written to JSON and read again is equal: it is all that the core keeps."""
    changed = [n for n, p in requests.all_plans(subject).items() if Plan.from_json(p.to_json()) != p]
    explain("plans that JSON changes", changed)


@CHECKS.pure
def plans_obey_the_rules(subject: Subject) -> None:
    """Plans name only links that the engine gave or the operator selected, and publish no ports."""
    from engine.network.vet import vet

    for case in requests.cases(subject):
        net = requests.network(subject, case)
        vet(requests.network_plan(subject, net), net, driver=subject.name)
        end = requests.endpoint(subject, case, net)
        vet(requests.endpoint_plan(subject, net, end), net, end, driver=subject.name)


def _sandbox_links(plan: Plan) -> set[str]:
    names: set[str] = set()
    for link in plan.resources:
        if isinstance(link, Veth) and link.peer_ns == "sandbox":
            names.add(link.peer)
        elif isinstance(link, Link) and link.ns == "sandbox":
            names.add(link.name)
    return names


@CHECKS.pure
def uses_the_given_name_in_the_sandbox(subject: Subject) -> None:
    """If the endpoint has a link in the sandbox, it has the name that the core gave: `endpoint.ifname`."""
    _needs(subject.caps.sandbox == "private", "a private sandbox")
    wrong = []
    for case in requests.cases(subject):
        net = requests.network(subject, case)
        for name in ("eth0", "net7"):
            found = _sandbox_links(
                requests.endpoint_plan(subject, net, requests.endpoint(subject, case, net, ifname=name))
            )
            if found and name not in found:
                wrong.append(f"{case.name}: given {name}, planned {', '.join(sorted(found))}")
    explain("links in the sandbox with a name of the driver's own", wrong)


def _collisions(plans: Iterable[tuple[str, Plan]]) -> list[str]:
    """Return the exclusive things on the host that more than one of the plans claims."""
    owners: dict[tuple[str, ...], str] = {}
    found = []
    for owner, plan in plans:
        for resource in plan.resources:
            if resource.SCOPE != "exclusive" or resource.namespace != "host":
                continue
            first = owners.setdefault(resource.key, owner)
            if first != owner:
                found.append(f"{'/'.join(resource.key)}: {first} and {owner}")
    return found


@CHECKS.pure
def networks_do_not_collide(subject: Subject) -> None:
    """Plans of two networks claim no thing on the host twice."""
    _needs(subject.caps.max_networks != 1, "more than one network")
    for case in requests.cases(subject):
        nets = {f"network {n}": requests.network(subject, case, n) for n in (1, 2)}
        plans = [(name, requests.network_plan(subject, net)) for name, net in nets.items()]
        for name, net in nets.items():
            end = requests.endpoint(subject, case, net)
            plans.append((f"the endpoint of {name}", requests.endpoint_plan(subject, net, end)))
        explain(f"{case.name}: claimed twice", _collisions(plans))


@CHECKS.pure
def endpoints_do_not_collide(subject: Subject) -> None:
    """Plans of two endpoints, and of the same endpoint attached again, claim no link on the host twice."""
    for case in requests.cases(subject):
        net = requests.network(subject, case)
        plans = [
            (f"endpoint {n}, attachment {g}", requests.endpoint_plan(subject, net, end))
            for n, g in ((1, 0), (2, 0))
            for end in (requests.endpoint(subject, case, net, n, generation=g),)
        ]
        explain(f"{case.name}: claimed twice", _collisions(plans))
        again = requests.endpoint_plan(subject, net, requests.endpoint(subject, case, net, generation=1))
        links = [(name, Plan.of(plan.by_kind(Link))) for name, plan in (plans[0], ("attached again", again))]
        explain(f"{case.name}: the old link's name is not free at once; claimed twice", _collisions(links))


@CHECKS.pure
def peers_have_a_plan(subject: Subject) -> None:
    """For each endpoint on another host there is a plan, and two of them do not collide."""
    _needs(subject.caps.scope == "global", 'scope "global"')
    for case in requests.cases(subject):
        net = requests.network(subject, case)
        plans = [(f"peer {n}", requests.peer_plan(subject, net, requests.peer(case, net, n))) for n in (1, 2)]
        if not any(len(plan) for _, plan in plans):
            raise AssertionError(f"{case.name}: the plan of a peer is empty, so that nothing can reach it")
        explain(f"{case.name}: claimed twice", _collisions(plans))


add_kernel_checks(CHECKS)
