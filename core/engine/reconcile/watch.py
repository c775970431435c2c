"""Noticing that somebody else changed the host: a thread that listens to rtnetlink and nftables notifications, and
watches kernel parameters.

Only losses are of interest (a link, an address, a route, a rule), and links that are not ours but that plans rely on:
whether they are there, and what they are like.
What the reconciler itself removes is not wanted any more by then, and its firewall transactions carry its thread's id,
so its own work does not set it going again.
"""

from __future__ import annotations

import errno
import logging
import math
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

from engine.reconcile import foreign_firewall
from engine.reconcile import messages as m
from engine.reconcile.observation import number, read_link
from engine.reconcile.reconciler import Reconciler
from engine.reconcile.rtnetlink import SO_RCVBUFFORCE, NetlinkSocket, attributes, split, text
from engine.reconcile.settings import Settings

log = logging.getLogger("engine.reconcile")

QUIET = 0.05
"""Seconds without a further event before the call: events come in bursts."""
LONGEST = 0.5
"""Seconds after the first event when the call comes anyway."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""Seconds after which a repair that failed is tried again; doubled each time."""
NETLINK_NETFILTER, NFTABLES_GROUP = 12, 7
LINK, NEIGHBOUR, QUEUE, ADDRESS4, ROUTE4, ADDRESS6, ROUTE6 = 1, 3, 4, 5, 7, 9, 11
_GROUPS = sum(1 << (group - 1) for group in (LINK, NEIGHBOUR, QUEUE, ADDRESS4, ROUTE4, ADDRESS6, ROUTE6))
NFT_SUBSYSTEM = 10
NEWCHAIN, DELTABLE, DELCHAIN, NEWRULE, DELRULE, DELSET, DELSETELEM, NEWGEN = 3, 2, 5, 6, 8, 11, 14, 15
GEN_PROC_PID = 2
NEW_LINK = 0xFFFFFFFF
"""The "changed flags" of a message about a link that has just been made."""


