"""Published ports, from the API's words to the network manager's."""

from __future__ import annotations

from collections.abc import Mapping

from engine.container.config import Config, HostConfig, PortBinding
from engine.network.model import PortRequest
from engine.spec.errors import InvalidParameter

PROTOCOLS = ("tcp", "udp", "sctp")


def parse_port(name: str) -> tuple[int, str]:
    """Return (port, protocol) of `80/tcp` or `80`. Raises InvalidParameter."""
    number, _, protocol = name.partition("/")
    protocol = protocol or "tcp"
    if not number.isdecimal() or not 1 <= int(number) <= 65535:
        raise InvalidParameter(f"invalid port {name!r}", hint="Expected 1 to 65535, for example 80/tcp.")
    if protocol not in PROTOCOLS:
        raise InvalidParameter(
            f"invalid protocol {protocol!r} of port {name!r}", hint=f"Known: {', '.join(PROTOCOLS)}."
        )
    return int(number), protocol


def requested_ports(config: Config, host: HostConfig) -> list[PortRequest]:
    """Return what is to be published. Raises InvalidParameter for a malformed port or address."""
    requests = port_requests(host.port_bindings)
    if host.publish_all_ports:
        bound = {parse_port(name) for name in host.port_bindings}
        requests += [_request(name, PortBinding()) for name in config.exposed_ports if parse_port(name) not in bound]
    return requests


def port_requests(bindings: Mapping[str, list[PortBinding] | None]) -> list[PortRequest]:
    """Return what the API's PortBindings ask for. Raises InvalidParameter."""
    return [_request(name, binding) for name, found in bindings.items() for binding in (found or [PortBinding()])]


def _request(name: str, binding: PortBinding) -> PortRequest:
    port, protocol = parse_port(name)
    low, _, high = binding.host_port.partition("-")
    if not all(p.isdecimal() and int(p) <= 65535 for p in (low or "0", high or "0")):
        raise InvalidParameter(f"invalid host port {binding.host_port!r} for {name}")
    return PortRequest(
        protocol=protocol,
        target_port=port,
        host_ip=binding.host_ip,
        host_port=int(low or 0),
        host_port_end=int(high or low or 0),
    )
