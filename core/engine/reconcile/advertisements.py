"""Router advertisements: ignored by every link of ours on the host, and in sandboxes unless a container asks.

Whoever is on a link's wire can send one, a container on the bridge of an IPv4-only network too. A host that listens
takes an address, a default route and name servers from it, so that its traffic goes by way of the sender
(CVE-2020-13401). Links that are not ours stay as they are.
"""

from __future__ import annotations

import struct
from pathlib import Path

from engine.reconcile.rtnetlink import attributes

CONF = Path("/proc/sys/net/ipv6/conf")
SWITCHES = ("accept_ra", "autoconf")
"""Whether advertisements are taken, and whether addresses are made from them."""
NEW_LINKS = "default"
"""Stands for the links that are made later in a namespace, or are moved to it."""
_AF_INET6, _IFLA_INET6_CONF = 10, 2
_ACCEPT_RA, _AUTOCONF = 3, 5  # places in the array (uapi/linux/ipv6.h)


def ignore(link: str) -> None:
    """Let a link in the calling thread's namespace take none. A link that is up may have taken one before."""
    try:
        for switch in SWITCHES:
            (CONF / link / switch).write_text("0")
    except FileNotFoundError:
        return  # no IPv6 in this kernel, or on this link: its MTU is too small


def are_heeded(af_spec: bytes) -> bool:
    """Tell from a link's IFLA_AF_SPEC whether it takes any."""
    settings = attributes(attributes(af_spec).get(_AF_INET6, b"")).get(_IFLA_INET6_CONF, b"")
    values = struct.unpack(f"={len(settings) // 4}i", settings[: len(settings) // 4 * 4])
    return any(values[place : place + 1] not in ((), (0,)) for place in (_ACCEPT_RA, _AUTOCONF))
