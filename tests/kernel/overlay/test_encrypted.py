"""Encrypted overlays: VXLAN inside WireGuard (the kernel's, or wireguard-go), and nothing in clear."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.host import until
from tests.kernel.overlay.hosts import Host, Wire, run

from engine.spec.resource import Plan
from engine.spec.wireguard import Wireguard, WireguardPeer
from engine_sdk import LinkFact, Network, Peer

SUBNET = ("10.7.0.0/24",)
PREFIX = "fd45:6e67:696e:65::"
PORT = 51820


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    if os.geteuid():
        pytest.skip("network namespaces need root")
    missing = [name for name in ("wg", "wireguard-go") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with Wire(tmp_path, 2) as wire:
        yield wire.hosts[0], wire.hosts[1]


def _key(host: Host, name: str = "key") -> tuple[str, str]:
    """Make a key; return the file of the private half, and the public one."""
    private = subprocess.run(["wg", "genkey"], capture_output=True, text=True, check=True).stdout
    public = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True).stdout
    path = host.directory / f"{name}{host.number}"
    path.write_text(private)
    return str(path), public.strip()


def _link(host: Host, own: tuple[str, str], other: Host, other_public: str) -> Wireguard:
    peer = WireguardPeer(public_key=other_public, endpoint=other.address, port=PORT, address=f"{PREFIX}{other.number}")
    return Wireguard(
        name=f"wg{host.tag.instance}", address=f"{PREFIX}{host.number}/64", mtu=1420, port=PORT,
        key_file=own[0], public_key=own[1], peers=(peer,),
    )  # fmt: skip


def _secure(host: Host, network: Network) -> Network:
    """Return the network as it is on an underlay that encrypts."""
    link = LinkFact(name=f"wg{host.tag.instance}", mtu=1420)
    return network.model_copy(update={"host": f"{PREFIX}{host.number}", "underlay": link})


def _set_up(pair: tuple[Host, Host]) -> tuple[list[tuple[str, str]], list[Network], list[Peer]]:
    keys = [_key(host) for host in pair]
    for host, other, own, theirs in zip(pair, pair[::-1], keys, keys[::-1], strict=True):
        host.reconciler.apply("wireguard", Plan.of(_link(host, own, other, theirs[1])))
    networks = [_secure(h, h.network(4099, SUBNET, encrypted=True, port=4790)) for h in pair]
    peers = []
    for host, network in zip(pair, networks, strict=True):
        host.use(network)
        peers.append(host.attach(network, f"a{host.number}", (f"10.7.0.{host.number}/24",)))
    for host, network, peer in zip(pair, networks, peers[::-1], strict=True):
        host.learn(network, peer)
    return keys, networks, peers


def _reaches(pair: tuple[Host, Host]) -> None:
    until(lambda: pair[0].ping("a1", "10.7.0.2"), "an answer through the encrypted tunnel", 20)


def test_traffic_is_encrypted_and_keys_change(pair: tuple[Host, Host]) -> None:
    first, second = pair
    keys, _, _ = _set_up(pair)
    _reaches(pair)
    for host in pair:
        assert host.reconciler.diff() == []
    # All that was sent between the hosts went to WireGuard's port: 1420 - 70 bytes fit into a packet, and no more.
    assert first.ping("a1", "10.7.0.2", "-M", "do", "-s", 1350 - 28)
    assert not first.ping("a1", "10.7.0.2", "-M", "do", "-s", 1350 - 27)
    assert "latest handshake" in run(first.netns, "wg", "show").stdout
    fresh = _key(first, "fresh")
    first.reconciler.apply("wireguard", Plan.of(_link(first, fresh, second, keys[1][1])))
    second.reconciler.apply("wireguard", Plan.of(_link(second, keys[1], first, fresh[1])))
    _reaches(pair)
    assert fresh[1] in run(second.netns, "wg", "show").stdout
    assert keys[0][1] not in run(second.netns, "wg", "show").stdout


def test_nothing_goes_or_comes_in_clear(pair: tuple[Host, Host]) -> None:
    first, second = pair
    _, networks, peers = _set_up(pair)
    _reaches(pair)
    # Entries that lead to the other host's own address: what is sent there is not encrypted, and so it is dropped.
    first.learn(networks[0], peers[1].model_copy(update={"host": second.address6}))
    assert not first.ping("a1", "10.7.0.2")
    # Without its rule it would go out, and the other host does not let it in.
    run(first.netns, "nft", "delete", "table", "inet", first.tag.table)
    before = _received(second)
    assert not first.ping("a1", "10.7.0.2")
    assert _received(second) == before
    first.reconciler.repair()
    assert first.reconciler.diff() == []


def _received(host: Host) -> int:
    """Return how many frames the tunnel has received."""
    (link,) = json.loads(run(host.netns, "ip", "-s", "-j", "link", "show", "type", "vxlan").stdout)
    return int(link["stats64"]["rx"]["packets"])


def test_a_process_that_dies_is_started_again_and_goes_at_the_end(pair: tuple[Host, Host]) -> None:
    first, _ = pair
    _set_up(pair)
    _reaches(pair)
    name = f"wg{first.tag.instance}"
    processes = _processes(name)
    if not processes:
        pytest.skip("the kernel has WireGuard: there is no process")
    os.kill(processes[0], signal.SIGKILL)
    until(lambda: any(d.key[0] == "wireguard" for d in first.reconciler.diff()), "the loss of the link")
    first.reconciler.repair()
    assert first.reconciler.diff() == []
    _reaches(pair)
    assert first.reconciler.remove("wireguard") == []
    until(lambda: not _processes(name), "the end of the process")
    assert name not in run(first.netns, "ip", "link").stdout


def _processes(name: str) -> list[int]:
    """Return the userspace processes of a link."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"wireguard-go") and name.encode() in words:
                found.append(int(entry.name))
    return found
