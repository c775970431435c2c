"""Where a container asks for names: sockets at 127.0.0.11 in its network namespace, and rules that lead port 53 there.

Port 53 itself stays free, so that a container may serve DNS at 0.0.0.0:53. The sockets listen on another port, and four
stateless rules write that port in place of 53 into what goes to them, and back into what comes from them. This is not
NAT: it needs no connection tracking, which would cost all of the container's traffic; and while no daemon listens a
query gets no answer, instead of an error that would end the client's attempts.

The request is rewritten before connection tracking sees it and the answer after, so that a container that tracks
connections itself sees the same port both ways. Numbers are those of uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from engine.reconcile.applier import Sandbox
from engine.reconcile.netns import entered
from engine.reconcile.rtnetlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Message, NetlinkSocket, attr, nest

ADDRESS = "127.0.0.11"
"""The address in /etc/resolv.conf, as Docker has it."""
DNS_PORT = 53
PREFERRED_PORT = 61053
"""Where the sockets are: above the ports that the kernel gives to connections, so it is nearly always free."""
ATTEMPTS = 8
"""Ports tried when that one is taken."""
BACKLOG = 16
"""Connections that wait to be accepted, in one namespace."""

TABLE = "engine_names"
NETLINK_NETFILTER = 12
BATCH_BEGIN, BATCH_END, NFNL_SUBSYS_NFTABLES, NFPROTO_IPV4 = 16, 17, 10, 2
NEWTABLE, DELTABLE, NEWCHAIN, GETCHAIN, NEWRULE = (NFNL_SUBSYS_NFTABLES << 8 | n for n in (0, 2, 3, 4, 6))
HOOK_INPUT, HOOK_OUTPUT = 1, 3
PRIORITY_RAW, PRIORITY_LAST = -300, 300
NF_ACCEPT = 1
_NESTED = 0x8000
_REGISTER = 1
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_META_L4PROTO = 16
_CHECKSUM_AT: dict[int, int] = {socket.IPPROTO_UDP: 6, socket.IPPROTO_TCP: 16}
"""Offset of the checksum in the transport header."""
_HEADER = struct.pack(">BBH", NFPROTO_IPV4, 0, 0)


@dataclass(frozen=True)
class NameSockets:
    """The sockets in one network namespace, and a descriptor of it. Non-blocking; the TCP socket listens."""

    udp: socket.socket
    tcp: socket.socket
    namespace: int

    def close(self) -> None:
        """Close all: they would keep the namespace alive."""
        self.udp.close()
        self.tcp.close()
        os.close(self.namespace)


def open_sockets(sandbox: Sandbox) -> NameSockets:
    """Open the sockets in a sandbox, and make the rules if they are not there. Raises OSError.

    Done in a thread of its own, which ends: namespaces are nothing for the threads of a pool.
    """
    opened: list[NameSockets] = []
    failure: list[OSError] = []

    def work() -> None:
        try:
            opened.append(_open(sandbox))
        except OSError as err:
            failure.append(err)

    thread = threading.Thread(target=work, name="names-open")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return opened[0]


def socket_in(namespace: int, family: int, kind: int) -> socket.socket:
    """Open a non-blocking socket in a namespace. Raises OSError. Only for a thread that is nobody else's."""
    with entered(namespace):
        return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def _open(sandbox: Sandbox) -> NameSockets:
    namespace = os.open(sandbox.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with entered(namespace):
            udp, tcp = _bind()
            try:
                _lead_to(udp.getsockname()[1])
            except OSError:
                udp.close()
                tcp.close()
                raise
    except OSError:
        os.close(namespace)
        raise
    return NameSockets(udp, tcp, namespace)


def _bind() -> tuple[socket.socket, socket.socket]:
    """Bind UDP and TCP to one port: the preferred one, or any other."""
    for port in (PREFERRED_PORT, *[0] * ATTEMPTS):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            udp.bind((ADDRESS, port))
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections of an earlier daemon
            tcp.bind((ADDRESS, udp.getsockname()[1]))
            tcp.listen(BACKLOG)
            return udp, tcp
        except OSError as err:
            udp.close()
            tcp.close()
            if err.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"no port is free at {ADDRESS}")


