"""Whom to ask: the host's resolv.conf, read again when it changes, and what a container was given."""

from __future__ import annotations

from pathlib import Path

from engine.dns.members import Member
from engine.dns.upstream import HostServers, Server, nameservers, servers_for


def member(**fields: object) -> Member:
    return Member(endpoint="e", network="n", network_name="n", container="c", **fields)  # type: ignore[arg-type]


def test_what_is_read() -> None:
    text = "# nameserver 1.1.1.1\nsearch x\nnameserver 192.0.2.1\n  nameserver\t::1 \nnameserver host\nnameserver\n"
    assert nameservers(text + "nameserver fe80::1%eth0 # x\n") == ["192.0.2.1", "::1", "fe80::1%eth0"]


def test_a_change_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    host = HostServers(path)
    assert host.now() == ()
    path.write_text("nameserver 192.0.2.1\n")
    assert host.now() == (Server("192.0.2.1"),)
    path.write_text("nameserver 127.0.0.53\nnameserver 192.0.2.2\n")
    assert host.now() == (Server("127.0.0.53"), Server("192.0.2.2"))
    other = tmp_path / "other"
    other.write_text("nameserver 192.0.2.3\n")
    other.rename(path)
    assert host.now() == (Server("192.0.2.3"),)
    path.unlink()
    assert host.now() == ()


def test_for_whom(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    host = HostServers(path)
    assert servers_for([member()], host) == (Server("192.0.2.1"),)
    assert servers_for([member(internal=True)], host) == ()
    assert servers_for([member(internal=True), member()], host) == (Server("192.0.2.1"),)
    assert servers_for([], host) == ()
    given = member(internal=True, servers=("127.0.0.1", "127.0.0.11", "x", "10.0.0.5"))
    assert servers_for([given], host) == (Server("127.0.0.1", inside=True), Server("10.0.0.5", inside=True))
