#!/usr/bin/env python3
"""One more published port, in ms, by how many there are; and the memory of many: ours, CNI portmap, dockerd.

    benchmarks/ports.py [--rounds 11] [--counts 1,100,1000] [--memory 1000]

Ours: the API of the daemon adds a port to a running container, and takes it away again (not timed); the ports that are
there belong to other containers, 100 each. CNI: the portmap plugin alone, for an endpoint that the bridge plugin made.
Memory: what the daemon and the processes that it started take more (PSS) for one container that publishes so many
single ports, with dockerd as it is installed (a docker-proxy for each port and family). Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections import defaultdict

from attach_peers import Way
from machines import memory_kib
from peers import PEERS, Peer, percentiles, versions

FIRST_PORT = 20000
EACH = 100
"""Ports of a container."""


def bindings(first: int, count: int) -> dict[str, list[dict[str, str]]]:
    """Return so many single ports, with a gap after each, so that they cannot be taken for a range."""
    return {f"{port}/tcp": [{"HostPort": str(port)}] for port in range(first, first + 2 * count, 2)}


def measure(rounds: int, counts: list[int]) -> dict[tuple[int, str], list[float]]:
    """Return milliseconds by number of ports, that one included, and name."""
    found: defaultdict[tuple[int, str], list[float]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        engine, cni = stack.enter_context(PEERS["engine"]()), stack.enter_context(Way("cni"))
        engine.start_container("subject")
        cni.ask("fill 1")
        containers, there = ["subject"], 0
        for count in counts:
            while there < count - 1:
                more = min(EACH, count - 1 - there)
                containers.append(f"c{there}")
                engine.start_container(containers[-1], ports=bindings(FIRST_PORT + 2 * there, more))
                there += more
            cni.ask(f"ports {count - 1}")
            for turn in range(-1, rounds):
                for name in ("engine", "cni") if turn % 2 else ("cni", "engine"):
                    taken = add(engine) if name == "engine" else cni.ask("port")
                    if turn >= 0:
                        found[count, name].append(taken)
        remove(engine, containers)
    return found


def add(engine: Peer) -> float:
    """Add a port to the subject and take it away; return the milliseconds of the former."""
    port = 10000
    begin = time.perf_counter()
    engine.api("POST", "/engine/containers/subject/ports", {"PortBindings": {"80/tcp": [{"HostPort": str(port)}]}})
    taken = (time.perf_counter() - begin) * 1000
    engine.api("POST", "/engine/containers/subject/ports/remove", {"Ports": [{"HostPort": port}]})
    return taken


def memory(count: int) -> dict[str, int]:
    """Return by name how many KiB more it takes to publish so many ports."""
    found: dict[str, int] = {}
    for name in ("engine", "docker"):
        with PEERS[name]() as peer:
            peer.start_container("first", ports=bindings(FIRST_PORT - 2, 1))
            before = memory_kib(peer.daemon_pids())
            peer.start_container("many", ports=bindings(FIRST_PORT, count))
            found[name] = memory_kib(peer.daemon_pids()) - before
            remove(peer, ["first", "many"])
    return found


def remove(peer: Peer, names: list[str]) -> None:
    """Remove containers."""
    subprocess.run(peer.removal(*names), check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=300)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--counts", default="1,100,1000")
    parser.add_argument("--memory", type=int, default=1000, help="0: not measured")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("ports: needs root, as the engines do")
    print(f"{versions()}; load {os.getloadavg()[0]:.1f}")
    counts = [int(word) for word in options.counts.split(",")]
    found = measure(options.rounds, counts)
    print(f"{'':9} {'k-th':>6} {'median':>8} {'p10':>8} {'p90':>8} {'min':>8}   engine/this, k/{counts[0]}: medians")
    for name in ("engine", "cni"):
        first = percentiles(found[counts[0], name])
        for count in counts:
            median, low, high, least = percentiles(found[count, name])
            own = percentiles(found[count, "engine"])
            line = f"{name:9} {count:6} {median:8.2f} {low:8.2f} {high:8.2f} {least:8.2f}"
            print(f"{line}   {own[0] / median:.4f}  {median / first[0]:.2f}")
    if options.memory:
        taken = memory(options.memory)
        print(f"memory of {options.memory} ports: engine {taken['engine'] / 1024:.1f} MiB, docker", end=" ")
        print(f"{taken['docker'] / 1024:.1f} MiB, ratio {taken['engine'] / taken['docker']:.4f}")


if __name__ == "__main__":
    main()
