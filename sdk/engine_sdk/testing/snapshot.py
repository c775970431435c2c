"""A picture of the host, taken with the tools of the system and not with the engine's own code: what is left is seen.

Compared are links, addresses, routes, permanent neighbours and forwarding entries, nftables, mounts, loop devices, and
files below directories that are named. Left out is what the kernel adds by itself a moment later (link-local addresses,
multicast routes) and what counts or ages.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine_sdk.testing.checks import NotRun

State = Mapping[str, frozenset[str]]
"""By section: one line for each thing."""
_TOOL_SECONDS = 20.0


def network_state() -> dict[str, frozenset[str]]:
    """Return the state of the network namespace that the calling thread is in."""
    links = _json("ip", "-d", "-j", "address", "show")
    names = {link["ifindex"]: link["ifname"] for link in links}
    return {
        "links": frozenset(_link(link) for link in links),
        "addresses": frozenset(
            f"{link['ifname']}: {a['local']}/{a['prefixlen']}"
            for link in links
            for a in link.get("addr_info", ())
            if not a["local"].startswith("fe80:")
        ),
        "routes": frozenset(_routes()),
        "neighbours": frozenset(_line(n) for n in _json("ip", "-j", "neighbour", "show", "nud", "permanent")),
        "forwarding": frozenset(_line(e) for e in _json("bridge", "-j", "fdb", "show") if "dst" in e),
        "queues": frozenset(_queues(names.values())),
        "firewall": frozenset(_firewall()),
    }


def mount_state(below: Path | None = None) -> dict[str, frozenset[str]]:
    """Return the mounts of this mount namespace, and the loop devices; with `below` only those of that directory."""

    def counts(path: str) -> bool:
        return below is None or path.startswith(f"{below}/")

    backing_files = {f.parent.parent.name: _read(f) for f in Path("/sys/block").glob("loop*/loop/backing_file")}
    return {
        "mounts": frozenset(f"{target}: {facts}" for target, facts in _mounts() if counts(target)),
        "loops": frozenset(f"{loop}: {file}" for loop, file in backing_files.items() if file and counts(file)),
    }


def file_state(*roots: Path) -> dict[str, frozenset[str]]:
    """Return the files and directories below the roots."""
    directories = (found for root in roots for found in os.walk(root))
    return {"files": frozenset(f"{path}/{name}" for path, dirs, files in directories for name in (*dirs, *files))}


def changes(before: State, after: State) -> list[str]:
    """Return the differences of two pictures, one line each: `+` is new, `-` is gone."""
    return [
        f"{sign} {section}: {line}"
        for section in before
        for sign, lines in (("-", before[section] - after[section]), ("+", after[section] - before[section]))
        for line in sorted(lines)
    ]


def _tool(*argv: str) -> str:
    path = shutil.which(argv[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise NotRun(f"the program {argv[0]!r} is not installed (iproute2 and nftables are needed)")
    done = subprocess.run([path, *argv[1:]], capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def _json(*argv: str) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = json.loads(_tool(*argv) or "[]")
    return [item for item in answer if item]


def _line(item: Mapping[str, Any]) -> str:
    return json.dumps(item, sort_keys=True)


def _link(link: Mapping[str, Any]) -> str:
    kept = ("ifindex", "ifname", "link", "link_netnsid", "mtu", "master", "address", "group", "ifalias")
    info = link.get("linkinfo", {})
    shown = {key: link[key] for key in kept if key in link}
    shown |= {"up": "UP" in link["flags"], "kind": info.get("info_kind", "")}
    if shown["kind"] in ("macvlan", "vxlan", "ipvlan", "vlan"):
        shown["data"] = info.get("info_data", {})
    if info.get("info_slave_kind") == "bridge":
        ports = ("hairpin", "isolated", "learning", "neigh_suppress")
        shown["port"] = {key: info["info_slave_data"].get(key) for key in ports}
    return _line(shown)


def _routes() -> Iterable[str]:
    for family in ("-4", "-6"):
        for route in _json("ip", family, "-j", "route", "show", "table", "all"):
            if route.get("type") == "multicast" or route["dst"].startswith(("fe80:", "ff00:", "multicast")):
                continue
            shown = {k: v for k, v in route.items() if k not in ("flags", "expires", "metrics", "pref")}
            yield _line(shown)


def _queues(names: Iterable[str]) -> Iterable[str]:
    """Return queueing disciplines that somebody chose: those of the kernel's own choice have the handle 0."""
    known = set(names)
    for queue in _json("tc", "-j", "qdisc", "show"):
        if queue.get("dev") in known and queue.get("handle") not in ("0:", None):
            yield _line({k: v for k, v in queue.items() if k != "refcnt"})


def _firewall() -> Iterable[str]:
    for item in json.loads(_tool("nft", "-j", "list", "ruleset"))["nftables"]:
        if "metainfo" not in item:
            yield _line(_without_counts(item))


def _without_counts(value: Any) -> Any:
    """Return an nftables object without handles, and with the elements of sets in one order."""
    if isinstance(value, dict):
        kept = {k: _without_counts(v) for k, v in value.items() if k not in ("handle", "packets", "bytes", "expires")}
        if isinstance(kept.get("elem"), list):
            kept["elem"] = sorted(kept["elem"], key=lambda e: json.dumps(e, sort_keys=True))
        return kept
    return [_without_counts(v) for v in value] if isinstance(value, list) else value


def _mounts() -> Iterable[tuple[str, str]]:
    """Yield the mount points and what is mounted there."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        root, target, flags = fields[3:6]
        yield target, f"{kind[0]} {kind[1]} root {root} {flags}"


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:  # detached since it was listed: ENOENT, or ENODEV while it is being detached
        return ""
