"""The whole state of a host, as far as an engine could change it: to show that something left nothing behind.

`network(...)` is of the calling thread's network namespace and of the sandboxes given; `mounts()` of its mount
namespace. Both are plain values: compare with `==`, or with `assert_same`, which shows what differs. `traces()` is a
cheap set of names of everything that an engine may leave on the host, for a guard around every test.
"""

from __future__ import annotations

import difflib
import json
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_VOLATILE = frozenset(
    {"ifindex", "valid_life_time", "preferred_life_time", "operstate", "flags", "link_index", "used", "updated",
     "probes", "cacheinfo", "refcnt", "qlen", "txqlen", "linkinfo_stats", "tentative", "stats", "stats64", "lastuse",
     "link_netnsid", "age", "confirmed", "root_id", "bridge_id", "info_xstats", "hello_timer", "gc_timer", "tcn_timer",
     "topology_change_timer", "tso_max_size", "tso_max_segs", "carrier_changes", "rx_queue_len", "options", "dynamic",
     "offload"}
)  # fmt: skip
_SYSCTLS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/route_localnet")


def _run(*argv: str, sandbox: Path | None = None) -> str:
    words = ["nsenter", f"--net={sandbox}", *argv] if sandbox else list(argv)
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        if "designated_port" in value:  # a bridge's port: whether its carrier has come yet is not of interest
            value = {key: item for key, item in value.items() if key not in ("state", "config_pending")}
        kept = {key: _steady(item) for key, item in value.items() if key not in _VOLATILE}
        return {key: item for key, item in kept.items() if not key.startswith("multicast") and "timer" not in key}
    return [_steady(item) for item in value] if isinstance(value, list) else value


def _lines(items: Iterable[Any]) -> list[str]:
    return sorted(json.dumps(_steady(item), sort_keys=True) for item in items)


def _json(*argv: str, sandbox: Path | None) -> list[Any]:
    found: list[Any] = json.loads(_run(*argv, sandbox=sandbox) or "[]")
    return found


def _namespace(sandbox: Path | None) -> dict[str, list[str]]:
    links = _json("ip", "-d", "-j", "address", sandbox=sandbox)
    for link in links:
        link["up"] = "UP" in link.get("flags", ())
        # A link-local address comes when the kernel finds the time.
        link["addr_info"] = [a for a in link.get("addr_info", ()) if a.get("scope") != "link"]
    routes = [
        route
        for family in ("-4", "-6")
        for route in _json("ip", "-d", family, "-j", "route", "show", "table", "all", sandbox=sandbox)
        if route.get("type") == "unicast" and not str(route.get("dst")).startswith("fe80")
    ]
    neighbours = [n for n in _json("ip", "-d", "-j", "neighbour", sandbox=sandbox) if "PERMANENT" in n.get("state", ())]
    entries = _json("bridge", "-j", "fdb", sandbox=sandbox)
    entries = [e for e in entries if not str(e.get("mac")).startswith(("33:33", "01:00:5e")) and e.get("state")]
    queues = [q for q in _json("tc", "-j", "qdisc", sandbox=sandbox) if q.get("kind") != "noqueue"]
    sysctls = [f"{name} = {_run('cat', f'/proc/sys/{name}', sandbox=sandbox).strip()}" for name in _SYSCTLS]
    return {
        "links": _lines(links), "routes": _lines(routes), "neighbours": _lines(neighbours), "entries": _lines(entries),
        "queues": _lines(queues), "sysctls": sysctls,
    }  # fmt: skip


def network(*sandboxes: Path) -> dict[str, Any]:
    """Return links, addresses, routes, neighbours, forwarding entries, queues, switches and firewall."""
    state: dict[str, Any] = {"host": _namespace(None), "firewall": _run("nft", "list", "ruleset").splitlines()}
    for sandbox in sandboxes:
        state[str(sandbox)] = _namespace(sandbox)
    return state


def mounts(below: Path | str = "/") -> list[str]:
    """Return mount points at and below a directory, with file system type and source."""
    prefix = str(below).rstrip("/") + "/"
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split()[4]
        if (point + "/").startswith(prefix):
            found.append(f"{point} {' '.join(rest.split()[:2])}")
    return sorted(found)


def traces(*directories: Path | str) -> set[str]:
    """Return names of what an engine may leave: links, tables, mounts and files below directories, loop devices."""
    found = {f"link {name}" for name in (path.name for path in Path("/sys/class/net").iterdir())}
    found |= {f"table {line}" for line in _run("nft", "list", "tables").splitlines()}
    found |= {f"loop {line}" for line in _run("losetup", "-l", "-n", "-O", "NAME,BACK-FILE").splitlines()}
    for directory in directories:
        found |= {f"mount {line}" for line in mounts(directory)}
        found |= {f"file {path}" for path in Path(directory).rglob("*")}
    return found


def assert_same(before: Any, after: Any) -> None:
    """Fail, showing what differs, unless two states are equal."""
    if before == after:
        return
    old, new = (json.dumps(state, indent=1, sort_keys=True).splitlines() for state in (before, after))
    raise AssertionError("the state differs:\n" + "\n".join(difflib.unified_diff(old, new, "before", "after", n=0)))


def assert_becomes(expected: Any, look: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until a look shows the expected state: the kernel takes some 50 ms to remove a namespace's links."""
    until = time.monotonic() + seconds
    while (seen := look()) != expected and time.monotonic() < until:
        time.sleep(0.02)
    assert_same(expected, seen)
