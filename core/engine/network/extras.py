"""What an endpoint's options ask for that no driver need know of: kernel parameters and limits of its link.

The link is found in the driver's plan: a pair whose one end has the endpoint's name in the sandbox, or a link of that
name. A pair is shaped at its end on the host, where the container cannot undo it; another link in the sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from engine.network.model import Attachment
from engine.spec.errors import InvalidParameter, Unsupported
from engine.spec.links import Ifb, Link, Redirect, Shape, Sysctl, Veth
from engine.spec.network import Network
from engine.spec.resource import Ns, Plan, Resource
from engine.spec.values import Rate

SYSCTLS = "com.docker.network.endpoint.sysctls"
"""Endpoint option: `net.ipv4.conf.IFNAME.arp_notify=1`, several with commas; IFNAME stands for the link's name."""
RATE, RATE_IN = "rate", "rate-in"
"""Endpoint options: what the container may send, and receive."""
BURST_SECONDS = 0.01
"""At high rates so much traffic may pass at once: a shorter time than the kernel's timers would cost throughput."""
BURST = 65_536
_rate: TypeAdapter[int] = TypeAdapter(Rate)


def extras(plan: Plan, network: Network[Any], attachment: Attachment) -> list[Resource]:
    """Return the resources that a driver's plan of an endpoint is completed with.

    Raises InvalidParameter for a malformed option, Unsupported when the endpoint has no link that could be shaped.
    """
    options = attachment.settings.driver_opts
    sysctls = list(_sysctls(options.get(SYSCTLS, ""), attachment.ifname))
    sent = _limit(options, RATE, getattr(network.options, "rate", None))
    received = _limit(options, RATE_IN, getattr(network.options, "rate_in", None))
    if not (sysctls or sent or received):
        return []
    place = _place(plan, attachment.ifname)
    if place is None:
        raise Unsupported(
            f"the link of container {attachment.container.name} on network {network.name} cannot be set up",
            why="the endpoint has no link of its own",
            hint=f"Leave out {SYSCTLS}, {RATE} and {RATE_IN}",
            driver=network.driver,
        )
    ns, link = place
    # Seen from the host's end, what the container sends comes in.
    leaving, entering = (received, sent) if ns == "host" else (sent, received)
    ifb = f"ifb{attachment.id[:11]}" if ns == "host" else f"ifb-{attachment.ifname}"[:15]
    return [*sysctls, *_shaping(ns, link, ifb, leaving, entering)]


def _shaping(ns: Ns, link: str, ifb: str, leaving: int | None, entering: int | None) -> Iterable[Resource]:
    if leaving:
        yield _bucket(ns, link, leaving)
    if entering:
        yield Ifb(name=ifb, ns=ns)
        yield _bucket(ns, ifb, entering)
        yield Redirect(ns=ns, link=link, to=ifb)


def _bucket(ns: Ns, link: str, rate: int) -> Shape:
    return Shape(ns=ns, link=link, rate=rate, burst=max(BURST, int(rate * BURST_SECONDS / 8)))


def _place(plan: Plan, ifname: str) -> tuple[Ns, str] | None:
    for resource in plan.resources:
        if isinstance(resource, Veth) and (resource.peer_ns, resource.peer) == ("sandbox", ifname):
            return resource.ns, resource.name
        if isinstance(resource, Link) and (resource.ns, resource.name) == ("sandbox", ifname):
            return "sandbox", ifname
    return None


def _limit(options: Mapping[str, str], name: str, default: int | None) -> int | None:
    if name not in options:
        return default
    try:
        return _rate.validate_python(options[name])
    except ValidationError as err:
        raise InvalidParameter(f"invalid endpoint option {name}={options[name]}", why=err.errors()[0]["msg"]) from err


def _sysctls(text: str, ifname: str) -> Iterable[Sysctl]:
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        name = name.strip().replace("/", ".")
        if not equals or not re.fullmatch(r"net\.(ipv4|ipv6|mpls)\.[a-z]+\.IFNAME\.[a-z0-9_]+", name):
            raise InvalidParameter(
                f"invalid endpoint sysctl {item!r}",
                hint="Expected for example net.ipv4.conf.IFNAME.arp_notify=1, where IFNAME stands for the link's name",
            )
        yield Sysctl(name=name.replace("IFNAME", "{link}"), value=value.strip(), link=ifname)
