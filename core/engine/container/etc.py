"""The three files of /etc that belong to the engine: hosts, hostname, resolv.conf.

They lie in the container's directory and are bind-mounted, so that they can change while it runs.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from engine.spec.errors import InvalidParameter

_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
HOST_GATEWAY = "host-gateway"
"""In --add-host: the address at which the container reaches the host."""


def parse_extra_host(value: str, gateway: str = "") -> tuple[str, str]:
    """Return (name, address) of `name:address` or `name=address`. Raises InvalidParameter."""
    name, separator, address = value.partition("=" if "=" in value.split(":", 1)[0] else ":")
    address = address.strip("[]")
    if not separator or not name:
        raise InvalidParameter(f"bad format for add-host: {value!r}", hint="Expected NAME:ADDRESS.")
    if address == HOST_GATEWAY:
        return name, gateway
    try:
        return name, str(ipaddress.ip_address(address))
    except ValueError as err:
        raise InvalidParameter(f"invalid IP address in add-host: {address!r}") from err


def hosts(
    own: Iterable[tuple[str, Sequence[str]]], extra: Iterable[tuple[str, str]], *, base: str | None = None
) -> str:
    """Return /etc/hosts: `own` are (address, names) of the container, `extra` (name, address) of --add-host.

    `base` is what they are added to (the host's file, where its network is shared).
    """
    lines = [f"{address}\t{name}" for name, address in extra if address]
    lines += [f"{address}\t{' '.join(names)}" for address, names in own]
    return (_HOSTS if base is None else base) + "".join(f"{line}\n" for line in lines)


def hosts_changed(text: str, names: Sequence[str], came: Iterable[str], went: Iterable[str]) -> str:
    """Return /etc/hosts with the container's lines for some addresses added and for others removed; the rest stays."""
    gone = {f"{address}\t{' '.join(names)}" for address in went}
    lines = [line for line in text.splitlines() if line not in gone]
    return "".join(f"{line}\n" for line in [*lines, *(f"{address}\t{' '.join(names)}" for address in came)])


def resolv_conf(
    host: str,
    *,
    servers: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
    own_loopback: bool,
) -> str:
    """Return /etc/resolv.conf: the host's, with what was given in place of its own.

    Name servers on the host's loopback are left out unless the container has that loopback (`own_loopback` False means
    that it shares the host's network).
    """
    kept: list[str] = []
    found_servers: list[str] = []
    for line in host.splitlines():
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word == "nameserver":
            if not own_loopback or not _is_loopback(rest):
                found_servers.append(rest)
        elif word in ("search", "domain"):
            if not search:
                kept.append(f"search {rest}")
        elif word == "options" and not options:
            kept.append(f"options {rest}")
    if search and list(search) != ["."]:
        kept.append("search " + " ".join(search))
    if options:
        kept.append("options " + " ".join(options))
    return "".join(f"{line}\n" for line in [*(f"nameserver {s}" for s in servers or found_servers), *kept])


def served_resolv_conf(host: str, server: str, *, search: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """Return /etc/resolv.conf of a container that asks the engine's name server at the address `server`.

    A name without dots is asked for as it is before the search list is tried (`ndots:0`, as Docker has it): it is most
    likely a container's.
    """
    text = resolv_conf(host, servers=[server], search=search, options=options, own_loopback=True)
    return text if "ndots:" in text else text + "options ndots:0\n"


def ndots(options: Iterable[str]) -> int:
    """Return what --dns-option says of names with few dots; 0 if nothing."""
    given = [o.partition(":")[2] for o in options if o.startswith("ndots:")]
    return int(given[-1]) if given and given[-1].isdecimal() else 0


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def write(directory: Path, name: str, text: str) -> Path:
    """Write a file in place (a bind mount holds its inode), and return its path.

    It is cut off after it is written: who reads meanwhile never finds it empty, and ext4, which flushes a file that was
    cut to nothing before it was written anew, does not make us wait for the disk.
    """
    path = directory / name
    data = text.encode(errors="surrogateescape")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        os.pwrite(file, data, 0)
        os.ftruncate(file, len(data))
        os.fchmod(file, 0o644)
    finally:
        os.close(file)
    return path
