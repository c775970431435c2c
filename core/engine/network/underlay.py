"""What carries the traffic of networks that span hosts: the hosts' own network, or WireGuard on it.

Largest packet. Each host publishes the MTU of its link (`mtu`), and all take the smallest, so that what one container
sends fits through every host's link.

Encryption. All encrypted networks of a host go through one WireGuard link. Its address inside follows from the node's
name, so that nobody has to allocate it. The private key never leaves the host; the public one is published
(`wireguard`), and changed after some time. To the drivers the addresses inside are the addresses of the hosts.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.cluster.cluster import Cluster
from engine.network import hostnet
from engine.reconcile import wireguard
from engine.reconcile.reconciler import Reconciler
from engine.spec.errors import EngineError, Unavailable, Unsupported
from engine.spec.network import LinkFact, Peer
from engine.spec.options import Options, wants_encryption
from engine.spec.resource import Plan
from engine.spec.values import unpack
from engine.spec.wireguard import Wireguard, WireguardPeer
from engine.state import State

log = logging.getLogger(__name__)
OWNER = "wireguard"
PORT = 51820
"""UDP port of WireGuard between the hosts."""
PREFIX = bytes.fromhex("fd456e67696e6500")
"""Of the addresses inside WireGuard: a unique local prefix (RFC 4193) that is never seen outside of it."""
HEADERS = 80
"""Bytes that WireGuard adds: 32 of its own, UDP 8, IPv6 40 (20 for IPv4)."""
KEY_SECONDS = 7 * 24 * 3600
"""Age at which a host's key is changed."""
CHECK_SECONDS = 3600.0
_KIND = "underlay"
"""Kind of objects in the database: the plan that encrypts, and what is known of packet sizes."""


def inner_address(node: str) -> str:
    """Return the address of a node inside WireGuard."""
    return unpack(PREFIX + hashlib.sha256(node.encode()).digest()[:8])


