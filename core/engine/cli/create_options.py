"""The flags of `run` and `create`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from engine.cli.base import option

_MAIN, _NET, _DISK = "Container", "Network", "Storage"
_LIMITS, _SAFETY, _META = "Resources", "Security and isolation", "Lifecycle and metadata"

Many = list[str]


def _many() -> Many:
    return []


@dataclass
class CreateOptions:
    """Everything that can be said about a new container; text as the user wrote it."""

    # Container
    interactive: Annotated[bool, option("-i", "--interactive", help="Keep stdin open", panel=_MAIN)] = False
    tty: Annotated[bool, option("-t", "--tty", help="Give the container a terminal", panel=_MAIN)] = False
    attach: Annotated[
        Many, option("-a", "--attach", metavar="STREAM", help="Attach only stdin, stdout or stderr", panel=_MAIN)
    ] = field(default_factory=_many)
    name: Annotated[str, option("--name", metavar="NAME", help="Name of the container", panel=_MAIN)] = ""
    env: Annotated[
        Many,
        option("-e", "--env", metavar="NAME[=VALUE]", help="Set a variable, or pass on ours", panel=_MAIN),
    ] = field(default_factory=_many)
    env_file: Annotated[Many, option("--env-file", metavar="FILE", help="Read variables from a file", panel=_MAIN)] = (
        field(default_factory=_many)
    )
    workdir: Annotated[
        str, option("-w", "--workdir", metavar="DIR", help="Working directory in the container", panel=_MAIN)
    ] = ""
    user: Annotated[
        str, option("-u", "--user", metavar="USER[:GROUP]", help="User and group, by name or number", panel=_MAIN)
    ] = ""
    entrypoint: Annotated[
        str | None, option("--entrypoint", metavar="PROGRAM", help="Replace the image's entry point", panel=_MAIN)
    ] = None
    hostname: Annotated[
        str, option("-h", "--hostname", metavar="NAME", help="Host name in the container", panel=_MAIN)
    ] = ""
    domainname: Annotated[
        str, option("--domainname", metavar="NAME", help="NIS domain name in the container", panel=_MAIN)
    ] = ""
    init: Annotated[bool, option("--init", help="Run an init that reaps processes", panel=_MAIN)] = False
    pull: Annotated[
        str, option("--pull", metavar="WHEN", help="Pull the image: missing (default), always, never", panel=_MAIN)
    ] = "missing"
    platform: Annotated[str, option("--platform", metavar="OS/ARCH", help="Platform of the image", panel=_MAIN)] = ""
    quiet: Annotated[bool, option("-q", "--quiet", help="Do not show the pull's progress", panel=_MAIN)] = False

    # Network
    network: Annotated[
        Many,
        option(
            "--network",
            "--net",
            metavar="NETWORK",
            help="Join a network (repeatable): NAME, NAME:ip=…,alias=…, host, none, container:NAME",
            panel=_NET,
        ),
    ] = field(default_factory=_many)
    net_driver: Annotated[
        str,
        option(
            "--net-driver", metavar="DRIVER", help="Join the default network of a driver, made if need be", panel=_NET
        ),
    ] = ""
    net_opt: Annotated[
        Many,
        option(
            "--net-opt",
            metavar="KEY=VALUE",
            help="An option of that driver; see: engine driver show DRIVER",
            panel=_NET,
        ),
    ] = field(default_factory=_many)
    network_alias: Annotated[
        Many, option("--network-alias", "--net-alias", metavar="NAME", help="Further name in the network", panel=_NET)
    ] = field(default_factory=_many)
    ip: Annotated[str, option("--ip", metavar="ADDRESS", help="IPv4 address in the network", panel=_NET)] = ""
    ip6: Annotated[str, option("--ip6", metavar="ADDRESS", help="IPv6 address in the network", panel=_NET)] = ""
    link_local_ip: Annotated[
        Many, option("--link-local-ip", metavar="ADDRESS", help="Link-local address", panel=_NET)
    ] = field(default_factory=_many)
    mac_address: Annotated[
        str, option("--mac-address", metavar="MAC", help="MAC address, e.g. 02:42:ac:11:00:02", panel=_NET)
    ] = ""
    publish: Annotated[
        Many,
        option("-p", "--publish", metavar="[[IP:]HOST:]PORT[/PROTO]", help="Publish a port or a range", panel=_NET),
    ] = field(default_factory=_many)
    publish_all: Annotated[
        bool, option("-P", "--publish-all", help="Publish all exposed ports to free ones", panel=_NET)
    ] = False
    expose: Annotated[Many, option("--expose", metavar="PORT[/PROTO]", help="Expose a port or a range", panel=_NET)] = (
        field(default_factory=_many)
    )
    dns: Annotated[Many, option("--dns", metavar="ADDRESS", help="DNS server", panel=_NET)] = field(
        default_factory=_many
    )
    dns_search: Annotated[Many, option("--dns-search", metavar="DOMAIN", help="DNS search domain", panel=_NET)] = field(
        default_factory=_many
    )
    dns_option: Annotated[
        Many, option("--dns-option", "--dns-opt", metavar="OPTION", help="Option of resolv.conf", panel=_NET)
    ] = field(default_factory=_many)
    add_host: Annotated[
        Many,
        option("--add-host", metavar="NAME:IP", help="Line for /etc/hosts; the IP may be host-gateway", panel=_NET),
    ] = field(default_factory=_many)

    # Storage
    volume: Annotated[
        Many,
        option("-v", "--volume", metavar="[SOURCE:]TARGET[:OPTS]", help="Bind a path, or mount a volume", panel=_DISK),
    ] = field(default_factory=_many)
    mount: Annotated[
        Many,
        option("--mount", metavar="KEY=VALUE,…", help="Mount: type=bind|volume|tmpfs,source=…,target=…", panel=_DISK),
    ] = field(default_factory=_many)
    tmpfs: Annotated[Many, option("--tmpfs", metavar="PATH[:OPTS]", help="Mount a tmpfs", panel=_DISK)] = field(
        default_factory=_many
    )
    volumes_from: Annotated[
        Many, option("--volumes-from", metavar="CONTAINER[:ro]", help="Mount another container's volumes", panel=_DISK)
    ] = field(default_factory=_many)
    volume_driver: Annotated[
        str, option("--volume-driver", metavar="DRIVER", help="Driver of volumes that -v makes", panel=_DISK)
    ] = ""
    read_only: Annotated[bool, option("--read-only", help="Mount the root file system read-only", panel=_DISK)] = False
    shm_size: Annotated[str, option("--shm-size", metavar="SIZE", help="Size of /dev/shm", panel=_DISK)] = ""
    device: Annotated[
        Many, option("--device", metavar="HOST[:CONTAINER[:rwm]]", help="Add a device of the host", panel=_DISK)
    ] = field(default_factory=_many)

    # Resources
    memory: Annotated[str, option("-m", "--memory", metavar="SIZE", help="Memory limit, e.g. 512m", panel=_LIMITS)] = ""
    memory_swap: Annotated[
        str, option("--memory-swap", metavar="SIZE", help="Memory plus swap; -1 for no limit of swap", panel=_LIMITS)
    ] = ""
    memory_reservation: Annotated[
        str, option("--memory-reservation", metavar="SIZE", help="Soft memory limit", panel=_LIMITS)
    ] = ""
    cpus: Annotated[str, option("--cpus", metavar="NUMBER", help="Number of CPUs, e.g. 1.5", panel=_LIMITS)] = ""
    cpu_shares: Annotated[
        str, option("-c", "--cpu-shares", metavar="NUMBER", help="Relative weight of CPU time", panel=_LIMITS)
    ] = ""
    cpu_period: Annotated[str, option("--cpu-period", metavar="US", help="CFS period in µs", panel=_LIMITS)] = ""
    cpu_quota: Annotated[str, option("--cpu-quota", metavar="US", help="CFS quota in µs", panel=_LIMITS)] = ""
    cpuset_cpus: Annotated[
        str, option("--cpuset-cpus", metavar="CPUS", help="CPUs to run on, e.g. 0-2,4", panel=_LIMITS)
    ] = ""
    cpuset_mems: Annotated[str, option("--cpuset-mems", metavar="NODES", help="Memory nodes to use", panel=_LIMITS)] = (
        ""
    )
    pids_limit: Annotated[
        str, option("--pids-limit", metavar="NUMBER", help="Most processes; -1 for no limit", panel=_LIMITS)
    ] = ""
    ulimit: Annotated[
        Many, option("--ulimit", metavar="NAME=SOFT[:HARD]", help="Limit of processes, e.g. nofile=1024", panel=_LIMITS)
    ] = field(default_factory=_many)
    oom_score_adj: Annotated[
        str,
        option("--oom-score-adj", metavar="NUMBER", help="Preference of the OOM killer, -1000 to 1000", panel=_LIMITS),
    ] = ""
    oom_kill_disable: Annotated[
        bool, option("--oom-kill-disable", help="Never kill for lack of memory", panel=_LIMITS)
    ] = False

    # Security and isolation
    privileged: Annotated[bool, option("--privileged", help="Give all rights of the host", panel=_SAFETY)] = False
    cap_add: Annotated[Many, option("--cap-add", metavar="CAP", help="Add a capability, or ALL", panel=_SAFETY)] = (
        field(default_factory=_many)
    )
    cap_drop: Annotated[Many, option("--cap-drop", metavar="CAP", help="Drop a capability, or ALL", panel=_SAFETY)] = (
        field(default_factory=_many)
    )
    security_opt: Annotated[
        Many, option("--security-opt", metavar="OPTION", help="seccomp=FILE, no-new-privileges …", panel=_SAFETY)
    ] = field(default_factory=_many)
    group_add: Annotated[
        Many, option("--group-add", metavar="GROUP", help="Further group of the process", panel=_SAFETY)
    ] = field(default_factory=_many)
    sysctl: Annotated[
        Many, option("--sysctl", metavar="KEY=VALUE", help="Kernel parameter of its namespaces", panel=_SAFETY)
    ] = field(default_factory=_many)
    ipc: Annotated[
        str,
        option("--ipc", metavar="MODE", help="IPC namespace: private, host, shareable, container:NAME", panel=_SAFETY),
    ] = ""
    pid: Annotated[str, option("--pid", metavar="MODE", help="PID namespace: host, container:NAME", panel=_SAFETY)] = ""
    uts: Annotated[str, option("--uts", metavar="MODE", help="UTS namespace: host", panel=_SAFETY)] = ""
    userns: Annotated[str, option("--userns", metavar="MODE", help="User namespace: host", panel=_SAFETY)] = ""
    cgroupns: Annotated[
        str, option("--cgroupns", metavar="MODE", help="Cgroup namespace: private, host", panel=_SAFETY)
    ] = ""
    cgroup_parent: Annotated[str, option("--cgroup-parent", metavar="PATH", help="Parent cgroup", panel=_SAFETY)] = ""
    runtime: Annotated[str, option("--runtime", metavar="NAME", help="OCI runtime", panel=_SAFETY)] = ""

    # Lifecycle and metadata
    rm: Annotated[bool, option("--rm", help="Remove the container when it exits", panel=_META)] = False
    restart: Annotated[
        str, option("--restart", metavar="POLICY", help="no, on-failure[:N], always, unless-stopped", panel=_META)
    ] = ""
    stop_signal: Annotated[
        str, option("--stop-signal", metavar="SIGNAL", help="Signal that stops it (SIGTERM)", panel=_META)
    ] = ""
    stop_timeout: Annotated[
        str, option("--stop-timeout", metavar="SECONDS", help="Patience before it is killed (10)", panel=_META)
    ] = ""
    label: Annotated[Many, option("-l", "--label", metavar="KEY[=VALUE]", help="Label", panel=_META)] = field(
        default_factory=_many
    )
    label_file: Annotated[Many, option("--label-file", metavar="FILE", help="Read labels from a file", panel=_META)] = (
        field(default_factory=_many)
    )
    annotation: Annotated[
        Many, option("--annotation", metavar="KEY=VALUE", help="Annotation of the OCI runtime", panel=_META)
    ] = field(default_factory=_many)
    cidfile: Annotated[
        str, option("--cidfile", metavar="FILE", help="Write the container's id to a new file", panel=_META)
    ] = ""
    log_driver: Annotated[
        str, option("--log-driver", metavar="DRIVER", help="json-file (default) or none", panel=_META)
    ] = ""
    log_opt: Annotated[Many, option("--log-opt", metavar="KEY=VALUE", help="Option of the log driver", panel=_META)] = (
        field(default_factory=_many)
    )
    no_healthcheck: Annotated[
        bool, option("--no-healthcheck", help="Switch the image's health check off", panel=_META)
    ] = False
    health_cmd: Annotated[
        str, option("--health-cmd", metavar="COMMAND", help="Command that tells health", panel=_META)
    ] = ""
    health_interval: Annotated[
        str, option("--health-interval", metavar="DURATION", help="Time between checks", panel=_META)
    ] = ""
    health_timeout: Annotated[
        str, option("--health-timeout", metavar="DURATION", help="Most time of one check", panel=_META)
    ] = ""
    health_start_period: Annotated[
        str, option("--health-start-period", metavar="DURATION", help="Time to start up", panel=_META)
    ] = ""
    health_retries: Annotated[
        str, option("--health-retries", metavar="NUMBER", help="Failures until unhealthy", panel=_META)
    ] = ""
