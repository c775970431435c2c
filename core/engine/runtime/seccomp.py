"""Docker-format seccomp profiles (conditions on capability, architecture, kernel) to the OCI `linux.seccomp`
object.

The default profile is containers-common's, which podman, buildah and skopeo install. A converted profile is kept as
JSON text per capability set: it is 400 system calls long, and turning it into text anew would cost more than all the
rest of the spec.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.spec.errors import InvalidParameter, Unavailable

DEFAULT_PROFILE = Path("/usr/share/containers/seccomp.json")

# uname -m -> (Go's name, which the profiles' conditions use; libseccomp's name)
_ARCHITECTURES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "i686": ("386", "SCMP_ARCH_X86"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
}


def default_profile(capabilities: frozenset[str], profile: Path = DEFAULT_PROFILE) -> str:
    """JSON text of the default profile for a container with these capabilities.

    Raises Unavailable when it is not installed.
    """
    try:
        stamp = profile.stat().st_mtime_ns
    except FileNotFoundError as err:
        raise Unavailable(
            "the default seccomp profile is missing",
            why=f"{profile} does not exist",
            hint="`apt install golang-github-containers-common`, or run with --security-opt seccomp=unconfined",
        ) from err
    return _converted(profile, stamp, capabilities)


def profile_from_file(path: Path, capabilities: frozenset[str]) -> str:
    """JSON text of the profile in `path`. Raises InvalidParameter when it cannot be read or is no profile."""
    try:
        return _converted(path, path.stat().st_mtime_ns, capabilities)
    except OSError as err:
        raise InvalidParameter(f"cannot read the seccomp profile {path}", why=err.strerror or str(err)) from err


@lru_cache(maxsize=64)
def _converted(path: Path, _stamp: int, capabilities: frozenset[str]) -> str:
    try:
        profile = json.loads(path.read_text())
        converted = convert(profile, capabilities, machine=platform.machine(), kernel=_kernel())
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise InvalidParameter(f"{path} is not a seccomp profile", why=str(err)) from err
    return json.dumps(converted, separators=(",", ":"))


def convert(
    profile: Mapping[str, Any], capabilities: frozenset[str], *, machine: str, kernel: tuple[int, int]
) -> dict[str, Any]:
    """The OCI object for one machine (`uname -m`), kernel version and capability set."""
    go_arch, scmp_arch = _ARCHITECTURES.get(machine, (machine, ""))
    result: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    if profile.get("defaultErrnoRet") is not None:
        result["defaultErrnoRet"] = profile["defaultErrnoRet"]
    architectures = _architectures(profile, scmp_arch)
    if architectures:
        result["architectures"] = architectures
    for name in ("flags", "listenerPath", "listenerMetadata"):
        if profile.get(name):
            result[name] = profile[name]
    result["syscalls"] = [
        _syscall(rule) for rule in profile.get("syscalls") or () if _applies(rule, capabilities, go_arch, kernel)
    ]
    return result


def _architectures(profile: Mapping[str, Any], scmp_arch: str) -> list[str]:
    if "archMap" not in profile:
        return list(profile.get("architectures") or ())
    for entry in profile["archMap"] or ():
        if entry["architecture"] == scmp_arch:
            return [scmp_arch, *(entry.get("subArchitectures") or ())]
    return []


def _applies(rule: Mapping[str, Any], capabilities: frozenset[str], arch: str, kernel: tuple[int, int]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if arch in (excludes.get("arches") or ()):
        return False
    if not capabilities.issuperset(includes.get("caps") or ()):
        return False
    if not capabilities.isdisjoint(excludes.get("caps") or ()):
        return False
    if includes.get("minKernel") and kernel < _version(includes["minKernel"]):
        return False
    return not (excludes.get("minKernel") and kernel >= _version(excludes["minKernel"]))


def _syscall(rule: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"names": rule.get("names") or [rule["name"]], "action": rule["action"]}
    if rule.get("errnoRet") is not None:
        result["errnoRet"] = rule["errnoRet"]
    if rule.get("args"):
        result["args"] = [
            {"index": arg["index"], "value": arg["value"], "valueTwo": arg.get("valueTwo", 0), "op": arg["op"]}
            for arg in rule["args"]
        ]
    return result


def _kernel() -> tuple[int, int]:
    return _version(os.uname().release)


def _version(text: str) -> tuple[int, int]:
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return int(major), int(minor or 0)
