#!/usr/bin/env python3
"""Many containers at once: `run -d` at a concurrency, then the removal of all, beside Docker.

    benchmarks/many_starts.py [--count 50] [--concurrency 8] [--peers engine,docker]

Each start is one call of the command line on the bridge network. Afterwards nothing of the containers may be left.
Needs root.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from peers import PEERS, Peer, versions

SETTLE_SECONDS = 10.0
"""For so long what a removal left may go by itself."""


def run(argv: list[str]) -> None:
    """Run a command; RuntimeError if it fails."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.decode(errors='replace')}")


def measure(peer: Peer, count: int, concurrency: int) -> tuple[float, float, list[str]]:
    """Return the seconds of all starts, those of the removal, and what is left."""
    run(peer.run("bridge"))
    names = [f"many{n}" for n in range(count)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(lambda name: run(peer.detached(name)), names))
    started = time.perf_counter()
    run(peer.removal(*names))
    removed = time.perf_counter()
    deadline = time.monotonic() + SETTLE_SECONDS
    while (left := peer.left()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return started - begin, removed - started, left


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--peers", default="engine,docker")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("many_starts: needs root, as the engines do")
    print(versions())
    rates: dict[str, float] = {}
    for name in options.peers.split(","):
        with PEERS[name]() as peer:
            load = os.getloadavg()[0]
            starts, removal, left = measure(peer, options.count, options.concurrency)
            rates[name] = options.count / starts
            print(f"{peer.version()}: {options.count} starts {starts:.1f} s ({rates[name]:.1f}/s),", end=" ")
            print(f"removal {removal:.1f} s, load before {load:.1f}, left: {', '.join(left) or 'nothing'}")
    first = next(iter(rates))
    for name in list(rates)[1:]:
        print(f"starts per second, {first}/{name}: {rates[first] / rates[name]:.2f}")


if __name__ == "__main__":
    main()
