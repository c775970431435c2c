"""Published ports: `-p [[ip:][host port or range]:]container port or range[/protocol]`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any, TypedDict

from engine.cli.errors import BadValue, did_you_mean

PROTOCOLS = ("tcp", "udp", "sctp")


class Binding(TypedDict):
    """One host side of a published port, in the API's words."""

    HostIp: str
    HostPort: str


def _protocol(flag: str, whole: str, text: str) -> tuple[str, str]:
    ports, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in PROTOCOLS:
        raise BadValue(
            flag, whole, f"unknown protocol {protocol!r}{did_you_mean(protocol, PROTOCOLS)}; use tcp, udp or sctp"
        )
    return ports, protocol


def port_range(flag: str, whole: str, text: str) -> tuple[int, int]:
    """Parse `80` or `8000-8010`. Raises BadValue."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text, re.ASCII)
    if found is None:
        raise BadValue(flag, whole, f"{text!r} is neither a port nor a range of ports")
    low = int(found[1])
    high = int(found[2]) if found[2] else low
    if not 1 <= low <= 65535 or not 1 <= high <= 65535:
        raise BadValue(flag, whole, f"{text!r} is outside 1-65535")
    if high < low:
        raise BadValue(flag, whole, f"the range {text!r} goes backwards")
    return low, high


def _address(flag: str, whole: str, text: str) -> str:
    if not text:
        return ""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        raise BadValue(flag, whole, f"{text!r} is no IP address") from None


def _split(flag: str, whole: str, text: str) -> tuple[str, str, str]:
    """Split into address, host ports, container ports; the address may be a bracketed IPv6 one."""
    if text.startswith("["):
        address, closing, rest = text.partition("]")
        if not closing or not rest.startswith(":"):
            raise BadValue(flag, whole, "expected [ipv6]:hostPort:containerPort")
        parts = rest[1:].split(":")
        address += "]"
    else:
        address, *parts = text.split(":")
        if not parts:
            return "", "", address
        if len(parts) == 1:
            return "", address, parts[0]
    if len(parts) != 2:
        raise BadValue(flag, whole, "expected [[ip:]hostPort:]containerPort[/protocol]")
    return address, parts[0], parts[1]


def publish(flag: str, text: str) -> list[tuple[str, Binding]]:
    """Parse one `-p`: a list of ("80/tcp", binding). Raises BadValue."""
    ports, protocol = _protocol(flag, text, text)
    address, host, container = _split(flag, text, ports)
    ip = _address(flag, text, address)
    if not container:
        raise BadValue(flag, text, "the container's port is missing")
    low, high = port_range(flag, text, container)
    if not host:
        return [(f"{port}/{protocol}", Binding(HostIp=ip, HostPort="")) for port in range(low, high + 1)]
    host_low, host_high = port_range(flag, text, host)
    if high == low and host_high != host_low:  # any one of a range of host ports
        return [(f"{low}/{protocol}", Binding(HostIp=ip, HostPort=f"{host_low}-{host_high}"))]
    if host_high - host_low != high - low:
        raise BadValue(flag, text, f"{host} and {container} are ranges of different lengths")
    return [(f"{low + n}/{protocol}", Binding(HostIp=ip, HostPort=str(host_low + n))) for n in range(high - low + 1)]


def published(flag: str, texts: Iterable[str]) -> dict[str, list[Binding]]:
    """Parse all `-p`: container port -> host sides. Raises BadValue."""
    bindings: dict[str, list[Binding]] = {}
    for text in texts:
        for port, binding in publish(flag, text):
            bindings.setdefault(port, []).append(binding)
    return bindings


def span(flag: str, text: str) -> dict[str, Any]:
    """Parse which published ports are meant, `[hostIp:]host[-host][:port][/protocol]`, in the API's words.

    Raises BadValue.
    """
    ports, protocol = _protocol(flag, text, text)
    if short := re.fullmatch(r"(\[[^\]]*\]|[^:\[]*\.[^:\[]*):([^:]+)", ports):  # an address and a host port
        address, host, container = short[1], short[2], ""
    else:
        address, host, container = _split(flag, text, ports)
        if not host:
            host, container = container, ""
    low, high = port_range(flag, text, host)
    found: dict[str, Any] = {"HostIp": _address(flag, text, address), "HostPort": low, "Count": high - low + 1}
    if container:
        target, last = port_range(flag, text, container)
        if last - target not in (0, high - low):
            raise BadValue(flag, text, f"{host} and {container} are ranges of different lengths")
        found["ContainerPort"] = target
    return found | {"Protocol": protocol}


def exposed(flag: str, texts: Iterable[str]) -> list[str]:
    """Parse all `--expose`: `80`, `8000-8010/udp`. Raises BadValue."""
    found = []
    for text in texts:
        ports, protocol = _protocol(flag, text, text)
        low, high = port_range(flag, text, ports)
        found += [f"{port}/{protocol}" for port in range(low, high + 1)]
    return found
