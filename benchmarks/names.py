"""How long a look-up of a name takes with so many containers on one network, and what a container's start pays for it.

    python benchmarks/names.py [--containers 500] [--queries 2000]

As root; it makes network namespaces of its own, and leaves nothing. The client is a bare socket in the namespace of one
of the containers, so what is measured is the way there, the answer, and the way back.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import dns.message

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.namespaces import call_in

from engine.dns.members import Member
from engine.dns.service import NameService
from engine.reconcile import netns


def member(number: int) -> Member:
    id = f"{number:012x}"
    address = f"10.{100 + number // 65536}.{number // 256 % 256}.{number % 256}"
    names = (f"container-{number}", f"alias-{number}", id)
    return Member(
        endpoint=f"e{number}", network="net", network_name="net", container=id, names=names, addresses=(address,)
    )


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


def report(what: str, times: list[float]) -> None:
    ordered = sorted(times)
    p99 = ordered[int(len(ordered) * 0.99)]
    print(f"{what:44} median {statistics.median(times):7.3f} ms   p99 {p99:7.3f} ms   worst {ordered[-1]:7.3f} ms")


def ask_from(namespace: Path, questions: list[bytes]) -> list[float]:
    def ask() -> list[float]:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.11", 53))
            sock.settimeout(5)

            def one(question: bytes) -> None:
                sock.send(question)
                if sock.recv(4096)[3] & 0xF:
                    raise RuntimeError("a name was not found")

            return [timed(lambda question=question: one(question)) for question in questions]

    return call_in(namespace, ask)


def memory() -> float:
    """Return the process's resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--queries", type=int, default=2000)
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    service = NameService()
    with tempfile.TemporaryDirectory() as directory:
        sandboxes = [netns.create(Path(directory) / str(n)) for n in range(args.containers)]
        members = [member(n) for n in range(args.containers)]
        try:
            before = memory()
            starts = []
            for sandbox, one in zip(sandboxes, members, strict=True):
                service._directory.put(one)
                starts.append(timed(lambda one=one, sandbox=sandbox: service.serve(one.container, sandbox)))
            report(f"serve one more of {args.containers} containers", starts)
            names = [random.choice(members).names[0] for _ in range(args.queries)]
            questions = [dns.message.make_query(name, "A").to_wire() for name in names]
            ask_from(sandboxes[0].path, questions[:50])
            print(f"{'memory of them all':44} {memory() - before:.1f} MiB")
            report("look up, one client", ask_from(sandboxes[0].path, questions))
            together: list[float] = []
            threads = [
                threading.Thread(target=lambda s=s: together.extend(ask_from(s.path, questions[: args.queries // 8])))
                for s in sandboxes[:8]
            ]
            start = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rate = len(together) / (time.perf_counter() - start)
            report(f"look up, 8 clients at once ({rate:.0f}/s)", together)
            service.close()
            again = NameService()
            for one in members:
                again._directory.put(one)
            total = timed(lambda: [again.serve(m.container, s) for m, s in zip(members, sandboxes, strict=True)])
            print(f"{'serve all again, after a restart':44} {total:.0f} ms")
            again.close()
        finally:
            for sandbox in sandboxes:
                netns.destroy(sandbox.path)


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("this needs root: it makes network namespaces")
    main()
