"""The kernel's switches that the firewall relies on: IP forwarding, and loopback traffic that may leave.

All are set, and never restored: nobody knows who else relies on them by then.
"""

from __future__ import annotations

import struct
from pathlib import Path

from engine.reconcile import messages as m
from engine.reconcile.observation import number
from engine.reconcile.rtnetlink import Message, NetlinkSocket, attr, attributes
from engine.reconcile.ruleset import is_everywhere
from engine.reconcile.settings import Settings
from engine.spec.firewall import PortMap
from engine.spec.values import pack

IPV4 = Path("/proc/sys/net/ipv4")
IPV6 = Path("/proc/sys/net/ipv6/conf")
_SWITCH = {4: IPV4 / "ip_forward", 6: IPV6 / "all" / "forwarding"}


class Forwarding:
    """Reads and sets the switches in the namespace of the calling thread; remembers what it has set."""

    def __init__(self, settings: Settings | None = None) -> None:
        """`settings` watches the switches that are on."""
        self._settings = settings
        self._on: set[int] = set()
        self._open: set[int] = set()

    def is_on(self, family: int) -> bool:
        """Tell whether packets of a family are forwarded. Without IPv6 in the kernel there is nothing to turn on."""
        try:
            on = _SWITCH[family].read_text().strip() != "0"
        except FileNotFoundError:
            return family == 6
        if on:
            self._keep(_SWITCH[family])
        else:
            self._on.discard(family)
        return on

    def _keep(self, switch: Path) -> None:
        if self._settings and switch.exists():
            self._settings.keep(switch, "1")

    def turn_on(self, family: int) -> None:
        """Forward packets of a family.

        A forwarding host ignores router advertisements, and so loses the default route that it learned from them,
        unless `accept_ra` is 2 (Documentation/networking/ip-sysctl.rst).
        """
        if family in self._on or self.is_on(family):
            self._on.add(family)
            return
        if family == 6:
            for accept in IPV6.glob("*/accept_ra"):
                if accept.parent.name not in ("all", "default", "lo") and accept.read_text().strip() == "1":
                    accept.write_text("2")
        _SWITCH[family].write_text("1")
        self._keep(_SWITCH[family])
        self._on.add(family)

    def let_loopback_reach(self, port: PortMap) -> None:
        """Let connections to 127.0.0.1 that are rewritten to the port's target leave through the link to it."""
        index, name = _way(port)
        if index and index not in self._open:
            _loopback_switch(name).write_text("1")
            self._keep(_loopback_switch(name))
            self._open.add(index)

    def loopback_reaches(self, port: PortMap) -> bool:
        """Tell whether nothing keeps connections to 127.0.0.1 from the port's target."""
        index, name = _way(port)
        open_ = not index or _loopback_switch(name).read_text().strip() == "1"
        if not open_:
            self._open.discard(index)
        elif index:
            self._keep(_loopback_switch(name))
        return open_


def _loopback_switch(link: str) -> Path:
    return IPV4 / "conf" / link / "route_localnet"


def _way(port: PortMap) -> tuple[int, str]:
    """Return index and name of the link to a port's target, if connections to 127.0.0.1 are to go there."""
    local = is_everywhere(port.host_ip) or str(port.host_ip).startswith("127.")
    if port.target_family == 6 or not local:
        return 0, ""
    request = struct.pack("=BBBBBBBBI", m.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0) + attr(m.RTA_DST, pack(port.target))
    with NetlinkSocket() as sock:
        answer = sock.ask(Message(m.RTM_GETROUTE, 0, request))
        index = number(attributes(answer, 12).get(m.RTA_OIF)) if answer else 0
        return index, sock.name(index) if index else ""
