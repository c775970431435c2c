"""A container that asks for its own published port, where the kernel filters bridged frames (br_netfilter).

dockerd and others load that module for the whole machine. With it the port's address is rewritten while the frame is
still in the bridge, which then forwards it by itself, and drops what would go back by the port that it came from,
unless that port is in hairpin mode. Without the module the host routes such a packet, and the mode is of no account.

It is set whether or not ports are published, so that publishing one later stays a change of the firewall alone.
"""

from __future__ import annotations

from engine.spec.links import BridgePort, Veth
from engine.spec.resource import Plan


def with_hairpin(plan: Plan, ifname: str) -> Plan:
    """Return an endpoint's plan in which the bridge may send back to the endpoint what came from it.

    `ifname` is the endpoint's link in the sandbox. A driver that sets the mode itself has the last word, and a plan
    without a port of a bridge stays as it is.
    """
    name = next((r.name for r in plan.resources if isinstance(r, Veth) and _leads_to(r, ifname)), None)
    if name is None:
        return plan
    ports = (r for r in plan.resources if isinstance(r, BridgePort) and (r.ns, r.link) == ("host", name))
    port = next(ports, BridgePort(link=name))
    if port.hairpin is not None:
        return plan
    others = (resource for resource in plan.resources if resource is not port)
    return Plan.of(others, port.model_copy(update={"hairpin": True}))


def _leads_to(pair: Veth, ifname: str) -> bool:
    return bool(pair.master) and (pair.ns, pair.peer_ns, pair.peer) == ("host", "sandbox", ifname)
