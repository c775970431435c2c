"""The firewall as text: one static ruleset in a table of our own, and what resources put into its sets and maps.

    guard        what comes from a wire for 127.0.0.0/8 is dropped (route_localnet would let it in)
    user         the operator's: traffic that comes in, before a published port's address is rewritten; never touched
    prerouting,
    output       published ports: the exact host address first, then any address of the host
    forward      segments are kept apart
    arriving,
    leaving      what tunnels carry in clear is dropped where it must be encrypted
    postrouting  source addresses of what leaves, and of what could not find its way back otherwise

What `forward` lets pass gets a mark, so that another firewall with a policy of "drop" can be told to let it pass too.
What comes from dockerd's networks, or goes there, gets none: dockerd decides.
Single ports are in hash maps and only ranges in interval maps, whose changes cost time in proportion to their size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from engine.spec.firewall import Masquerade, OpenPort, PortMap, SealedPort, Segment
from engine.spec.resource import Resource
from engine.spec.values import IpAddress, Prefix, bits_of, family_of

MARK_PASSED = 0x01000000
"""Set on packets that the engine's firewall lets pass."""
MARK_HAIRPIN = 0x02000000
"""Set on packets that go back to the segment that they came from, by way of a published port."""
OPERATORS_CHAIN = "user"
DOCKERS_LINKS = "dockers"
"""Set of the links of dockerd's networks, kept by `foreign_firewall`: no resource has elements in it."""

_IPV4, _IPV6 = ("4", "ip", "ipv4_addr"), ("6", "ip6", "ipv6_addr")
_CHAINS: dict[str, str] = {
    "guard": "type filter hook prerouting priority raw",
    "before": "type filter hook prerouting priority dstnat - 5",
    "prerouting": "type nat hook prerouting priority dstnat",
    "output": "type nat hook output priority -100",
    "publish": "",
    "everywhere": "",
    "forward": "type filter hook forward priority filter - 5",
    "segment": "",
    "passed": "",
    "arriving": "type filter hook input priority filter - 5",
    "leaving": "type filter hook output priority filter - 5",
    "postrouting": "type nat hook postrouting priority srcnat",
}


def _sets() -> dict[str, tuple[str, str]]:
    """Return "set" or "map", and the type, by name."""
    sets = dict.fromkeys(("segments", "internal", "closed"), ("set", "type ifname;"))
    sets[DOCKERS_LINKS] = ("set", "type ifname;")
    sets |= dict.fromkeys(("same", "trusted"), ("set", "type ifname . ifname;"))
    sets |= {"sealed": ("set", "type inet_service;"), "seals": ("set", "type inet_service . ifname;")}
    port = "inet_proto . inet_service"
    for digit, _, address in (_IPV4, _IPV6):
        sets |= {
            f"masquerade{digit}": ("set", f"type {address}; flags interval;"),
            f"routed{digit}": ("set", "type ifname;"),
            f"unprotected{digit}": ("set", "type ifname;"),
            f"open{digit}": ("set", f"type {address} . {port}; flags interval;"),
            f"port{digit}": ("map", f"type {port} : {address} . inet_service;"),
            f"at{digit}": ("map", f"type {address} . {port} : {address} . inet_service;"),
            f"range{digit}": ("map", f"type {port} : {address}; flags interval;"),
            f"rangeat{digit}": ("map", f"type {address} . {port} : {address}; flags interval;"),
        }
    return sets


