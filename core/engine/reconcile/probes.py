"""What this kernel can do, found out by doing it in a network namespace of the probe's own; asked once per process.

Versions and configuration files say less: modules may be missing, or forbidden.
"""

from __future__ import annotations

import errno
import threading
from functools import cache

from engine.reconcile import messages as m
from engine.reconcile.netns import unshare_network
from engine.reconcile.rtnetlink import Message, NetlinkSocket, attr
from engine.spec.links import Bridge, Dummy, Ifb, Ipvlan, Link, Macvlan, Vlan, Vxlan

_PARENT, _CHILD = 1000, 1001
_SAMPLES: dict[str, Link] = {
    "bridge": Bridge(name="probe"),
    "dummy": Dummy(name="probe"),
    "ifb": Ifb(name="probe"),
    "ipvlan": Ipvlan(name="probe", parent="parent", ns="host"),
    "macvlan": Macvlan(name="probe", parent="parent", ns="host"),
    "vlan": Vlan(name="probe", parent="parent", vid=2),
    "vxlan": Vxlan(name="probe", vni=1, local="192.0.2.1"),
}
KINDS = (*sorted(_SAMPLES), "veth")


@cache
def link_kind_supported(kind: str) -> bool:
    """Tell whether links of a kind can be made. OSError: trying is not allowed; ValueError: there is no such probe."""
    if kind not in KINDS:
        raise ValueError(f"no probe for links of kind {kind!r}; there are {', '.join(KINDS)}")
    answer: list[int | OSError] = []

    def probe() -> None:
        try:
            unshare_network()
            with NetlinkSocket() as sock:
                answer.append(_try(sock, kind))
        except OSError as err:
            answer.append(err)

    thread = threading.Thread(target=probe, name="probe")
    thread.start()
    thread.join()
    (result,) = answer
    if isinstance(result, OSError):
        raise result
    return result == 0


def _try(sock: NetlinkSocket, kind: str) -> int:
    """Make a link of that kind; return 0 or the errno that says that the kernel has none. Other errors are raised."""
    veth = attr(m.IFLA_LINKINFO, attr(m.INFO_KIND, "veth"))
    pair = Message(m.RTM_NEWLINK, m.NEW, m.ifinfo(_PARENT) + attr(m.IFLA_IFNAME, "parent") + veth)
    (ack,) = sock.send([pair])
    if kind != "veth" and not ack.errno:
        sample = _SAMPLES[kind]
        parent = _PARENT if hasattr(sample, "parent") else 0
        (ack,) = sock.send([m.new_link(sample, index=_CHILD, parent=parent)])
    if ack.errno in (0, errno.EOPNOTSUPP):
        return ack.errno
    raise ack.error()
