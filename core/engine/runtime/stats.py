"""Docker's `/containers/ID/stats` object, read from the cgroup (v1 and v2) and from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.runtime.cgroup import Hierarchy, hierarchy
from engine.runtime.logs import rfc3339_nano

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_NEVER = "0001-01-01T00:00:00Z"  # Go's zero time, which docker prints where there was no earlier reading
_NETWORK_FIELDS = ("bytes", "packets", "errors", "dropped")  # the first four columns of each half of /proc/net/dev


def read_stats(
    cgroup_path: str, pid: int, previous: Mapping[str, Any] | None = None, *, cgroups: Hierarchy | None = None
) -> dict[str, Any]:
    """One reading, without `id` and `name`. `previous` is an earlier reading, whose CPU times become `precpu_stats`.

    Files that a kernel or a dead container does not have count as 0. `networks` is missing when the process is gone.
    """
    groups = cgroups or hierarchy()
    reading = _V2(groups, cgroup_path) if groups.unified else _V1(groups, cgroup_path)
    result: dict[str, Any] = {
        "read": rfc3339_nano(time.time_ns()),
        "preread": previous["read"] if previous else _NEVER,
        "pids_stats": reading.pids(),
        "blkio_stats": reading.block_io(),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": {
            **reading.cpu(),
            "system_cpu_usage": system_cpu(Path("/proc/stat").read_text()),
            "online_cpus": len(os.sched_getaffinity(0)),
        },
        "precpu_stats": previous["cpu_stats"] if previous else _V1.no_cpu(),
        "memory_stats": reading.memory(),
    }
    networks = _networks(pid)
    if networks is not None:
        result["networks"] = networks
    return result


def empty_stats() -> dict[str, Any]:
    """What docker answers for a container that does not run."""
    return {
        "read": _NEVER,
        "preread": _NEVER,
        "pids_stats": {},
        "blkio_stats": _block_io(None, None),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _V1.no_cpu(),
        "precpu_stats": _V1.no_cpu(),
        "memory_stats": {},
    }


class _V1:
    """Files of the v1 controllers (Documentation/admin-guide/cgroup-v1)."""

    def __init__(self, groups: Hierarchy, path: str) -> None:
        self._groups = groups
        self._path = path

    @staticmethod
    def no_cpu() -> dict[str, Any]:
        usage = {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}
        return {"cpu_usage": usage, "throttling_data": _throttling(0, 0, 0)}

    def _text(self, controller: str, file: str) -> str:
        directory = self._groups.directory(controller, self._path)
        return "" if directory is None else _text(directory / file)

    def cpu(self) -> dict[str, Any]:
        times = _pairs(self._text("cpuacct", "cpuacct.stat"))
        throttled = _pairs(self._text("cpu", "cpu.stat"))
        return {
            "cpu_usage": {
                "total_usage": _number(self._text("cpuacct", "cpuacct.usage")),
                "percpu_usage": [int(value) for value in self._text("cpuacct", "cpuacct.usage_percpu").split()],
                "usage_in_kernelmode": times.get("system", 0) * _TICK_NS,
                "usage_in_usermode": times.get("user", 0) * _TICK_NS,
            },
            "throttling_data": _throttling(
                throttled.get("nr_periods", 0), throttled.get("nr_throttled", 0), throttled.get("throttled_time", 0)
            ),
        }

    def memory(self) -> dict[str, Any]:
        return {
            "usage": _number(self._text("memory", "memory.usage_in_bytes")),
            "max_usage": _number(self._text("memory", "memory.max_usage_in_bytes")),
            "failcnt": _number(self._text("memory", "memory.failcnt")),
            "limit": _limit(self._text("memory", "memory.limit_in_bytes")),
            "stats": _pairs(self._text("memory", "memory.stat")),
        }

    def pids(self) -> dict[str, Any]:
        return _pids(self._text("pids", "pids.current"), self._text("pids", "pids.max"))

    def block_io(self) -> dict[str, Any]:
        return _block_io(
            list(_v1_io(self._text("blkio", "blkio.throttle.io_service_bytes_recursive"))),
            list(_v1_io(self._text("blkio", "blkio.throttle.io_serviced_recursive"))),
        )


class _V2:
    """Files of the unified hierarchy (Documentation/admin-guide/cgroup-v2)."""

    def __init__(self, groups: Hierarchy, path: str) -> None:
        directory = groups.directory("", path)
        assert directory is not None
        self._directory = directory

    def _text(self, file: str) -> str:
        return _text(self._directory / file)

    def cpu(self) -> dict[str, Any]:
        values = {
            name: value * 1000 if name.endswith("_usec") else value
            for name, value in _pairs(self._text("cpu.stat")).items()
        }
        return {
            "cpu_usage": {
                "total_usage": values.get("usage_usec", 0),
                "usage_in_kernelmode": values.get("system_usec", 0),
                "usage_in_usermode": values.get("user_usec", 0),
            },
            "throttling_data": _throttling(
                values.get("nr_periods", 0), values.get("nr_throttled", 0), values.get("throttled_usec", 0)
            ),
        }

    def memory(self) -> dict[str, Any]:
        return {
            "usage": _number(self._text("memory.current")),
            "limit": _limit(self._text("memory.max")),
            "stats": _pairs(self._text("memory.stat")),
        }

    def pids(self) -> dict[str, Any]:
        return _pids(self._text("pids.current"), self._text("pids.max"))

    def block_io(self) -> dict[str, Any]:
        sizes: list[dict[str, Any]] = []
        counts: list[dict[str, Any]] = []
        for line in self._text("io.stat").splitlines():
            device, *fields = line.split()
            values = dict(field.partition("=")[::2] for field in fields)
            for entries, names in ((sizes, ("rbytes", "wbytes")), (counts, ("rios", "wios"))):
                for operation, name in zip(("read", "write"), names, strict=True):
                    entries.append(_io_entry(device, operation, int(values.get(name, "0"))))
        return _block_io(sizes, counts)


def system_cpu(proc_stat: str) -> int:
    """Nanoseconds of CPU time of the whole host: the first seven columns of /proc/stat (proc_stat(5)), as docker
    sums them.
    """
    line = next(line for line in proc_stat.splitlines() if line.startswith("cpu "))
    return sum(int(value) for value in line.split()[1:8]) * _TICK_NS


def network_counters(proc_net_dev: str) -> dict[str, dict[str, int]]:
    """Counters of each interface except lo, from the text of /proc/PID/net/dev (proc_pid_net(5))."""
    result = {}
    for line in proc_net_dev.splitlines()[2:]:
        name, _, values = line.partition(":")
        columns = values.split()
        if name.strip() == "lo" or len(columns) < 16:
            continue
        received = {f"rx_{field}": int(columns[index]) for index, field in enumerate(_NETWORK_FIELDS)}
        sent = {f"tx_{field}": int(columns[8 + index]) for index, field in enumerate(_NETWORK_FIELDS)}
        result[name.strip()] = received | sent
    return result


def _networks(pid: int) -> dict[str, dict[str, int]] | None:
    text = _text(Path(f"/proc/{pid}/net/dev")) if pid > 0 else ""
    return network_counters(text) if text else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no such controller, or the container has just ended
        return ""


def _number(text: str) -> int:
    word = text.strip()
    return int(word) if word.isdigit() else 0


def _pairs(text: str) -> dict[str, int]:
    return {fields[0]: int(fields[1]) for line in text.splitlines() if len(fields := line.split()) == 2}


def _limit(text: str) -> int:
    """Without a limit (`max`, or v1's huge number) it is the host's memory."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(_number(text) or total, total)


def _pids(current: str, limit: str) -> dict[str, Any]:
    result = {"current": _number(current)}
    return result | {"limit": int(limit)} if limit.strip().isdigit() else result


def _throttling(periods: int, throttled: int, nanoseconds: int) -> dict[str, int]:
    return {"periods": periods, "throttled_periods": throttled, "throttled_time": nanoseconds}


def _block_io(sizes: list[dict[str, Any]] | None, counts: list[dict[str, Any]] | None) -> dict[str, Any]:
    absent = (
        "io_queue",
        "io_service_time",
        "io_wait_time",
        "io_merged",
        "io_time",
        "sectors",
    )  # CFQ's, gone with Linux 5
    return {
        "io_service_bytes_recursive": sizes,
        "io_serviced_recursive": counts,
        **{f"{name}_recursive": None for name in absent},
    }


def _v1_io(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 3:
            yield _io_entry(fields[0], fields[1].lower(), int(fields[2]))


def _io_entry(device: str, operation: str, value: int) -> dict[str, Any]:
    major, _, minor = device.partition(":")
    return {"major": int(major), "minor": int(minor), "op": operation, "value": value}