def _rules() -> Iterable[tuple[str, str]]:
    yield "guard", 'iifname != "lo" ip daddr 127.0.0.0/8 drop'
    yield "guard", 'iifname != "lo" ip saddr 127.0.0.0/8 drop'
    yield "before", f"jump {OPERATORS_CHAIN}"
    # The kernel takes in no answer for ::1 from a link: better a refusal at once, after which clients try 127.0.0.1.
    yield "output", "ip6 daddr ::1 return"
    for hook in ("prerouting", "output"):
        yield hook, "meta l4proto { tcp, udp, sctp } jump publish"
    for digit, family, _ in (_IPV4, _IPV6):
        protocol = f"meta nfproto ipv{digit}"
        yield "publish", f"{protocol} dnat {family} to {family} daddr . meta l4proto . th dport map @at{digit}"
        yield "publish", f"{protocol} dnat {family} to {family} daddr . meta l4proto . th dport map @rangeat{digit}"
        yield "everywhere", f"{protocol} dnat {family} to meta l4proto . th dport map @port{digit}"
        yield "everywhere", f"{protocol} dnat {family} to meta l4proto . th dport map @range{digit}"
    yield "publish", "fib daddr type local jump everywhere"
    yield "forward", "iifname @segments jump segment"
    yield "forward", "oifname @segments jump segment"
    yield "segment", f"iifname . oifname @same ct status dnat meta mark set meta mark or {MARK_HAIRPIN} jump passed"
    yield "segment", "iifname . oifname @same iifname != @closed jump passed"
    yield "segment", "iifname @internal drop"
    yield "segment", "oifname @internal drop"
    yield "segment", "ct state established,related jump passed"
    yield "segment", "ct status dnat jump passed"
    for digit, family, _ in (_IPV4, _IPV6):
        yield "segment", f"{family} daddr . meta l4proto . th dport @open{digit} jump passed"
    yield "segment", "oifname @routed4 meta l4proto icmp jump passed"
    yield "segment", "oifname @routed6 meta l4proto ipv6-icmp jump passed"
    yield "segment", "iifname . oifname @trusted jump passed"
    for digit, _, _ in (_IPV4, _IPV6):
        yield "segment", f"meta nfproto ipv{digit} iifname != @segments oifname @unprotected{digit} jump passed"
    yield "segment", "oifname @segments drop"
    yield "segment", "jump passed"
    yield "passed", f"iifname != @segments iifname @{DOCKERS_LINKS} accept"
    yield "passed", f"oifname != @segments oifname @{DOCKERS_LINKS} accept"
    yield "passed", f"meta mark set meta mark or {MARK_PASSED} accept"
    yield "arriving", "udp dport @sealed udp dport . iifname != @seals drop"
    yield "leaving", "udp dport @sealed udp dport . oifname != @seals drop"
    yield "postrouting", f"meta mark and {MARK_HAIRPIN} == {MARK_HAIRPIN} masquerade"
    yield "postrouting", 'ip saddr 127.0.0.0/8 oifname != "lo" ct status dnat masquerade'
    for digit, family, _ in (_IPV4, _IPV6):
        yield "postrouting", f"{family} saddr @masquerade{digit} oifname != @segments masquerade"


SETS = tuple(name for name in _sets() if name != DOCKERS_LINKS)
"""Sets and maps that resources have elements in."""


def script(table: str) -> str:
    """Return the commands that make the ruleset, or restore it: elements and the operator's chain are kept."""
    where = f"inet {table}"
    lines = [f"add table {where}", f"add chain {where} {OPERATORS_CHAIN}"]
    lines += [f"add {what} {where} {name} {{ {definition} }}" for name, (what, definition) in _sets().items()]
    for name, hook in _CHAINS.items():
        body = f" {{ {hook}; policy accept; }}" if hook else ""
        lines += [f"add chain {where} {name}{body}", f"flush chain {where} {name}"]
    lines += [f"add rule {where} {chain} {rule}" for chain, rule in _rules()]
    return "\n".join(lines)


VERSION = f"v_{hashlib.sha256(script('').encode()).hexdigest()[:12]}"
"""Name of an empty set that says which ruleset a table holds."""


def fingerprint(listing: Iterable[Mapping[str, Any]]) -> str:
    """Return the name of an empty set that vouches for a listed table: no rule, chain or set is missing or foreign."""
    kept: list[str] = []
    for item in listing:
        ((what, body),) = item.items()
        name = str(body.get("name", ""))
        if what in ("metainfo", "element") or name.startswith(("h_", "v_")) or body.get("chain") == OPERATORS_CHAIN:
            continue
        body = {key: value for key, value in body.items() if key not in ("handle", "elem")}
        kept.append(json.dumps({what: body}, sort_keys=True))
    return f"h_{hashlib.sha256(chr(10).join(kept).encode()).hexdigest()[:12]}"