def _lead_to(port: int) -> None:
    """Make the rules, in one transaction; keep those that lead to this port already, replace others."""
    query = attr(1, TABLE) + attr(3, _chain_name("query", port))
    with NetlinkSocket(NETLINK_NETFILTER) as sock:
        # Asked first: a transaction that is refused takes the kernel some 10 ms.
        if sock.ask(Message(GETCHAIN, 0, _HEADER + query)) is not None:
            return
        try:
            _transact(sock, _ruleset(port))
        except FileExistsError:
            _transact(sock, [Message(DELTABLE, 0, _HEADER + attr(1, TABLE)), *_ruleset(port)])


def _transact(sock: NetlinkSocket, messages: Sequence[Message]) -> None:
    subsystem = struct.pack(">BBH", 0, 0, NFNL_SUBSYS_NFTABLES)
    acks = sock.transact(Message(BATCH_BEGIN, 0, subsystem), messages, Message(BATCH_END, 0, subsystem))
    for ack in acks:
        if ack.errno:
            raise ack.error()


def _chain_name(purpose: str, port: int) -> str:
    """Return a chain's name: it tells where the rules lead, so that they need not be read."""
    return f"{purpose}_{port}"


def _ruleset(port: int) -> list[Message]:
    query, answer = _chain_name("query", port), _chain_name("answer", port)
    rules = [
        rule
        for protocol in _CHECKSUM_AT
        for rule in (
            # ip daddr 127.0.0.11 PROTOCOL dport 53 PROTOCOL dport set PORT
            _rule(query, address_at=16, protocol=protocol, port_at=2, old=DNS_PORT, new=port),
            # ip saddr 127.0.0.11 PROTOCOL sport PORT PROTOCOL sport set 53
            _rule(answer, address_at=12, protocol=protocol, port_at=0, old=port, new=DNS_PORT),
        )
    ]
    return [
        Message(NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, _HEADER + attr(1, TABLE)),
        _chain(query, HOOK_OUTPUT, PRIORITY_RAW),
        _chain(answer, HOOK_INPUT, PRIORITY_LAST),
        *rules,
    ]


def _number(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack(">i", value))


def _chain(name: str, hook: int, priority: int) -> Message:
    body = attr(1, TABLE) + attr(3, name) + attr(7, "filter") + _number(5, NF_ACCEPT)
    body += nest(4 | _NESTED, _number(1, hook), _number(2, priority))
    return Message(NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, _HEADER + body)


def _rule(chain: str, *, address_at: int, protocol: int, port_at: int, old: int, new: int) -> Message:
    expressions = (
        _load(_NETWORK_HEADER, address_at, 4),
        _compare(socket.inet_aton(ADDRESS)),
        _expression("meta", _number(2, _META_L4PROTO), _number(1, _REGISTER)),
        _compare(bytes((protocol,))),
        _load(_TRANSPORT_HEADER, port_at, 2),
        _compare(struct.pack(">H", old)),
        _expression("immediate", _number(1, _REGISTER), nest(2 | _NESTED, attr(1, struct.pack(">H", new)))),
        _store(port_at, 2, _CHECKSUM_AT[protocol]),
    )
    body = attr(1, TABLE) + attr(2, chain) + nest(4 | _NESTED, *expressions)
    return Message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, _HEADER + body)


def _expression(name: str, *data: bytes) -> bytes:
    return nest(1 | _NESTED, attr(1, name), nest(2 | _NESTED, *data))


def _load(base: int, offset: int, length: int) -> bytes:
    return _expression("payload", *map(_number, (1, 2, 3, 4), (_REGISTER, base, offset, length)))


def _store(offset: int, length: int, checksum_at: int) -> bytes:
    """Write the register into the transport header, and mend its (internet) checksum."""
    values = (_REGISTER, _TRANSPORT_HEADER, offset, length, 1, checksum_at)
    return _expression("payload", *map(_number, (5, 2, 3, 4, 6, 7), values))


def _compare(value: bytes) -> bytes:
    return _expression("cmp", _number(1, _REGISTER), _number(2, 0), nest(3 | _NESTED, attr(1, value)))