class Underlay:
    """This host's part of it, in one cluster. Thread-safe."""

    def __init__(self, cluster: Cluster, reconciler: Reconciler, state: State, directory: Path) -> None:
        """`directory` keeps the private key."""
        self._cluster = cluster
        self._reconciler = reconciler
        self._state = state
        self._key = directory / "wireguard.key"
        self._guard = threading.RLock()
        self._users: set[str] = set()
        self._closed = threading.Event()
        self._look = threading.Event()
        self._care = threading.Thread(target=self._run, name="underlay", daemon=True)

    @property
    def link(self) -> str:
        """Name of the WireGuard link."""
        return f"wg{self._reconciler.tag.instance}"

    # What drivers are told

    def facts(self, options: Options) -> dict[str, Any]:
        """Return `host` and `underlay` of a network with these options."""
        mtu = self.mtu()
        if wants_encryption(options):
            fact = LinkFact(name=self.link, mtu=(mtu or 1500) - HEADERS)
            return {"host": inner_address(self._cluster.node.name), "underlay": fact}
        address = self._cluster.node.address
        carrier = hostnet.carrier(address)
        return {"host": address, "underlay": carrier.model_copy(update={"mtu": mtu}) if carrier else None}

    def peer(self, options: Options, peer: Peer) -> Peer:
        """Return an endpoint on another host as it is found from a network with these options."""
        return peer.model_copy(update={"host": self.reached_at(options, peer.node, peer.host)})

    def reached_at(self, options: Options, node: str, address: str) -> str:
        """Return the address to which traffic for another node goes, from a network with these options."""
        return inner_address(node) if wants_encryption(options) else address

    def mtu(self) -> int | None:
        """Return the largest packet that all hosts can send; None while nothing is known of it."""
        carrier = hostnet.carrier(self._cluster.node.address)
        others = self._others()
        return min([*([others] if others else []), *([carrier.mtu] if carrier and carrier.mtu else [])], default=None)

    def _others(self) -> int | None:
        """Return the largest packet that all other hosts can send. While they are not known: as it was known last."""
        former = (self._state.get(_KIND, "mtu") or {}).get("others")
        if not self._cluster.knows_hosts:
            return former
        published = [int(h.keys["mtu"]) for h in self._cluster.hosts() if h.keys.get("mtu", "").isdecimal()]
        least = min(published, default=None)
        if least != former:
            self._state.put(_KIND, "mtu", {"others": least})
        return least

    # What is published, and followed

    def publish(self) -> None:
        """Say how large packets of this host may be. Raises Unavailable."""
        carrier = hostnet.carrier(self._cluster.node.address)
        if carrier is not None and carrier.mtu:
            self._cluster.members.publish({"mtu": str(carrier.mtu)})

    def secure(self, network: str) -> None:
        """Have the WireGuard link for a network, until `release`, and tell the other hosts of its key.

        Raises Unavailable (the cluster is away; no WireGuard), Unsupported (a file of peers tells nobody), ApplyFailed.
        """
        if self._cluster.partition is not None:
            raise Unsupported(
                "networks of a cluster that is a file of peers cannot be encrypted",
                why="the hosts would not learn each other's keys", hint="A cluster on etcd can",
            )  # fmt: skip
        with self._guard:
            self._users.add(network)
            if not self._key.exists():
                self._write_key()
            if self._cluster.knows_hosts or self._reconciler.plan_of(OWNER) is None:
                self._apply(self._plan())
            self._publish_key()
            if not self._care.is_alive() and not self._closed.is_set():
                self._care.start()

    def follow(self) -> None:
        """Take over what the other hosts publish, if this host encrypts."""
        with self._guard:
            if self._reconciler.plan_of(OWNER) is not None and self._cluster.knows_hosts:
                self._apply(self._plan())
                self._look.set()

    def adopt(self, networks: Iterable[str]) -> None:
        """Want the link that an earlier daemon made for networks, as it was: the cluster may be away."""
        stored = self._state.get(_KIND, OWNER)
        users = set(networks)
        if stored is None or not users:
            self._state.delete(_KIND, OWNER)
            return
        with self._guard:
            self._users |= users
            self._reconciler.adopt(OWNER, Plan.from_json(stored["plan"]))
            if not self._care.is_alive():
                self._care.start()

    def release(self, network: str) -> None:
        """A network is not in use on this host any more: take the link away after the last one."""
        with self._guard:
            self._users.discard(network)
            if not self._users and self._reconciler.plan_of(OWNER) is not None:
                for difference in self._reconciler.remove(OWNER):
                    log.warning("could not be removed: %s", difference)
                self._state.delete(_KIND, OWNER)

    def change_key(self) -> None:
        """Encrypt with another key from now on; for some moments packets may be lost.

        The link has it before the other hosts hear of it: they greet whom they hear of, and are understood then.
        Raises Unavailable, with the former key in force.
        """
        with self._guard:
            former = self._key.read_bytes()
            self._write_key()
            try:
                self._apply(self._plan())
                self._publish_key()
            except EngineError:
                self._write_key(former)
                self._apply(self._plan())
                raise
            log.info("the key with which this host encrypts was changed")

    def close(self) -> None:
        """End the care for the key. The link stays."""
        self._closed.set()
        self._look.set()
        if self._care.is_alive():
            self._care.join()

    def _run(self) -> None:
        while True:
            try:
                if self._key_is_old():
                    self.change_key()
            except EngineError as err:
                log.info("the key is changed later: %s", err)
            self._look.wait(CHECK_SECONDS)
            self._look.clear()
            if self._closed.is_set():
                return

    def _key_is_old(self) -> bool:
        with self._guard:
            in_use = self._reconciler.plan_of(OWNER) is not None and self._cluster.knows_hosts and self._key.exists()
            # Neither older than that nor from the future, where a clock that jumped back would keep it.
            return in_use and abs(time.time() - self._key.stat().st_mtime) > KEY_SECONDS

    def _plan(self) -> Plan:
        node = self._cluster.node
        peers = []
        for host in self._cluster.hosts():
            public, _, port = host.keys.get(OWNER, "").partition(" ")
            if public and port.isdecimal():
                address = inner_address(host.name)
                peers.append(
                    WireguardPeer(public_key=public, endpoint=host.address, port=int(port), address=address)
                )  # fmt: skip
        return Plan.of(
            Wireguard(
                name=self.link,
                address=f"{inner_address(node.name)}/{len(PREFIX) * 8}",
                mtu=(self.mtu() or 1500) - HEADERS,
                port=PORT,
                key_file=str(self._key),
                public_key=self._public_key(),
                peers=tuple(peers),
            )
        )

    def _apply(self, plan: Plan) -> None:
        if self._reconciler.plan_of(OWNER) == plan:
            return
        self._state.put(_KIND, OWNER, {"plan": plan.to_json()})
        self._reconciler.apply(OWNER, plan)

    def _publish_key(self) -> None:
        try:
            self._cluster.members.publish({OWNER: f"{self._public_key()} {PORT}"})
        except Unavailable as err:
            raise Unavailable(
                "the other hosts cannot be told of this host's key", why=str(err), hint="Try again when etcd answers"
            ) from err

    # The key

    def _write_key(self, content: bytes | None = None) -> None:
        if content is None:
            content = wireguard.new_key().encode()
        self._key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._key.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._key)

    def _public_key(self) -> str:
        return wireguard.public_half(self._key.read_text())
