"""Networks of a new container: `--network NAME` and `--network name=…,ip=…,alias=…`, repeatable."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.cli.errors import BadValue, Failure, did_you_mean
from engine.cli.parse.pairs import ip_address, mac_address

_KEYS = (
    "name", "alias", "driver-opt", "ip", "ip6", "link-local-ip", "mac-address", "gw-priority", "ifname", "sysctl",
    "rate", "rate-in",
)  # fmt: skip
_REPEATED = ("alias", "driver-opt", "link-local-ip", "sysctl")
_SHORT = {"mac": "mac-address"}
IFNAME, SYSCTLS = "com.docker.network.endpoint.ifname", "com.docker.network.endpoint.sysctls"
"""What docker calls these endpoint options."""


@dataclass(frozen=True)
class Attachment:
    """One network that a container joins."""

    network: str
    aliases: tuple[str, ...] = ()
    ip: str = ""
    ip6: str = ""
    mac: str = ""
    link_local: tuple[str, ...] = ()
    gw_priority: int = 0
    driver_opts: dict[str, str] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """Whether the mode has no endpoint of its own (host, none, container:X)."""
        return self.network in ("host", "none") or self.network.startswith("container:")

    def settings(self) -> dict[str, Any]:
        """Return the API's EndpointSettings."""
        found: dict[str, Any] = {}
        if self.aliases:
            found["Aliases"] = list(self.aliases)
        ipam = {
            "IPv4Address": self.ip, "IPv6Address": self.ip6, "LinkLocalIPs": list(self.link_local),
        }  # fmt: skip
        if any(ipam.values()):
            found["IPAMConfig"] = {k: v for k, v in ipam.items() if v}
        if self.mac:
            found["MacAddress"] = self.mac
        if self.gw_priority:
            found["GwPriority"] = self.gw_priority
        if self.driver_opts:
            found["DriverOpts"] = self.driver_opts
        return found


def attachment(flag: str, text: str) -> Attachment:
    """Parse one `--network`: a name, or `NAME:ip=…,alias=…`, or docker's `name=…,ip=…`. Raises BadValue."""
    if "=" not in text:
        if not text:
            raise BadValue(flag, text, "the name is empty")
        return Attachment(text)
    short = re.fullmatch(r"([^=,:]+):(.+)", text)
    text_fields = f"name={short[1]},{short[2]}" if short and short[1] != "name" else text
    values: dict[str, list[str]] = {}
    for item in next(csv.reader([text_fields])):
        key, equals, value = item.partition("=")
        key = _SHORT.get(key.strip().lower(), key.strip().lower())
        if key not in _KEYS:
            raise BadValue(flag, text, f"unknown key {key!r}{did_you_mean(key, _KEYS)}")
        if not equals or not value:
            raise BadValue(flag, text, f"{key!r} needs a value")
        if key in values and key not in _REPEATED:
            raise BadValue(flag, text, f"{key!r} is given twice")
        values.setdefault(key, []).append(value)
    if "name" not in values:
        raise BadValue(flag, text, "name=NETWORK is missing")
    return Attachment(
        values["name"][0],
        aliases=tuple(values.get("alias", ())),
        ip=ip_address(flag, values["ip"][0], text, 4) if "ip" in values else "",
        ip6=ip_address(flag, values["ip6"][0], text, 6) if "ip6" in values else "",
        mac=mac_address(flag, values["mac-address"][0]) if "mac-address" in values else "",
        link_local=tuple(ip_address(flag, a, text) for a in values.get("link-local-ip", ())),
        gw_priority=_priority(flag, text, values["gw-priority"][0]) if "gw-priority" in values else 0,
        driver_opts=_endpoint_options(flag, text, values),
    )


def _priority(flag: str, text: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise BadValue(flag, text, f"gw-priority={value} is no number") from None


def _endpoint_options(flag: str, text: str, values: dict[str, list[str]]) -> dict[str, str]:
    """Return the options of the endpoint: those given as such, and those that have a word of their own."""
    found = {}
    for option in values.get("driver-opt", ()):
        name, equals, value = option.partition("=")
        if not equals:
            raise BadValue(flag, text, f"driver-opt={option} is no key=value")
        found[name] = value
    if "ifname" in values:
        found[IFNAME] = values["ifname"][0]
    if "sysctl" in values:
        found[SYSCTLS] = ",".join([*filter(None, [found.get(SYSCTLS)]), *values["sysctl"]])
    return found | {name: values[name][0] for name in ("rate", "rate-in") if name in values}


def attachments(
    texts: Sequence[str], *, aliases: Sequence[str] = (), ip: str = "", ip6: str = "", mac: str = "",
    link_local: Sequence[str] = (),
) -> list[Attachment]:  # fmt: skip
    """Parse all `--network`; the flags `--ip`, `--network-alias` … complete the first one. Raises BadValue, Failure."""
    found = [attachment("--network", text) for text in texts]
    names = [a.network for a in found]
    for name in names:
        if names.count(name) > 1:
            raise BadValue("--network", name, "the network is given twice")
    modes = [a.network for a in found if a.alone]
    if modes and len(found) > 1:
        raise BadValue("--network", modes[0], "it cannot be combined with other networks")
    if not (aliases or ip or ip6 or mac or link_local):
        return found
    first = found[0] if found else Attachment("default")
    if first.alone and (aliases or ip or ip6):
        flag = "--network-alias" if aliases else "--ip" if ip else "--ip6"
        raise Failure(f"{flag} does not go with --network {first.network}", 125)
    merged = Attachment(
        first.network,
        aliases=(*first.aliases, *aliases),
        ip=ip_address("--ip", ip, version=4) if ip else first.ip,
        ip6=ip_address("--ip6", ip6, version=6) if ip6 else first.ip6,
        mac=mac_address("--mac-address", mac) if mac else first.mac,
        link_local=(*first.link_local, *(ip_address("--link-local-ip", a) for a in link_local)),
        gw_priority=first.gw_priority,
        driver_opts=first.driver_opts,
    )
    return [merged, *found[1:]]
