#!/usr/bin/env python3
"""Attach and detach of one endpoint, in ms, by how many are on the bridge: ours, CNI, netavark, dockerd.

    benchmarks/attach_peers.py [--rounds 11] [--counts 1,100,500] [--containers 1,100]

The first table is about bare network namespaces: our network manager, with its database, against the CNI bridge plugin
(with host-local) and netavark, as processes. The second is about running containers: `network connect` and `network
disconnect` by the API of the daemon, against dockerd. All take turns. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attachers import SETTLE_SECONDS, WAYS
from machines import Machine
from peers import PEERS, Peer, percentiles, versions

Found = dict[tuple[int, str], list[list[float]]]
"""Milliseconds of attaching and detaching, by number of endpoints and name."""


class Way(Machine):
    """A machine on which `attachers` runs, which does as it is told."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__()

    def __enter__(self) -> Way:
        super().__enter__()
        argv = [*self.entering(), sys.executable, str(Path(__file__).with_name("attachers.py")), self.name]
        self._process = subprocess.Popen(
            [*argv, str(self.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{self.name} does not start")
        return self

    def __exit__(self, *what: Any) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)
        super().__exit__(*what)

    def ask(self, line: str) -> Any:
        """Have something done, and return the answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{line}\n")
        return json.loads(self._process.stdout.readline())


def measure_namespaces(rounds: int, counts: list[int]) -> Found:
    """Measure the ways that need no containers."""
    found: Found = defaultdict(list)
    with contextlib.ExitStack() as stack:
        ways = [stack.enter_context(Way(name)) for name in WAYS]
        pool = stack.enter_context(ThreadPoolExecutor(len(ways)))
        for count in counts:
            list(pool.map(lambda way, count=count: way.ask(f"fill {count}"), ways))
            for turn in range(-1, rounds):
                for place in range(len(ways)):
                    way = ways[(turn + place) % len(ways)]
                    taken = way.ask("once")
                    if turn >= 0:
                        found[count, way.name].append(taken)
    return found


def measure_containers(rounds: int, counts: list[int]) -> Found:
    """Measure the daemons: a container is connected to a second network, on which there are others.

    By its name it comes after `bridge`: so the default route stays where it is, with all of them.
    """
    found: Found = defaultdict(list)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(PEERS[name]()) for name in ("engine", "docker")]
        for peer in peers:
            peer.api("POST", "/networks/create", {"Name": "second"})
            peer.start_container("subject")
        there = 0
        for count in counts:
            with ThreadPoolExecutor(2) as pool:
                for peer in peers:
                    list(pool.map(lambda n, peer=peer: peer.start_container(f"c{n}", "second"), range(there, count)))
            there = count
            for turn in range(-1, rounds):
                for place in range(len(peers)):
                    peer = peers[(turn + place) % len(peers)]
                    taken = [connect(peer, "connect"), connect(peer, "disconnect")]
                    if turn >= 0:
                        found[count, peer.name].append(taken)
        for peer in peers:
            subprocess.run(
                peer.removal("subject", *(f"c{n}" for n in range(there))),
                check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=300,
            )  # fmt: skip
    return found


def connect(peer: Peer, action: str) -> float:
    """Connect or disconnect the subject; return milliseconds."""
    begin = time.perf_counter()
    peer.api("POST", f"/networks/second/{action}", {"Container": "subject"})
    taken = (time.perf_counter() - begin) * 1000
    time.sleep(SETTLE_SECONDS)
    return taken


def report(found: Found, counts: list[int], names: list[str]) -> None:
    """Print a table: milliseconds, ratios to the first one's, and the growth from the least to the greatest count."""
    for place, action in enumerate(("attach", "detach")):
        print(f"{action:9} {'there':>6} {'median':>8} {'p10':>8} {'p90':>8} {'min':>8}   {names[0]}/this: median, min")
        for name in names:
            for count in counts:
                own = percentiles([taken[place] for taken in found[count, names[0]]])
                median, low, high, least = percentiles([taken[place] for taken in found[count, name]])
                ratio = "" if name == names[0] else f"   {own[0] / median:.3f}  {own[3] / least:.3f}"
                print(f"{name:9} {count:6} {median:8.2f} {low:8.2f} {high:8.2f} {least:8.2f}{ratio}")
            first, last = (percentiles([t[place] for t in found[count, name]]) for count in (counts[0], counts[-1]))
            print(
                f"{name:9} growth {counts[0]} -> {counts[-1]}: {last[0] / first[0]:.2f}, min {last[3] / first[3]:.2f}"
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--counts", default="1,100,500")
    parser.add_argument("--containers", default="1,100")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("attach_peers: needs root, as the engines do")
    print(f"{versions()}; load {os.getloadavg()[0]:.1f}")
    counts = [int(word) for word in options.counts.split(",")]
    print("Bare namespaces: network manager, CNI bridge plugin, netavark")
    report(measure_namespaces(options.rounds, counts), counts, list(WAYS))
    if options.containers:
        counts = [int(word) for word in options.containers.split(",")]
        print("Running containers: network connect and disconnect by the API")
        report(measure_containers(options.rounds, counts), counts, ["engine", "docker"])


if __name__ == "__main__":
    main()
