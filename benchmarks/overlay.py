"""The overlay between two hosts against a VXLAN made by hand between the same namespaces; and how soon a new container
is reached from another host.

Run as root on an otherwise idle machine, with etcd installed:  python benchmarks/overlay.py [ROUNDS [ENDPOINTS]]

Both tunnels lead over one wire: the hosts of tests/cluster. Throughput is one TCP connection for two seconds, the round
trip a datagram that is sent back, each by small Python programs in the containers' namespaces: it is the ratio that
counts. Overlay and hand-made take turns. ENDPOINTS (0) is how many the cluster has on the network besides; they are
written into etcd alone, as endpoints of one more host.
"""

from __future__ import annotations

import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.cluster.hosts import ClusterHost, TestCluster
from tests.host import until

SECONDS, ECHOES = 2.0, 3000
_SERVER = """
import socket, sys, threading
stream = socket.create_server((sys.argv[1], 7001))
echo = socket.socket(type=socket.SOCK_DGRAM)
echo.bind((sys.argv[1], 7002))
def answer():
    while True:
        data, who = echo.recvfrom(2000)
        echo.sendto(data, who)
threading.Thread(target=answer, daemon=True).start()
print("ready", flush=True)
buffer = bytearray(1 << 20)
while True:
    connection, _ = stream.accept()
    total = 0
    while n := connection.recv_into(buffer):
        total += n
    connection.close()
"""
_THROUGHPUT = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 7001))
data, total, end = bytes(1 << 18), 0, time.monotonic() + float(sys.argv[2])
start = time.monotonic()
while time.monotonic() < end:
    connection.sendall(data)
    total += len(data)
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
print(total * 8 / (time.monotonic() - start))
"""
_ROUND_TRIP = """
import socket, statistics, sys, time
echo = socket.socket(type=socket.SOCK_DGRAM)
echo.connect((sys.argv[1], 7002))
echo.settimeout(2)
times = []
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    echo.send(b"x" * 64)
    echo.recv(2000)
    times.append(time.perf_counter() - start)
print(statistics.median(times))
"""


def sandbox(host: ClusterHost, container: str) -> Path:
    """Return the network namespace of a container."""
    return host.exec_root / "netns" / host.engine("inspect", "-f", "{{.Id}}", container).stdout.strip()


def within(host: ClusterHost, namespace: Path, *argv: str) -> list[str]:
    """Return the command line that runs a program in a namespace of a host's."""
    return [*host.enter, "nsenter", f"--net={namespace}", *argv]


def by_hand(cluster: TestCluster, directory: Path) -> tuple[Path, Path]:
    """Make what the overlay makes, with ip(8): a bridge, a tunnel, a namespace on each of two hosts."""
    ends = []
    first, second = cluster.hosts[:2]
    for host, other, number in ((first, second, 1), (second, first, 2)):
        namespace = directory / f"hand{number}"
        namespace.touch()
        host.run("unshare", f"--net={namespace}", "ip", "link", "set", "lo", "up")
        mac, peer = f"02:00:00:00:00:0{number}", f"02:00:00:00:00:0{3 - number}"
        for line in (
            "link add hbr type bridge", "link set hbr mtu 1450 up",
            f"link add hvx type vxlan id 99 dstport 4789 local {host.address} nolearning",
            "link set hvx mtu 1450 master hbr up",
            "link add hv0 type veth peer name hv1", "link set hv0 mtu 1450 master hbr up",
            f"link set hv1 mtu 1450 address {mac}",
        ):  # fmt: skip
            host.run("ip", *line.split())
        host.run("bridge", "fdb", "add", peer, "dev", "hvx", "dst", other.address, "self", "permanent")
        host.run("bridge", "fdb", "add", peer, "dev", "hvx", "master", "static")
        host.run("ip", "link", "set", "hv1", "netns", str(namespace))
        for line in ("link set hv1 up", f"address add 10.99.0.{number}/24 dev hv1",
                     f"neigh add 10.99.0.{3 - number} lladdr {peer} dev hv1"):  # fmt: skip
            host.run("nsenter", f"--net={namespace}", "ip", *line.split())
        ends.append(namespace)
    return ends[0], ends[1]


def serve(host: ClusterHost, namespace: Path, address: str) -> subprocess.Popen[str]:
    """Start the other end of the measurements."""
    argv = within(host, namespace, sys.executable, "-I", "-S", "-c", _SERVER, address)
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def measure(host: ClusterHost, namespace: Path, target: str) -> tuple[float, float]:
    """Return throughput in bits a second, and the round trip in seconds."""
    values = []
    for program, amount in ((_THROUGHPUT, SECONDS), (_ROUND_TRIP, ECHOES)):
        argv = within(host, namespace, sys.executable, "-I", "-S", "-c", program, target, str(amount))
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
        values.append(float(done.stdout))
    return values[0], values[1]


