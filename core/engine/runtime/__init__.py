"""Runs containers: conmon as monitor, crun or runc as OCI runtime, and the OCI spec for them.

The life of a container, all of it synchronous and thread-safe:

    runtime = probe_runtime(exec_root)
    conmon = Conmon(runtime=runtime, exec_root=exec_root, cgroup="/engine-TAG/conmon")
    bundle = conmon.bundle(container_id)
    pid = conmon.create(bundle, oci_config_text(spec), log_path=...)
    pidfd = conmon.pidfd(bundle)        # readable when the container has ended
    runtime.start(container_id)
    wait_exit(pidfd, None); exit_status(bundle)
    conmon.delete(bundle)
"""

from engine.runtime.bundle import Bundle
from engine.runtime.conmon import Conmon, ExitStatus, attach, exit_status, resize, wait_exit
from engine.runtime.execs import ExecProcess, start_exec
from engine.runtime.failures import CommandNotExecutable, CommandNotFound
from engine.runtime.logs import LogEntry, LogReader, read_logs
from engine.runtime.model import ContainerSpec, Device, ExecSpec, Mount, ProcessSpec, Resources, Ulimit
from engine.runtime.oci import OciRuntime
from engine.runtime.oci_spec import exec_process, oci_config, oci_config_text
from engine.runtime.probe import probe_runtime
from engine.runtime.resources import linux_resources
from engine.runtime.stats import empty_stats, read_stats
from engine.runtime.top import Top, top

__all__ = [
    "Bundle",
    "CommandNotExecutable",
    "CommandNotFound",
    "Conmon",
    "ContainerSpec",
    "Device",
    "ExecProcess",
    "ExecSpec",
    "ExitStatus",
    "LogEntry",
    "LogReader",
    "Mount",
    "OciRuntime",
    "ProcessSpec",
    "Resources",
    "Top",
    "Ulimit",
    "attach",
    "empty_stats",
    "exec_process",
    "exit_status",
    "linux_resources",
    "oci_config",
    "oci_config_text",
    "probe_runtime",
    "read_logs",
    "read_stats",
    "resize",
    "start_exec",
    "top",
    "wait_exit",
]