class Watch:
    """Calls back, in its own thread, when something that is wanted may have gone.

    The argument is the names of links that went; hand it to `Reconciler.repair` as `lost`. The answer is whether all
    is well; if it is not, the call comes again after a while, also without a further event. Made and started in a
    thread that is in the host's network namespace.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        on_change: Callable[[frozenset[str]], bool],
        settings: Settings | None = None,
        *,
        well: bool = True,
    ) -> None:
        """`settings` are the kernel parameters that the reconciler's appliers set; None: they are not watched.

        `well` is the answer of a call that was made before there was a watch.
        """
        self._reconciler = reconciler
        self._settings = settings
        self._on_change = on_change
        self._names = NetlinkSocket()
        self._route = _listener(socket.NETLINK_ROUTE, _GROUPS)
        self._nft = _listener(NETLINK_NETFILTER, 1 << (NFTABLES_GROUP - 1))
        self._stop_read, self._stop_write = socket.socketpair()
        self._lost: set[str] = set()
        self._nft_touched = False
        self._pause, self._again_at = FIRST_PAUSE, math.inf
        self._note(well)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop_write.close()
        self._thread.join(5)
        for sock in (self._names, self._route, self._nft, self._stop_read):
            sock.close()

    def _run(self) -> None:
        poll = select.poll()
        for sock in (self._route, self._nft, self._stop_read):
            poll.register(sock, select.POLLIN)
        if self._settings is not None:
            poll.register(self._settings, select.POLLIN)
        first: float | None = None
        while True:
            ready = poll.poll(self._patience() if first is None else QUIET * 1000)
            if any(descriptor == self._stop_read.fileno() for descriptor, _ in ready):
                return
            relevant = False
            for descriptor, _ in ready:
                relevant |= self._read(descriptor)
            now = time.monotonic()
            if relevant and first is None:
                first = now
            over = first is not None and (not relevant or now - first > LONGEST)
            if over or (first is None and now >= self._again_at):
                first = None
                self._call()

    def _patience(self) -> float | None:
        """Return for how many milliseconds there is nothing to do without an event; None: for ever."""
        return None if self._again_at == math.inf else max(0.0, self._again_at - time.monotonic()) * 1000

    def _call(self) -> None:
        lost, self._lost = frozenset(self._lost), set()
        try:
            self._note(self._on_change(lost))
        except Exception:  # the watch must outlive a failed repair
            log.exception("a repair after a change of the host failed")
            self._lost |= lost
            self._note(False)

    def _note(self, well: bool) -> None:
        """Note whether all is well now, or when to try again."""
        if well:
            self._pause, self._again_at = FIRST_PAUSE, math.inf
        else:
            self._again_at = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _read(self, descriptor: int) -> bool:
        if self._settings and descriptor == self._settings.fileno():
            return self._settings.changed()
        sock = self._route if descriptor == self._route.fileno() else self._nft
        try:
            data = sock.recv(1 << 18)
        except OSError as err:
            if err.errno == errno.ENOBUFS:
                return True  # events were lost: anything may have changed
            raise
        handle = self._route_event if sock is self._route else self._nft_event
        relevant = False
        for kind, _, _, body in split(data):
            relevant |= handle(kind, body)
        return relevant

    def _route_event(self, kind: int, body: bytes) -> bool:
        if kind in (m.RTM_NEWLINK, m.RTM_DELLINK):
            return self._link_event(kind, body)
        if kind in (m.RTM_NEWADDR, m.RTM_DELADDR):
            name = self._names.name(struct.unpack_from("=4xI", body)[0])
            if self._reconciler.relies_on(name):  # what we make may speak with the addresses of a parent
                return True
            ours = number(attributes(body, 8).get(m.IFA_PROTO)) == self._reconciler.tag.proto
            return ours and kind == m.RTM_DELADDR and self._reconciler.concerns(name)
        if kind == m.RTM_DELROUTE:
            ours = struct.unpack_from("=5xB", body)[0] == self._reconciler.tag.proto
            return ours and self._concerns(number(attributes(body, 12).get(m.RTA_OIF)))
        if kind in (m.RTM_DELQDISC, m.RTM_DELTFILTER):
            index, handle, parent = struct.unpack_from("=4xiII", body)
            ours = m.INGRESS_HANDLE in (handle, parent) or (parent, handle) == (m.TC_H_ROOT, m.TBF_HANDLE)
            return ours and self._concerns(index)
        if kind == m.RTM_DELNEIGH:
            family, index, state = struct.unpack_from("=BxxxiH", body)
            found = attributes(body, 12)
            ours = number(found.get(m.NDA_PROTOCOL)) == self._reconciler.tag.proto
            if family == m.AF_BRIDGE:  # of a tunnel, or static; a port's own addresses come and go with it
                ours = m.NDA_DST in found or state == m.NUD_NOARP
            return ours and self._concerns(index)
        return False

    def _link_event(self, kind: int, body: bytes) -> bool:
        link = read_link(body)
        if not self._reconciler.concerns(link.name):
            return False
        of_bridge = body[0] == m.AF_BRIDGE  # such a message is about a port: it came, changed, or left its bridge
        if kind == m.RTM_DELLINK:
            if not of_bridge:
                self._lost.add(link.name)
            return True
        changed = struct.unpack_from("=12xI", body)[0]
        put_down = not link.up and bool(changed & m.IFF_UP) and changed != NEW_LINK
        return not of_bridge and (put_down or link.group != self._reconciler.tag.link_group)

    def _concerns(self, index: int) -> bool:
        return self._reconciler.concerns(self._names.name(index))

    def _nft_event(self, kind: int, body: bytes) -> bool:
        """Collect what a transaction touches until its end, which says whose it was."""
        message = kind & 0xFF
        if kind >> 8 != NFT_SUBSYSTEM:
            return False
        found = attributes(body, 4)
        if message == NEWGEN:
            touched, self._nft_touched = self._nft_touched, False
            author = int.from_bytes(found.get(GEN_PROC_PID, b""), "big")
            return touched and author != self._reconciler.thread_id
        table = text(found.get(1))
        if message in (DELTABLE, DELCHAIN, NEWRULE, DELRULE, DELSET, DELSETELEM):
            self._nft_touched |= table == self._reconciler.tag.table
        if message in (NEWCHAIN, DELCHAIN, NEWRULE, DELRULE) and table == foreign_firewall.TABLE:
            names = text(found.get(2)), text(found.get(3))  # of a chain by its place in the message
            self._nft_touched |= any(map(foreign_firewall.is_of_interest, names))
        return False


def _listener(protocol: int, groups: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind((0, groups))
    return sock
