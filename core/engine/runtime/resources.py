"""Limits: the OCI `linux.resources` object and the rlimits of a process."""

from __future__ import annotations

import logging
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.runtime.cgroup import hierarchy
from engine.runtime.model import Resources, Ulimit
from engine.spec.errors import InvalidParameter

log = logging.getLogger(__name__)

_CFS_PERIOD = 100_000  # microseconds, the kernel's and docker's default
_MIN_MEMORY = 6 * 1024 * 1024  # docker's minimum


def linux_resources(limits: Resources) -> dict[str, Any]:
    """The OCI object, without devices. Raises InvalidParameter for limits that contradict each other."""
    result: dict[str, Any] = {}
    memory = _memory(limits)
    cpu = _cpu(limits)
    if memory:
        result["memory"] = memory
    if cpu:
        result["cpu"] = cpu
    if limits.pids_limit:
        result["pids"] = {"limit": limits.pids_limit}
    if limits.blkio_weight:
        result["blockIO"] = {"weight": limits.blkio_weight}
    return result


def _memory(limits: Resources) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if limits.memory:
        if limits.memory < _MIN_MEMORY:
            raise InvalidParameter("minimum memory limit allowed is 6MB", why=f"{limits.memory} bytes were asked for")
        result["limit"] = limits.memory
    swap = limits.memory_swap or 2 * limits.memory
    if limits.memory_swap > 0 and limits.memory_swap < limits.memory:
        raise InvalidParameter("minimum memoryswap limit should be larger than memory limit, see usage")
    if swap:
        if not limits.memory:
            raise InvalidParameter("you should always set the memory limit when using memoryswap limit, see usage")
        if swap_accounting():
            result["swap"] = swap
        elif limits.memory_swap:
            log.warning("this kernel does not account for swap: the swap limit of a container is not set")
    if limits.memory_reservation:
        if limits.memory and limits.memory_reservation > limits.memory:
            raise InvalidParameter("minimum memory limit can not be less than memory reservation limit, see usage")
        result["reservation"] = limits.memory_reservation
    if limits.memory_swappiness is not None and limits.memory_swappiness >= 0:
        result["swappiness"] = limits.memory_swappiness
    if limits.oom_kill_disable:
        result["disableOOMKiller"] = True
    return result


def _cpu(limits: Resources) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if limits.cpu_shares:
        result["shares"] = limits.cpu_shares
    if limits.nano_cpus:
        if limits.cpu_quota or limits.cpu_period:
            raise InvalidParameter("conflicting options: Nano CPUs and CPU Period or Quota cannot both be set")
        result["period"] = _CFS_PERIOD
        result["quota"] = limits.nano_cpus * _CFS_PERIOD // 1_000_000_000
    if limits.cpu_period:
        result["period"] = limits.cpu_period
    if limits.cpu_quota:
        result["quota"] = limits.cpu_quota
    if limits.cpuset_cpus:
        result["cpus"] = limits.cpuset_cpus
    if limits.cpuset_mems:
        result["mems"] = limits.cpuset_mems
    return result


def swap_accounting() -> bool:
    """Whether a swap limit can be set here: always on cgroup v2, by a file of the controller on v1."""
    cgroups = hierarchy()
    if cgroups.unified:
        return True
    memory = cgroups.controllers.get("memory")
    return memory is not None and Path(memory, "memory.memsw.limit_in_bytes").exists()


def rlimits(ulimits: Sequence[Ulimit]) -> list[dict[str, Any]]:
    """OCI rlimits.

    A hard limit above our own is lowered to it: only CAP_SYS_RESOURCE could raise it. Raises InvalidParameter.
    """
    return [_rlimit(ulimit) for ulimit in ulimits]


def _rlimit(ulimit: Ulimit) -> dict[str, Any]:
    name = f"RLIMIT_{ulimit.name.upper()}"
    number = getattr(resource, name, None)
    if number is None:
        raise InvalidParameter(f"invalid ulimit type: {ulimit.name}", hint="See getrlimit(2), for example nofile")
    infinity = 2**64 - 1
    soft = infinity if ulimit.soft < 0 else ulimit.soft
    hard = infinity if ulimit.hard < 0 else ulimit.hard
    if soft > hard:
        raise InvalidParameter(
            f"ulimit soft limit must be less than or equal to hard limit: {ulimit.soft} > {ulimit.hard}"
        )
    own = resource.getrlimit(number)[1]
    if own != resource.RLIM_INFINITY and hard > own:
        log.warning("ulimit %s is lowered from %d to %d, the engine's own hard limit", ulimit.name, ulimit.hard, own)
        hard = own
        soft = min(soft, own)
    return {"type": name, "soft": soft, "hard": hard}
