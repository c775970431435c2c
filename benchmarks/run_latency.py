#!/usr/bin/env python3
"""`run --rm IMAGE true` from the command line to its end, on every network, beside Docker and podman.

    benchmarks/run_latency.py [--rounds N] [--peers engine,docker,podman] [--networks none,host,bridge,macvlan]

The engines take turns, in another order each round, so that a busy moment of the machine meets all of them alike.
Only ratios of one run say something about the engines; the milliseconds are those of the machine. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections import defaultdict

from peers import NETWORKS, PEERS, Peer, percentiles, versions

WARM_UP = 2
"""Rounds before those that count."""


def measure(peers: list[Peer], networks: list[str], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Return milliseconds by (network, peer)."""
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for turn in range(-WARM_UP, rounds):
        for network in networks:
            for place in range(len(peers)):
                peer = peers[(turn + place) % len(peers)]
                argv = peer.run(network)
                begin = time.perf_counter()
                done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
                taken = (time.perf_counter() - begin) * 1000
                if done.returncode:
                    raise RuntimeError(f"{' '.join(argv)}: {done.stderr.decode(errors='replace')}")
                if turn >= 0:
                    found[network, peer.name].append(taken)
                # What an engine does behind its client's back must not be the next one's burden.
                time.sleep(0.15)
    return found


def report(found: dict[tuple[str, str], list[float]], networks: list[str], names: list[str]) -> None:
    """Print a table: milliseconds, and ratios to the first engine's."""
    print(f"{'':9} {'':8} {'median':>8} {'p10':>8} {'p90':>8} {'min':>8}   {names[0]}/this: median, min")
    for network in networks:
        own = percentiles(found[network, names[0]])
        for name in names:
            median, low, high, least = percentiles(found[network, name])
            ratio = "" if name == names[0] else f"   {own[0] / median:.2f}  {own[3] / least:.2f}"
            print(f"{network:9} {name:8} {median:8.1f} {low:8.1f} {high:8.1f} {least:8.1f}{ratio}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--networks", default=",".join(NETWORKS))
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("run_latency: needs root, as the engines do")
    names, networks = options.peers.split(","), options.networks.split(",")
    print(versions())
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(PEERS[name]()) for name in names]
        for peer in peers:
            print(peer.version())
        before = os.getloadavg()[0]
        found = measure(peers, networks, options.rounds)
        print(
            f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after; {options.rounds} rounds; milliseconds"
        )
        report(found, networks, names)


if __name__ == "__main__":
    main()
