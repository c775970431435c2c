"""Encrypted overlays in a cluster: keys by etcd, changed, and nothing in clear on the wire."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest
from tests.cluster.hosts import TestCluster
from tests.host import until


@pytest.fixture(autouse=True)
def _programs() -> None:
    missing = [name for name in ("wg", "wireguard-go") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def _ports_on_the_wire(cluster: TestCluster, seconds: float) -> set[int]:
    """Return the UDP ports that packets between the hosts were sent to meanwhile."""
    program = (
        "import socket,time,sys\n"
        "s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons(3)); s.settimeout(0.2)\n"
        "found=set(); end=time.time()+float(sys.argv[1])\n"
        "while time.time()<end:\n"
        "    try: d=s.recv(2048)\n"
        "    except TimeoutError: continue\n"
        "    if d[12:14]==b'\\x08\\x00' and d[23]==17: found.add(int.from_bytes(d[36:38],'big'))\n"
        "    if d[12:14]==b'\\x86\\xdd' and d[20]==17: found.add(int.from_bytes(d[56:58],'big'))\n"
        "print(*found)\n"
    )
    argv = [*cluster.wire.enter, "python3", "-c", program, str(seconds)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    return {int(word) for word in done.stdout.split()}


def test_traffic_between_hosts_is_encrypted_and_goes_on_with_another_key(cluster: TestCluster) -> None:
    first, second, _ = cluster.hosts
    first.engine("network", "create", "-d", "overlay", "-o", "encrypted=true", "secret")
    first.engine("network", "create", "-d", "overlay", "plain")
    cluster.run_everywhere("secret")
    cluster.until_all_reach_all()
    assert second.inside("c2", "ip", "link", "show", "eth0").stdout.split("mtu ")[1].split()[0] == "1350"
    address = second.engine("inspect", "-f", "{{.NetworkSettings.Networks.secret.IPAddress}}", "c2").stdout.strip()
    id = first.engine("inspect", "-f", "{{.Id}}", "c1").stdout.strip()
    with first.process("nsenter", f"--net={first.exec_root / 'netns' / id}", "ping", "-i0.1", address):
        ports = _ports_on_the_wire(cluster, 1.5)
    assert 51820 in ports
    assert not {4789, 4790} & ports
    # Another key: the daemon changes one that is old, here at its start.
    key = first.data_root / "cluster" / "wireguard.key"
    former = key.read_text()
    assert key.stat().st_mode & 0o77 == 0
    os.utime(key, (time.time() - 8 * 24 * 3600,) * 2)
    first.restart_daemon()
    until(lambda: key.read_text() != former, "another key")
    cluster.until_all_reach_all()
    second.kill_daemon()
    assert first.ping("c1", address), "traffic goes on without a daemon"
    second.start_daemon()
    cluster.until_all_reach_all()
    for host in cluster.hosts:
        host.until_healthy()


def test_without_its_link_nothing_is_sent(cluster: TestCluster) -> None:
    first = cluster.hosts[0]
    first.engine("network", "create", "-d", "overlay", "-o", "encrypted=true", "secret")
    cluster.run_everywhere("secret")
    cluster.until_all_reach_all()
    name = f"wg{first.instance}"
    first.run("ip", "link", "delete", name)
    until(lambda: name in first.run("ip", "-br", "link").stdout, "the link is made anew")
    cluster.until_all_reach_all()
    for host in cluster.hosts:
        host.clear()
        until(lambda: "wg" not in host.run("ip", "-br", "link").stdout, "the link goes with the last network")  # noqa: B023
