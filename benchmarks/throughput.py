#!/usr/bin/env python3
"""Throughput and round trip of TCP: a bare bridge, our bridge and published port, Docker's.

    benchmarks/throughput.py [--rounds 5] [--seconds 1]

`bare`: two network namespaces on a bridge that `ip` made. `bridge`: from one container to another of the same network.
`published`: from another machine on the wire to a published port. All take turns; the ends are the same program. Only
ratios within a run count: the ends share the processors. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from machines import Machine, output
from peers import PEERS, Peer, percentiles, versions

PORT = 5001
OUTSIDE, INSIDE = "192.0.2.1", "192.0.2.2"
"""The machine on the wire, and the one with the containers."""
PROGRAM = str(Path(__file__).with_name("traffic.py"))


@dataclass(frozen=True)
class Way:
    """A way that packets take."""

    name: str
    client: int
    """A process in whose network namespace the client is."""
    address: str


def serve(stack: contextlib.ExitStack, pid: int) -> None:
    """Serve in the network namespace of a process until the stack ends."""
    argv = ["nsenter", f"--target={pid}", "--net", sys.executable, PROGRAM, "serve", str(PORT)]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE)
    stack.callback(server.wait)
    stack.callback(server.kill)
    assert server.stdout
    server.stdout.readline()


def holder(stack: contextlib.ExitStack) -> int:
    """Return a process with a network namespace of its own."""
    process = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 100000"], stdout=subprocess.PIPE)
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout
    process.stdout.readline()
    return process.pid


def bare(stack: contextlib.ExitStack) -> Way:
    """Make the limit: two namespaces and a bridge."""
    machine = stack.enter_context(Machine())
    machine.inside("ip", "link", "add", "br0", "type", "bridge")
    machine.inside("ip", "link", "set", "br0", "up")
    pids = [holder(stack) for _ in range(2)]
    for n, pid in enumerate(pids, 1):
        machine.inside("ip", "link", "add", f"v{n}", "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        machine.inside("ip", "link", "set", f"v{n}", "up", "master", "br0")
        for words in (f"address add 10.1.0.{n}/24 dev eth0", "link set eth0 up"):
            output("nsenter", f"--target={pid}", "--net", "ip", *words.split())
    serve(stack, pids[0])
    return Way("bare", pids[1], "10.1.0.1")


def of_engine(stack: contextlib.ExitStack, name: str) -> list[Way]:
    """Start two containers of an engine, and put a machine on its wire."""
    peer: Peer = stack.enter_context(PEERS[name]())
    server = peer.start_container("server", ports={f"{PORT}/tcp": [{"HostPort": str(PORT)}]})
    client = peer.start_container("client")
    stack.callback(
        subprocess.run, peer.removal("server", "client"), capture_output=True, stdin=subprocess.DEVNULL, timeout=60
    )
    outside = holder(stack)
    peer.inside("ip", "link", "set", "lan0", "netns", str(outside))
    for words in (f"address add {OUTSIDE}/24 dev lan0", "link set lan0 up"):
        output("nsenter", f"--target={outside}", "--net", "ip", *words.split())
    serve(stack, server["State"]["Pid"])
    own = server["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    return [Way(f"{name}, bridge", client["State"]["Pid"], own), Way(f"{name}, published", outside, INSIDE)]


def measure(path: Way, what: str, seconds: float) -> float:
    """Return what a client prints."""
    argv = ["nsenter", f"--target={path.client}", "--net", sys.executable, PROGRAM]
    return float(output(*argv, what, path.address, str(PORT), str(seconds)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("throughput: needs root, as the engines do")
    print(f"{versions()}; load {os.getloadavg()[0]:.1f}")
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        paths = [bare(stack), *of_engine(stack, "engine"), *of_engine(stack, "docker")]
        for turn in range(options.rounds):
            for place in range(len(paths)):
                path = paths[(turn + place) % len(paths)]
                for what in ("throughput", "roundtrip"):
                    found[path.name, what].append(measure(path, what, options.seconds))
                    time.sleep(0.1)
    for what, unit in (("throughput", "Gbit/s"), ("roundtrip", "us")):
        limit = percentiles(found["bare", what])[0]
        print(f"{what:18} {unit:>8} {'p10':>8} {'p90':>8}   this/bare")
        for path in paths:
            median, low, high, _ = percentiles(found[path.name, what])
            print(f"{path.name:18} {median:8.1f} {low:8.1f} {high:8.1f}   {median / limit:.2f}")


if __name__ == "__main__":
    main()
