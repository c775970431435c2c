"""Docker's stats and top objects from fixtures of cgroup v1 and v2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.runtime.cgroup import Hierarchy, parse_hierarchy
from engine.runtime.stats import empty_stats, network_counters, read_stats, system_cpu
from engine.runtime.top import parse_ps
from engine.spec.errors import InvalidParameter

NET_DEV = """\
Inter-|   Receive                              |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:  100   1 0 0 0 0 0 0   100   1 0 0 0 0 0 0
  eth0: 1000  10 1 2 0 0 0 0  2000  20 3 4 0 0 0 0
"""


def fill(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_v1(tmp_path: Path) -> None:
    fill(
        tmp_path,
        {
            "cpuacct/c/cpuacct.usage": "5000\n",
            "cpuacct/c/cpuacct.usage_percpu": "2000 3000 \n",
            "cpuacct/c/cpuacct.stat": "user 3\nsystem 2\n",
            "cpu/c/cpu.stat": "nr_periods 7\nnr_throttled 2\nthrottled_time 99\n",
            "memory/c/memory.usage_in_bytes": "4096\n",
            "memory/c/memory.max_usage_in_bytes": "8192\n",
            "memory/c/memory.failcnt": "1\n",
            "memory/c/memory.limit_in_bytes": "1048576\n",
            "memory/c/memory.stat": "cache 1\nrss 2\n",
            "pids/c/pids.current": "3\n",
            "pids/c/pids.max": "10\n",
            "blkio/c/blkio.throttle.io_service_bytes_recursive": "8:0 Read 10\n8:0 Write 20\nTotal 30\n",
            "blkio/c/blkio.throttle.io_serviced_recursive": "8:0 Read 1\n",
        },
    )
    names = ("cpu", "cpuacct", "memory", "pids", "blkio")
    groups = Hierarchy(unified=False, root=tmp_path, controllers={name: tmp_path / name for name in names})
    result = read_stats("/c", 0, cgroups=groups)
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert result["cpu_stats"]["cpu_usage"] == {
        "total_usage": 5000,
        "percpu_usage": [2000, 3000],
        "usage_in_kernelmode": 2 * tick,
        "usage_in_usermode": 3 * tick,
    }
    assert result["cpu_stats"]["throttling_data"] == {"periods": 7, "throttled_periods": 2, "throttled_time": 99}
    assert result["memory_stats"] == {
        "usage": 4096,
        "max_usage": 8192,
        "failcnt": 1,
        "limit": 1048576,
        "stats": {"cache": 1, "rss": 2},
    }
    assert result["pids_stats"] == {"current": 3, "limit": 10}
    assert result["blkio_stats"]["io_service_bytes_recursive"] == [
        {"major": 8, "minor": 0, "op": "read", "value": 10},
        {"major": 8, "minor": 0, "op": "write", "value": 20},
    ]
    assert "networks" not in result


def test_v2(tmp_path: Path) -> None:
    fill(
        tmp_path / "c",
        {
            "cpu.stat": "usage_usec 50\nuser_usec 30\nsystem_usec 20\nnr_periods 7\nnr_throttled 2\nthrottled_usec 9\n",
            "memory.current": "4096\n",
            "memory.max": "max\n",
            "memory.stat": "anon 5\nfile 6\ninactive_file 2\n",
            "pids.current": "3\n",
            "pids.max": "max\n",
            "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
        },
    )
    groups = Hierarchy(unified=True, root=tmp_path, controllers={})
    first = read_stats("/c", 0, cgroups=groups)
    assert first["cpu_stats"]["cpu_usage"] == {
        "total_usage": 50_000,
        "usage_in_kernelmode": 20_000,
        "usage_in_usermode": 30_000,
    }
    assert first["cpu_stats"]["throttling_data"]["throttled_time"] == 9000
    assert first["memory_stats"]["limit"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert first["memory_stats"]["stats"]["inactive_file"] == 2
    assert first["pids_stats"] == {"current": 3}
    assert [entry["value"] for entry in first["blkio_stats"]["io_service_bytes_recursive"]] == [10, 20]
    second = read_stats("/c", os.getpid(), first, cgroups=groups)
    assert second["precpu_stats"] == first["cpu_stats"]
    assert second["preread"] == first["read"]
    assert second["cpu_stats"]["online_cpus"] >= 1
    assert isinstance(second["networks"], dict)


def test_dead_container_reads_as_zero(tmp_path: Path) -> None:
    groups = Hierarchy(unified=True, root=tmp_path, controllers={})
    assert read_stats("/gone", 0, cgroups=groups)["memory_stats"]["usage"] == 0
    assert empty_stats()["pids_stats"] == {}


def test_network_counters() -> None:
    assert network_counters(NET_DEV) == {
        "eth0": {
            "rx_bytes": 1000, "rx_packets": 10, "rx_errors": 1, "rx_dropped": 2,
            "tx_bytes": 2000, "tx_packets": 20, "tx_errors": 3, "tx_dropped": 4,
        }
    }  # fmt: skip


def test_system_cpu() -> None:
    assert system_cpu("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 1 1\n") == 28 * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def test_hierarchies() -> None:
    hybrid = (
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    )
    groups = parse_hierarchy(hybrid)
    assert not groups.unified
    assert set(groups.controllers) == {"cpu", "cpuacct", "name=systemd", ""}
    assert groups.directory("cpuacct", "/a/b") == Path("/sys/fs/cgroup/cpu,cpuacct/a/b")
    assert groups.directory("memory", "/a") is None
    unified = parse_hierarchy("31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n")
    assert unified.unified
    assert unified.directory("memory", "/a") == Path("/sys/fs/cgroup/a")


def test_ps() -> None:
    output = "UID   PID  PPID CMD\nroot    1     0 init\nroot   42     1 sleep 600 x\nroot  420     1 other\n"
    result = parse_ps(output, [42])
    assert result.titles == ("UID", "PID", "PPID", "CMD")
    assert result.processes == (("root", "42", "1", "sleep 600 x"),)
    with pytest.raises(InvalidParameter):
        parse_ps("UID CMD\nroot init\n", [1])