class Element(NamedTuple):
    """One element of a set (no data) or a map."""

    set: str
    key: str
    data: str = ""

    def text(self) -> str:
        """Return it as nft writes it."""
        return f"{self.key} : {self.data}" if self.data else self.key


class Ruleset(Resource):
    """The static part of the firewall. The applier makes it when it is first needed; no plan contains it."""

    PHASE: ClassVar[int] = 4
    FAMILY: ClassVar[str] = "firewall"
    ID: ClassVar[tuple[str, ...]] = ("table",)

    kind: Literal["ruleset"] = "ruleset"
    table: str
    families: tuple[int, ...] = (4,)
    """Those whose packets are to be forwarded: 4, 6."""


def families_of(item: Resource) -> set[int]:
    """Return the address families whose forwarding a resource needs."""
    match item:
        case Ruleset():
            return set(item.families)
        case PortMap():
            return {item.target_family}
        case Masquerade():
            return {4 if bits_of(item.subnet) == 32 else 6}
        case OpenPort():
            return {family_of(item.address)}
        case Segment():
            return {4, *item.routed, *item.unprotected}
        case SealedPort():
            return set()
    return {4}


def elements(item: Resource) -> list[Element]:
    """Return what a resource puts into sets and maps."""
    match item:
        case Segment():
            name = f'"{item.link}"'
            found = [Element("segments", name), Element("same", f"{name} . {name}")]
            found += [Element("internal", name)] if item.internal else []
            found += [Element(f"routed{family}", name) for family in item.routed]
            found += [Element(f"unprotected{family}", name) for family in item.unprotected]
            found += [Element("trusted", f'"{link}" . {name}') for link in item.trusted]
            return found + ([] if item.inter_container else [Element("closed", name)])
        case Masquerade():
            return [Element(f"masquerade{4 if bits_of(item.subnet) == 32 else 6}", _prefix(item.subnet))]
        case SealedPort():
            return [Element("sealed", f"{item.port}"), Element("seals", f'{item.port} . "{item.link}"')]
        case OpenPort():
            ports = f"{item.port}-{item.port + item.count - 1}" if item.count > 1 else f"{item.port}"
            return [Element(f"open{family_of(item.address)}", f"{item.address} . {item.protocol} . {ports}")]
        case PortMap():
            return _port(item)
    return []


def _prefix(subnet: Prefix) -> str:
    """A prefix of full length comes back as an address."""
    return subnet.removesuffix(f"/{bits_of(subnet)}")


def is_everywhere(address: IpAddress | None) -> bool:
    """Tell whether a host address means every address."""
    return address in (None, "0.0.0.0", "::")


def _port(item: PortMap) -> list[Element]:
    at, prefix = ("", "") if is_everywhere(item.host_ip) else ("at", f"{item.host_ip} . ")
    family = item.target_family
    if item.count > 1 and item.host_port == item.target_port:
        ports = f"{item.host_port}-{item.host_port + item.count - 1}"
        return [Element(f"range{at}{family}", f"{prefix}{item.protocol} . {ports}", item.target)]
    return [
        Element(
            f"{at or 'port'}{family}",
            f"{prefix}{item.protocol} . {item.host_port + n}",
            f"{item.target} . {item.target_port + n}",
        )
        for n in range(item.count)
    ]


def read_elements(listing: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return data by key by set, from a table as libnftables lists it in JSON."""
    found: dict[str, dict[str, str]] = {name: {} for name in SETS}
    for item in listing:
        body = item.get("set") or item.get("map") or {}
        if body.get("name") in found:
            found[body["name"]].update(_pair(element) for element in body.get("elem", ()))
    return found


def _pair(element: Any) -> tuple[str, str]:
    if isinstance(element, list):
        return _value(element[0]), _value(element[1])
    return _value(element), ""


def _value(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    ((what, body),) = value.items()
    match what:
        case "elem":
            return _value(body["val"])
        case "concat":
            return " . ".join(_value(part) for part in body)
        case "prefix":
            return f"{body['addr']}/{body['len']}"
        case "range":
            return f"{body[0]}-{body[1]}"
    return json.dumps(value)
