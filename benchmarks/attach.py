"""Attach and detach of an endpoint on a bridge, in ms, by how many are there already.

Run as root in namespaces of its own, on an otherwise idle machine:  unshare -nm python benchmarks/attach.py
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from engine.reconcile import netns
from engine.reconcile.applier import Tag
from engine.reconcile.appliers import network_appliers
from engine.reconcile.reconciler import Reconciler
from engine.spec.firewall import Masquerade, PortMap, Segment
from engine.spec.links import Address, Bridge, Route, Veth
from engine.spec.resource import Plan, Resource

NETWORK = Plan.of(
    Segment(link="br0"),
    Masquerade(subnet="10.9.0.0/16"),
    Bridge(name="br0", mac="02:42:00:00:00:01", mtu=1400),
    Address(ns="host", link="br0", address="10.9.0.1/16"),
)


def endpoint(i: int, *more: Resource) -> Plan:
    address = f"10.9.{i // 250}.{i % 250 + 2}"
    return Plan.of(
        Veth(name=f"v{i}", peer="eth0", master="br0", mtu=1400, peer_mtu=1400),
        Address(link="eth0", address=f"{address}/16"),
        Route(destination="0.0.0.0/0", via="10.9.0.1", link="eth0"),
        *more,
    )


def summary(seconds: list[float]) -> str:
    values = sorted(1000 * second for second in seconds)
    return f"{statistics.median(values):.2f} [{values[len(values) // 10]:.2f}-{values[-1 - len(values) // 10]:.2f}]"


def measure(reconciler: Reconciler, directory: Path, first: int, rounds: int, ports: int) -> tuple[str, str, str]:
    """Return the times of making a namespace, of attaching and of detaching, for further endpoints one at a time."""
    new, attach, detach = [], [], []
    for i in range(first, first + rounds):
        published = [
            PortMap(protocol="tcp", host_port=9000 + i * ports + n, target="10.9.0.9", target_port=80)
            for n in range(ports)
        ]
        plan = endpoint(i, *published)
        started = time.perf_counter()
        sandbox = netns.create(directory / str(i))
        made = time.perf_counter()
        reconciler.apply(f"ep:{i}", plan, sandbox=sandbox)
        attached = time.perf_counter()
        time.sleep(0.01)
        ending = time.perf_counter()
        netns.destroy(sandbox.path)
        reconciler.remove(f"ep:{i}", namespace_gone=True)
        detach.append(time.perf_counter() - ending)
        new.append(made - started)
        attach.append(attached - made)
        time.sleep(0.06)  # the kernel removes the links of the namespace behind our back
    return summary(new), summary(attach), summary(detach)


def main() -> None:
    """Print a table."""
    tag = Tag("be9c4a11", 0x0BE9C4A1, "engine_be9c4a11")
    reconciler = Reconciler(tag, network_appliers(tag))
    reconciler.apply("net", NETWORK)
    directory = Path(tempfile.mkdtemp(prefix="attach-"))
    print(f"{'endpoints':>9} {'ports':>5}  {'namespace':<18} {'attach':<18} detach   (median [p10-p90])")
    there = 0
    for count in [int(word) for word in sys.argv[1:]] or [0, 100]:
        for i in range(there, count):
            reconciler.apply(f"ep:{i}", endpoint(i), sandbox=netns.create(directory / str(i)))
        there = count
        for ports in (0, 1):
            new, attach, detach = measure(reconciler, directory, 1000, 21, ports)
            print(f"{count:>9} {ports:>5}  {new:<18} {attach:<18} {detach}")
    for path in netns.present(directory):
        netns.destroy(path)
    directory.rmdir()
    reconciler.close()


if __name__ == "__main__":
    main()
