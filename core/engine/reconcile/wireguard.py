"""The applier of the WireGuard link.

The link is the kernel's where it can make one, and otherwise a TUN link of `wireguard-go`: a process of its own that
outlives the daemon and ends when its link is deleted. Either is configured by wg(8). When the process dies, the link is
gone, which the daemon hears of and repairs like any other loss.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket as sockets
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, cast

from engine.reconcile import advertisements
from engine.reconcile import messages as m
from engine.reconcile.applier import BatchError, Context, Difference, Tag
from engine.reconcile.creation import alias_of
from engine.reconcile.observation import View, ask_link
from engine.reconcile.rtnetlink import Message, NetlinkSocket, attr
from engine.spec.errors import Unavailable
from engine.spec.links import Address
from engine.spec.resource import Key, Resource
from engine.spec.wireguard import Wireguard, WireguardPeer

PROGRAM, USERSPACE = "wg", "wireguard-go"
CONTROL = Path("/var/run/wireguard")
"""Where a userspace process has its control socket (wireguard-go, README)."""
SECONDS = 10.0
"""Deadline of a command, and of a process that starts."""
KEEPALIVE = 25
"""Seconds between packets that keep NAT open (wg(8)). A new peer is greeted at once, so that a changed key works."""


class WireguardApplier:
    """WireGuard links, configured by `wg`."""

    families: ClassVar[frozenset[str]] = frozenset({"wireguard"})

    def __init__(self, tag: Tag) -> None:
        self._tag = tag
        self._processes: list[subprocess.Popen[bytes]] = []
        self._dressed: dict[str, Wireguard] = {}

    def create(self, batch: Sequence[Resource], context: Context) -> Sequence[Resource]:
        """Make links; see `Applier.create`."""
        done: list[Resource] = []
        for item in batch:
            link = cast(Wireguard, item)
            try:
                with NetlinkSocket() as socket:
                    if socket.index(link.name):
                        raise FileExistsError(errno.EEXIST, f"there is a link {link.name}")
                    self._make(socket, link.name)
                    done.append(link)
                    self._dress(socket, link, context.owner)
            except (OSError, Unavailable) as err:
                number = err.errno or 0 if isinstance(err, OSError) else 0
                raise BatchError(link, err, done, exists=number == errno.EEXIST, errno=number) from err
        return done

    def update(self, old: Resource, new: Resource, context: Context) -> None:
        """Give a link its new key, peers, address and size; connections to peers that stay go on."""
        link = cast(Wireguard, new)
        try:
            with NetlinkSocket() as socket:
                self._dress(socket, link, context.owner)
        except (OSError, Unavailable) as err:
            raise BatchError(link, err, (), errno=(err.errno or 0) if isinstance(err, OSError) else 0) from err

    def remove(self, batch: Sequence[Resource], context: Context) -> list[tuple[Resource, Exception]]:
        """Delete links; a userspace process ends with its link."""
        left: list[tuple[Resource, Exception]] = []
        with NetlinkSocket() as socket:
            for item in batch:
                seen = ask_link(socket, cast(Wireguard, item).name)
                if seen is None or seen.group != self._tag.link_group:
                    continue
                (ack,) = socket.send([m.delete_link(seen.index)])
                if ack.errno not in (0, errno.ENODEV):
                    left.append((item, ack.error()))
        self._reap()
        return left

    def diff(self, wanted: Mapping[Key, Resource], contexts: Mapping[Key, Context]) -> list[Difference]:
        """Compare links, addresses, keys and peers with what the kernel and `wg` show."""
        found: list[Difference] = []
        self._reap()
        with NetlinkSocket() as socket:
            view = View(socket)
            for key, item in wanted.items():
                state, fields = self._compare(cast(Wireguard, item), view)
                if state:
                    found.append(Difference(key, state, fields, contexts[key].owner, item))
        return found

    def unwanted(self, wanted: Mapping[Key, Resource]) -> list[Difference]:
        """Return nothing: a link of ours that nobody wants is found by its group, as all links are."""
        return []

    def discard(self, difference: Difference) -> None:
        """Do nothing: see `unwanted`."""

    # Making

    def _make(self, socket: NetlinkSocket, name: str) -> None:
        kind = attr(m.IFLA_LINKINFO, attr(m.INFO_KIND, "wireguard"))
        group = attr(m.IFLA_GROUP, self._tag.link_group)
        (ack,) = socket.send([Message(m.RTM_NEWLINK, m.NEW, m.ifinfo() + attr(m.IFLA_IFNAME, name) + group + kind)])
        if ack.errno in (errno.EOPNOTSUPP, errno.ENODEV):  # the kernel has no such kind of link
            self._start(socket, name)
        elif ack.errno:
            raise ack.error()

    def _start(self, socket: NetlinkSocket, name: str) -> None:
        if shutil.which(USERSPACE) is None:
            raise Unavailable(
                "this host cannot encrypt", why="its kernel has no WireGuard",
                hint=f"Install {USERSPACE} (Debian: apt-get install {USERSPACE})",
            )  # fmt: skip
        CONTROL.mkdir(mode=0o700, parents=True, exist_ok=True)
        control, deadline = CONTROL / f"{name}.sock", time.monotonic() + SECONDS
        while _answers(control):  # the process of a link that has just gone
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, f"another process serves {control}")
            time.sleep(0.01)
        control.unlink(missing_ok=True)
        process = subprocess.Popen(
            [USERSPACE, "-f", name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, env={**os.environ, "LOG_LEVEL": "silent"},
        )  # fmt: skip
        self._processes.append(process)
        while not (_answers(control) and socket.index(name)):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait(SECONDS)
                self._reap()
                raise OSError(errno.EIO, f"{USERSPACE} did not make the link {name}")
            time.sleep(0.01)

    def _dress(self, socket: NetlinkSocket, link: Wireguard, owner: str) -> None:
        """Give a link that is there all that its resource says."""
        index = socket.index(link.name)
        if not index:
            raise OSError(errno.ENODEV, f"there is no link {link.name}")
        advertisements.ignore(link.name)
        _wg("syncconf", link.name, "/dev/stdin", input=_configuration(link))
        alias = attr(m.IFLA_IFALIAS, alias_of(self._tag, owner).encode()[:255])
        group = attr(m.IFLA_GROUP, self._tag.link_group)
        messages = [
            Message(m.RTM_SETLINK, 0, m.ifinfo(index) + group + alias),
            m.set_link(index, mtu=link.mtu),
            m.set_link(index, up=True),
        ]
        former = [a for (i, a), proto in View(socket).addresses.items() if i == index and proto == self._tag.proto]
        proto = self._tag.proto
        messages += [m.address(_address(link, a), index, proto, delete=True) for a in former if a != link.address]
        if link.address not in former:
            messages.append(m.address(_address(link, link.address), index, proto))
        for ack in socket.send(messages):
            if ack.errno:
                raise ack.error()
        self._dressed[link.name] = link

    def _compare(self, link: Wireguard, view: View) -> tuple[str, dict[str, tuple[object, object]]]:
        seen = view.link(link.name)
        if seen is None:
            return "missing", {}
        if seen.group != self._tag.link_group:
            return "foreign", {"group": (self._tag.link_group, seen.group)}
        fields: dict[str, tuple[object, object]] = {}
        if seen.mtu != link.mtu:
            fields["mtu"] = (link.mtu, seen.mtu)
        if not seen.up or (seen.index, link.address) not in view.addresses:
            fields["address"] = (link.address, None)
        try:
            own, *others = _wg("show", link.name, "dump").splitlines()
        except OSError as err:
            return "differs", {**fields, "peers": (len(link.peers), str(err))}
        _, public, port, *_ = own.split("\t")
        if public != link.public_key:
            fields["public_key"] = (link.public_key, public)
        if int(port) != link.port:
            fields["port"] = (link.port, int(port))
        if self._dressed.get(link.name) != link:
            fields["configuration"] = ("as planned", "of another plan")
        wanted, known = {_peer_seen(peer) for peer in link.peers}, {_seen(line) for line in others}
        if wanted != known:
            fields["peers"] = (sorted(key for key, *_ in wanted - known), sorted(key for key, *_ in known - wanted))
        return ("differs" if fields else ""), fields

    def _reap(self) -> None:
        """Forget processes that have ended."""
        self._processes = [process for process in self._processes if process.poll() is None]


def new_key() -> str:
    """Return a new private key, in base64. Raises Unavailable without wg(8), OSError."""
    return _wg("genkey")


def public_half(private: str) -> str:
    """Return the public half of a private key. Raises as `new_key`."""
    return _wg("pubkey", input=private).strip()


def _answers(control: Path) -> bool:
    """Return whether a process listens at a control socket."""
    with sockets.socket(sockets.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(control))
        except OSError:
            return False
    return True


def _configuration(link: Wireguard) -> str:
    """Return the configuration as wg(8) reads it; it holds the private key."""
    lines = ["[Interface]", f"PrivateKey = {Path(link.key_file).read_text().strip()}", f"ListenPort = {link.port}"]
    for peer in link.peers:
        lines += [
            "[Peer]", f"PublicKey = {peer.public_key}", f"Endpoint = {_endpoint(peer)}",
            f"AllowedIPs = {_single(peer.address)}", f"PersistentKeepalive = {KEEPALIVE}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _endpoint(peer: WireguardPeer) -> str:
    return f"[{peer.endpoint}]:{peer.port}" if ":" in peer.endpoint else f"{peer.endpoint}:{peer.port}"


def _single(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def _peer_seen(peer: WireguardPeer) -> tuple[str, str]:
    """Where a peer is, is not compared with the link's: WireGuard follows one that speaks from another address."""
    return peer.public_key, _single(peer.address)


def _seen(line: str) -> tuple[str, str]:
    public, _, _, allowed, *_ = line.split("\t")
    return public, allowed


def _address(link: Wireguard, address: str) -> Address:
    return Address(ns="host", link=link.name, address=address)


def _wg(*words: str, input: str = "") -> str:
    """Run wg(8) and return what it writes. Raises OSError, Unavailable if it is not installed."""
    if shutil.which(PROGRAM) is None:
        raise Unavailable(
            "this host cannot encrypt", why=f"{PROGRAM} is not installed", hint="apt-get install wireguard-tools"
        )
    try:
        done = subprocess.run([PROGRAM, *words], input=input, capture_output=True, text=True, timeout=SECONDS,
                              check=False)  # fmt: skip
    except subprocess.TimeoutExpired as err:
        raise OSError(errno.ETIMEDOUT, f"{PROGRAM} {words[0]} gave no answer") from err
    if done.returncode:
        raise OSError(errno.EIO, done.stderr.strip() or f"{PROGRAM} {words[0]} failed")
    return done.stdout