def crowd(cluster: TestCluster, network: str, count: int) -> None:
    """Write endpoints of one more host into etcd, and wait until the first host has entries for all."""
    member = cluster.members[0]
    node = {"name": "crowd", "id": "00", "address": "192.0.2.250"}
    member.control("put", "engine/1/nodes/crowd", json.dumps(node))
    for n in range(count):
        id, low = secrets.token_hex(16), f"{(n >> 8) + 1}.{n & 255}"
        mac = f"02:42:0a:40:{(n >> 8) + 1:02x}:{n & 255:02x}"
        endpoint = {"id": id, "network": network, "node": "crowd", "mac": mac, "addresses": [f"10.64.{low}/16"],
                    "name": f"crowd{n}"}  # fmt: skip
        member.control("put", f"engine/1/endpoints/{network}/{id}", json.dumps(endpoint))
    first = cluster.hosts[0]
    until(lambda: len(first.entries()["fdb"]) >= count, "entries for all", 120)


def reachable_after(cluster: TestCluster, rounds: int) -> list[float]:
    """Return how long after its start on the second host a container is first reached from the first, in seconds; less
    than 0 if it is reached before its process runs.

    Measured from the moment at which the daemon says that it runs, by an echo request every millisecond.
    """
    first, second = cluster.hosts[:2]
    times = []
    for n in range(rounds):
        address = f"10.64.0.{100 + n}"
        second.engine("create", "--name", f"new{n}", "--network", "net", "--ip", address, "busybox", "sleep", "1000")
        watcher = subprocess.Popen(
            within(first, sandbox(first, "c1"), sys.executable, "-I", "-S", "-c", _WATCH, address),
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert watcher.stdout is not None
        watcher.stdout.readline()
        second.request("POST", f"/v1.44/containers/new{n}/start")
        started = time.time()
        times.append(float(watcher.communicate(timeout=30)[0]) - started)
        second.engine("rm", "-f", f"new{n}")
    return times


# Frames that name the container's MAC address, which follows from its address: asking for it before there is an answer
# would keep the kernel from asking again for a second.
_WATCH = """
import fcntl, socket, struct, sys, time
target = socket.inet_aton(sys.argv[1])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
wire.bind(("eth0", 0x0800))
wire.settimeout(0.001)
mac = wire.getsockname()[4]
own = fcntl.ioctl(wire, 0x8915, struct.pack("16s16x", b"eth0"))[20:24]
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    return ~((total >> 16) + (total & 0xFFFF)) & 0xFFFF
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 1, 0, own, target)
ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
echo = struct.pack("!BBHHH", 8, 0, 0, 7, 7)
echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
frame = bytes.fromhex("0242") + target + mac + b"\\x08\\x00" + ip + echo
print("watching", flush=True)
while True:
    wire.send(frame)
    try:
        while True:
            answer = wire.recv(2000)
            if answer[26:30] == target and answer[34] == 0:
                print(time.time())
                sys.exit()
    except TimeoutError:
        pass
"""


def main() -> None:
    """Print a table."""
    rounds, endpoints = ([int(word) for word in sys.argv[1:]] + [5, 0][len(sys.argv) - 1 :])[:2]
    with TestCluster(hosts=2) as cluster, tempfile.TemporaryDirectory() as directory:
        first, second = cluster.hosts
        network = first.engine("network", "create", "-d", "overlay", "--subnet", "10.64.0.0/16", "net").stdout.strip()
        cluster.run_everywhere("net")
        cluster.until_all_reach_all()
        form = "{{.NetworkSettings.Networks.net.IPAddress}}"
        address = second.engine("inspect", "-f", form, "c2").stdout.strip()
        here, there = by_hand(cluster, Path(directory))
        kinds = {
            "overlay": (sandbox(first, "c1"), address, serve(second, sandbox(second, "c2"), address)),
            "by hand": (here, "10.99.0.2", serve(second, there, "10.99.0.2")),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
        try:
            for _ in range(rounds):
                for name, (namespace, target, _) in kinds.items():
                    found[name].append(measure(first, namespace, target))
        finally:
            for _, _, process in kinds.values():
                process.kill()
                process.wait()
        print(f"{'':<10} {'Gbit/s':>8} {'round trip, us':>15}   (medians of {rounds})")
        medians = {}
        for name, values in found.items():
            medians[name] = tuple(statistics.median(column) for column in zip(*values, strict=True))
            print(f"{name:<10} {medians[name][0] / 1e9:>8.2f} {medians[name][1] * 1e6:>15.1f}")
        (speed, trip), (hand_speed, hand_trip) = medians["overlay"], medians["by hand"]
        print(f"{'ratio':<10} {speed / hand_speed:>8.3f} {trip / hand_trip:>15.3f}")
        if endpoints:
            crowd(cluster, network, endpoints)
        times = sorted(1000 * t for t in reachable_after(cluster, 4 * rounds))
        print(f"a new endpoint is reached after {statistics.median(times):.0f} ms "
              f"[{times[0]:.0f}-{times[-1]:.0f}], with {endpoints} more on the network")  # fmt: skip


if __name__ == "__main__":
    main()
