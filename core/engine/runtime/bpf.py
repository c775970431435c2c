"""A seccomp profile compiled to the kernel's filter program by libseccomp, ahead of the containers that need it.

crun before 1.9 compiles the profile anew for every container, which takes longer than all the rest of a start. It
accepts the finished program in an annotation instead (crun(1), `run.oci.seccomp_bpf_data`).
"""

from __future__ import annotations

import base64
import ctypes
import errno
import json
import logging
import os
from functools import cache, lru_cache
from typing import Any

log = logging.getLogger(__name__)

ANNOTATION = "run.oci.seccomp_bpf_data"

# seccomp.h of libseccomp 2.5
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_COMPARISONS = {
    f"SCMP_CMP_{name}": number for number, name in enumerate(("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"), 1)
}
_UNKNOWN_SYSCALL = -1  # __NR_SCMP_ERROR
_OPTIMIZE, _BINARY_TREE = 8, 2  # SCMP_FLTATR_CTL_OPTIMIZE


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


@lru_cache(maxsize=64)
def compiled(profile: str) -> str | None:
    """The program for OCI `linux.seccomp` JSON, in base64; None when only the OCI runtime can compile it."""
    library = _library()
    if library is None:
        return None
    parsed = json.loads(profile)
    if parsed.get("flags") or parsed.get("listenerPath"):
        return None
    try:
        return base64.b64encode(_compile(library, parsed)).decode()
    except (OSError, KeyError) as err:
        log.info("the OCI runtime will compile the seccomp profile of each container: %r", err)
        return None


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    rule: list[Any] = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison)]
    library.seccomp_rule_add_array.argtypes = rule
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    return library


def _compile(library: ctypes.CDLL, profile: dict[str, Any]) -> bytes:
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    context = library.seccomp_init(default)
    if not context:
        raise OSError(errno.EINVAL, "seccomp_init")
    try:
        _check(library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE), "seccomp_attr_set")
        for name in profile.get("architectures") or ():
            token = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
            _check(library.seccomp_arch_add(context, token), name, ignore=errno.EEXIST)
        for rule in profile["syscalls"]:
            action = _action(rule["action"], rule.get("errnoRet"))
            if action != default:
                _add(library, context, action, rule)
        descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            _check(library.seccomp_export_bpf(context, descriptor), "seccomp_export_bpf")
            file.seek(0)
            return file.read()
    finally:
        library.seccomp_release(context)


def _add(library: ctypes.CDLL, context: int, action: int, rule: dict[str, Any]) -> None:
    wanted = [
        _Comparison(arg["index"], _COMPARISONS[arg["op"]], arg["value"], arg.get("valueTwo", 0))
        for arg in rule.get("args") or ()
    ]
    # libseccomp takes one comparison per argument in a rule; several of one argument are alternatives (as runc and
    # crun do).
    indexes = [comparison.arg for comparison in wanted]
    alternatives = [wanted] if len(set(indexes)) == len(indexes) else [[comparison] for comparison in wanted]
    for name in rule["names"]:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN_SYSCALL:
            continue  # newer than this libseccomp: the default action stands
        for chosen in alternatives:
            array = (_Comparison * len(chosen))(*chosen)
            _check(library.seccomp_rule_add_array(context, action, number, len(chosen), array), name)


def _action(name: str, errno_value: int | None) -> int:
    action = _ACTIONS[name]
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        action |= (errno.EPERM if errno_value is None else errno_value) & 0xFFFF
    return action


def _check(result: int, what: str, ignore: int = 0) -> None:
    if result < 0 and -result != ignore:
        raise OSError(-result, os.strerror(-result), what)
