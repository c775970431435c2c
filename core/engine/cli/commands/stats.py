"""stats: what containers use, refreshed on a terminal."""

from __future__ import annotations

import sys
import threading
from typing import Annotated, Any

import typer

from engine.cli.base import argument, client_of, option
from engine.cli.client import Client
from engine.cli.errors import Failure
from engine.cli.render.table import Row, write_rows
from engine.cli.render.words import bytes_binary, bytes_decimal, short_id
from engine.cli.terminal import is_terminal

_COLUMNS = {
    "ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %",
    "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
}  # fmt: skip


def stats_row(found: dict[str, Any], *, full: bool) -> Row:
    """Return the fields of `docker stats` for a sample of the API."""
    cpu, before = found.get("cpu_stats") or {}, found.get("precpu_stats") or {}
    used = (cpu.get("cpu_usage") or {}).get("total_usage", 0) - (before.get("cpu_usage") or {}).get("total_usage", 0)
    system = cpu.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    percent = used / system * cpu.get("online_cpus", 1) * 100 if system > 0 and used > 0 else 0.0
    memory = found.get("memory_stats") or {}
    details = memory.get("stats") or {}
    usage, limit = memory.get("usage", 0), memory.get("limit", 0)
    usage -= details.get("total_inactive_file", details.get("inactive_file", 0))
    links = (found.get("networks") or {}).values()
    disk = (found.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    read = sum(e["value"] for e in disk if e["op"].lower() == "read")
    written = sum(e["value"] for e in disk if e["op"].lower() == "write")
    received, sent = sum(n["rx_bytes"] for n in links), sum(n["tx_bytes"] for n in links)
    return {
        "ID": found["id"] if full else short_id(found["id"]),
        "Container": found["id"] if full else short_id(found["id"]),
        "Name": found.get("name", "").lstrip("/"),
        "CPUPerc": f"{percent:.2f}%",
        "MemUsage": f"{bytes_binary(max(usage, 0))} / {bytes_binary(limit)}",
        "MemPerc": f"{100 * max(usage, 0) / limit if limit else 0:.2f}%",
        "NetIO": f"{bytes_decimal(received, 3)} / {bytes_decimal(sent, 3)}",
        "BlockIO": f"{bytes_decimal(read, 3)} / {bytes_decimal(written, 3)}",
        "PIDs": str((found.get("pids_stats") or {}).get("current", 0)),
    }


def _sample(client: Client, name: str, into: dict[str, Row | Failure], full: bool) -> None:
    try:
        found = client.get(f"/containers/{name}/stats", {"stream": "false"})
        into[name] = stats_row(found, full=full)
    except Failure as err:
        into[name] = err


def _samples(client: Client, names: list[str], *, full: bool) -> list[Row]:
    """Sample all at the same time: the daemon takes a second or two for each. Raises Failure for the first error."""
    found: dict[str, Row | Failure] = {}
    threads = [threading.Thread(target=_sample, args=(client, name, found, full)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = []
    for name in names:
        sample = found[name]
        if isinstance(sample, Failure):
            raise sample
        rows.append(sample)
    return rows


def stats(
    ctx: typer.Context,
    containers: Annotated[list[str] | None, argument("[CONTAINER]...")] = None,
    all: Annotated[bool, option("-a", "--all", help="Also those that do not run")] = False,
    no_stream: Annotated[bool, option("--no-stream", help="Once, and end")] = False,
    no_trunc: Annotated[bool, option("--no-trunc", help="Do not cut long values")] = False,
    format: Annotated[str, option("--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
) -> None:
    """Show what containers use of CPU, memory, network and disk."""
    client = client_of(ctx)
    live = is_terminal(1) and not no_stream and not format
    while True:
        names = containers or [c["Id"] for c in client.get("/containers/json", {"all": all})]
        rows = _samples(client, names, full=no_trunc)
        if live:
            sys.stdout.write("\x1b[H\x1b[2J")
        write_rows(rows, _COLUMNS, format=format)
        sys.stdout.flush()
        if no_stream:
            return
