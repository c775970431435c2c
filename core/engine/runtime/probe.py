"""Which OCI runtime works on this host: found out by running a container, once per boot."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.runtime.conmon import Conmon, exit_status, find_conmon, wait_exit
from engine.runtime.oci import OciRuntime
from engine.runtime.processes import run
from engine.spec.errors import EngineError, Internal, Unavailable

log = logging.getLogger(__name__)

_SECONDS = 20.0
_HYBRID = Path("/sys/fs/cgroup/unified")

# unshare, mount, umount2 (asm/unistd.h) on the machines that the wrapper knows.
_SYSCALLS = {"x86_64": (272, 165, 166), "aarch64": (97, 40, 39)}

# crun refuses hosts whose cgroups are in hybrid mode with a controller in v2. It does not look twice: in a mount
# namespace without the unified mount it takes them for v1. Perl is part of every Debian, makes these calls itself and
# starts in 1.5 ms, where unshare(1), sh, mount and umount would need 15. Only the mount of the cgroups becomes
# private, so propagation of all others stays as it is.
_WITHOUT_UNIFIED = """\
my ($none, $cgroup, $unified) = ("none", "/sys/fs/cgroup", "/sys/fs/cgroup/unified");
syscall({unshare}, 0x20000) == 0 or die "unshare: $!\\n";
syscall({mount}, $none, $cgroup, $none, 0x40000, 0) == 0 or die "mount --make-private $cgroup: $!\\n";
syscall({umount}, $unified, 2) == 0 or die "umount $unified: $!\\n";
exec {{$ARGV[0]}} @ARGV or die "exec $ARGV[0]: $!\\n";
"""


def probe_runtime(exec_root: Path, prefer: str | None = None) -> OciRuntime:
    """The first OCI runtime that works here, crun before runc: with conmon, crun needs 23 ms to start a container where
    runc needs 44 (also through the wrapper below). `prefer` (`crun`, `runc` or a path) allows no other.

    The answer is kept in `exec_root` until the host or one of the programs changes. Raises Unavailable when none
    works.
    """
    exec_root.mkdir(mode=0o700, parents=True, exist_ok=True)
    cache = exec_root / "runtime.json"
    key = _key(prefer)
    known = _read_cache(cache, key)
    if known is not None:
        return known
    runtime = _choose(exec_root, prefer)
    fields = dataclasses.asdict(runtime)
    text = json.dumps({"key": key, "runtime": {**fields, "binary": str(runtime.binary), "root": str(runtime.root)}})
    temporary = cache.with_suffix(f".{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(cache)
    return runtime


def _choose(exec_root: Path, prefer: str | None) -> OciRuntime:
    failures: list[str] = []
    for runtime in _candidates(exec_root, prefer):
        label = runtime.name if len(runtime.monitored) == 1 else f"{runtime.name} without the unified cgroup mount"
        try:
            seconds = try_out(runtime, exec_root)
        except EngineError as err:
            failures.append(f"{label}: {err.why or err}")
            continue
        log.info("OCI runtime %s %s works: %.0f ms for a container's life", label, runtime.version, seconds * 1000)
        for failure in failures:
            log.info("passed over %s", failure)
        return runtime
    raise Unavailable(
        "no OCI runtime works on this host",
        why="; ".join(failures) or f"{prefer or 'neither crun nor runc'} is not installed",
        hint=f"`apt install {prefer if prefer == 'runc' else 'crun'}`" if not failures else "See `engine doctor`",
    )


def _candidates(exec_root: Path, prefer: str | None) -> Iterator[OciRuntime]:
    for name in [prefer] if prefer else ["crun", "runc"]:
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
        if found is None:
            continue
        kind = Path(found).name
        options = ("--cgroup-manager=cgroupfs",) if kind == "crun" else ()
        asked = run([found, "--version"], seconds=5.0, what=f"cannot ask {kind} for its version")
        version = asked.stdout.partition("\n")[0]
        runtime = OciRuntime(
            name=kind,
            binary=Path(found),
            monitored=(found,),
            root=exec_root / kind,
            options=options,
            version=version.rpartition(" ")[2],
        )
        yield runtime
        wrapper = _wrapper()
        if kind == "crun" and wrapper:
            yield dataclasses.replace(runtime, monitored=(*wrapper, found))


def _wrapper() -> tuple[str, ...]:
    """Command line that runs its arguments without the unified mount; empty when it does not apply here."""
    perl = shutil.which("perl")
    numbers = _SYSCALLS.get(platform.machine())
    if perl is None or numbers is None or not _HYBRID.is_mount():
        return ()
    unshare, mount, umount = numbers
    return (perl, "-e", _WITHOUT_UNIFIED.format(unshare=unshare, mount=mount, umount=umount))


def try_out(runtime: OciRuntime, exec_root: Path) -> float:
    """Run a container that ends at once, and return the seconds from create to deleted.

    Raises what goes wrong.
    """
    directory = exec_root / f"probe.{os.getpid()}"
    rootfs = directory / "r"
    tries = dataclasses.replace(runtime, root=directory / "s", seconds=_SECONDS)
    conmon = Conmon(runtime=tries, exec_root=directory, binary=find_conmon())
    try:
        config = json.dumps(_trivial(rootfs))
        return _live(conmon, f"probe-{os.getpid()}", config)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _live(conmon: Conmon, container_id: str, config: str) -> float:
    began = time.perf_counter()
    bundle = conmon.bundle(container_id)
    conmon.create(bundle, config, seconds=_SECONDS)
    try:
        pidfd = conmon.pidfd(bundle)
        conmon.runtime.start(container_id)
        if pidfd is not None:
            wait_exit(pidfd, _SECONDS)
            os.close(pidfd)
        status = exit_status(bundle)
        if status is None or status.code != 0:
            raise Internal("the trial container failed", why=f"it ended with {status.code if status else 'nothing'}")
    finally:
        conmon.delete(bundle, force=True)
    return time.perf_counter() - began


def _trivial(rootfs: Path) -> dict[str, Any]:
    """A container that runs the host's own `true`, from the host's own files, read-only."""
    rootfs.mkdir(mode=0o755, parents=True)
    mounts = []
    for name in ("bin", "lib", "lib32", "lib64", "libx32", "usr", "nix"):
        host = Path("/") / name
        if host.is_symlink():
            (rootfs / name).symlink_to(host.readlink())
        elif host.is_dir():
            (rootfs / name).mkdir()
            mounts.append({"destination": str(host), "type": "bind", "source": str(host), "options": ["bind", "ro"]})
    for name in ("proc", "dev", "sys"):
        (rootfs / name).mkdir()
    process = {"terminal": False, "user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/usr/bin:/bin"]}
    return {
        "ociVersion": "1.0.2",
        "process": {**process, "args": [shutil.which("true") or "/bin/true"]},
        "root": {"path": str(rootfs), "readonly": False},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, *mounts],
        "linux": {
            "cgroupsPath": f"/engine-probe-{os.getpid()}",
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts", "network")],
            "resources": {"pids": {"limit": 100}},
        },
    }


def _key(prefer: str | None) -> dict[str, Any]:
    programs = [*([prefer] if prefer else ["crun", "runc"]), "conmon"]
    stamps = {name: Path(path).stat().st_mtime_ns for name in programs if (path := shutil.which(name))}
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"prefer": prefer, "boot": boot, "programs": stamps, "hybrid": _HYBRID.is_mount()}


def _read_cache(file: Path, key: dict[str, Any]) -> OciRuntime | None:
    try:
        stored = json.loads(file.read_text())
        if stored["key"] != key:
            return None
        fields = stored["runtime"]
        return OciRuntime(
            name=fields["name"],
            binary=Path(fields["binary"]),
            monitored=tuple(fields["monitored"]),
            root=Path(fields["root"]),
            options=tuple(fields["options"]),
            version=fields["version"],
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as err:
        log.warning("ignoring the unreadable %s: %s", file, err)
        return None
