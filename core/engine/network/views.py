"""Networks and endpoints in the words of the Docker Engine API, and its filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from engine.filters import check_known, has_label, labels_match
from engine.network.model import Attachment, NetworkRecord
from engine.network.usage import usage
from engine.spec.errors import InvalidParameter
from engine.spec.values import family_of

JsonObject = dict[str, Any]
FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
PRUNE_FILTERS = ("label", "label!", "until")


def inspection(record: NetworkRecord, endpoints: Sequence[Attachment]) -> JsonObject:
    """Return GET /networks/ID."""
    return {
        "Name": record.name,
        "Id": record.id,
        "Created": record.created,
        "Scope": record.scope,
        "Driver": record.driver,
        "EnableIPv4": not record.pools or any(family_of(p.subnet) == 4 for p in record.pools),
        "EnableIPv6": record.ipv6,
        "IPAM": {
            "Driver": "default" if record.ipam_driver == "range" else record.ipam_driver,
            "Options": dict(record.ipam_options) or None,
            "Config": [_pool(pool) for pool in record.pools],
        },
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {e.container.id: _member(e) for e in endpoints},
        "Options": dict(record.given),
        "Labels": dict(record.labels),
        "Status": {"IPAM": {"Subnets": usage(record, endpoints)}},
    }


def _pool(pool: Any) -> JsonObject:
    fields = {"Subnet": pool.subnet, "IPRange": pool.ip_range, "Gateway": pool.gateway}
    result = {name: value for name, value in fields.items() if value}
    return result | ({"AuxiliaryAddresses": dict(pool.aux)} if pool.aux else {})


def _member(endpoint: Attachment) -> JsonObject:
    return {
        "Name": endpoint.container.name,
        "EndpointID": endpoint.id,
        "MacAddress": _mac(endpoint),
        "IPv4Address": next((a for a in endpoint.addresses if family_of(a) == 4), ""),
        "IPv6Address": next((a for a in endpoint.addresses if family_of(a) == 6), ""),
    }


def _mac(endpoint: Attachment) -> str:
    """Return the hardware address that the endpoint's link has of its own; "" where it has its parent's (ipvlan).

    The driver's plan says so: it gives the link the address, or does not.
    """
    own = f'"{endpoint.mac}"'
    return endpoint.mac if endpoint.addresses and own in endpoint.plan else ""


def endpoint_settings(endpoint: Attachment) -> JsonObject:
    """Return one value of NetworkSettings.Networks in a container's inspection."""
    wishes = {"IPv4Address": endpoint.settings.ip, "IPv6Address": endpoint.settings.ip6}
    by_family = {family_of(a): a.partition("/") for a in endpoint.addresses}
    gateways = {family_of(g): g for g in endpoint.network_gateways}
    names = [
        endpoint.container.name,
        *endpoint.settings.aliases,
        endpoint.container.id[:12],
        endpoint.container.hostname,
    ]
    return {
        "IPAMConfig": {k: v for k, v in wishes.items() if v} or None,
        "Links": None,
        "Aliases": list(endpoint.settings.aliases) or None,
        "MacAddress": _mac(endpoint),
        "DriverOpts": dict(endpoint.settings.driver_opts) or None,
        "GwPriority": endpoint.settings.gw_priority,
        "NetworkID": endpoint.network,
        "EndpointID": endpoint.id,
        "Gateway": gateways.get(4, ""),
        "IPAddress": by_family[4][0] if 4 in by_family else "",
        "IPPrefixLen": int(by_family[4][2]) if 4 in by_family else 0,
        "IPv6Gateway": gateways.get(6, ""),
        "GlobalIPv6Address": by_family[6][0] if 6 in by_family else "",
        "GlobalIPv6PrefixLen": int(by_family[6][2]) if 6 in by_family else 0,
        "DNSNames": list(dict.fromkeys(n for n in names if n)),
    }


def port_bindings(endpoints: Iterable[Attachment]) -> dict[str, list[JsonObject]]:
    """Return NetworkSettings.Ports of the ports that are published."""
    result: dict[str, list[JsonObject]] = {}
    for endpoint in endpoints:
        for port in endpoint.ports:
            host_ip = port.host_ip or ("0.0.0.0" if port.family == 4 else "::")
            if not port.host_port:  # open at the endpoint's own address: that is where it is reached
                host_ip = endpoint.address(port.family) or ""
            for n in range(port.count):
                binding = {"HostIp": host_ip, "HostPort": str(port.start + n)}
                result.setdefault(f"{port.target_port + n}/{port.protocol}", []).append(binding)
    return result


def matches(record: NetworkRecord, filters: Mapping[str, Sequence[str]], used: bool) -> bool:
    """Return whether a network passes the filters of GET /networks. Raises InvalidParameter for an unknown one."""
    check_known(filters, FILTERS)
    tests: dict[str, Callable[[str], bool]] = {
        "driver": lambda v: record.driver == v,
        "id": lambda v: v in record.id,
        "name": lambda v: v in record.name,
        "scope": lambda v: record.scope == v,
        "type": lambda v: _type(v) == ("builtin" if record.predefined else "custom"),
        "dangling": lambda v: (not used and not record.predefined) == (v.lower() in ("true", "1")),
    }
    labels = all(has_label(record.labels, value) for value in filters.get("label", ()))
    return labels and all(
        any(test(value) for value in filters[name]) for name, test in tests.items() if filters.get(name)
    )


def _type(value: str) -> str:
    if value not in ("builtin", "custom"):
        raise InvalidParameter(f"invalid type {value!r}", hint="Known: builtin, custom")
    return value


def prunable(record: NetworkRecord, filters: Mapping[str, Sequence[str]], until: float | None) -> bool:
    """Return whether an unused network passes the filters of POST /networks/prune."""
    check_known(filters, PRUNE_FILTERS)
    if until is not None and datetime.fromisoformat(record.created).timestamp() > until:
        return False
    return labels_match(record.labels, filters)
