"""Conversion of docker-format seccomp profiles."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from engine.runtime import bpf, seccomp
from engine.runtime.capabilities import DEFAULT
from engine.spec.errors import InvalidParameter, Unavailable

PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    ],
    "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64"]}},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"name": "socket", "action": "SCMP_ACT_ALLOW", "args": [{"index": 2, "value": 9, "op": "SCMP_CMP_NE"}]},
    ],
}


def convert(
    caps: frozenset[str] = frozenset(), machine: str = "x86_64", kernel: tuple[int, int] = (6, 1)
) -> dict[str, Any]:
    return seccomp.convert(PROFILE, caps, machine=machine, kernel=kernel)


def rules(converted: dict[str, Any]) -> list[tuple[str, str]]:
    return [(rule["names"][0], rule["action"].removeprefix("SCMP_ACT_")) for rule in converted["syscalls"]]


def test_conditions() -> None:
    plain = convert()
    assert plain["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert plain["defaultErrnoRet"] == 38
    assert rules(plain) == [
        ("read", "ALLOW"), ("arch_prctl", "ALLOW"), ("bpf", "ERRNO"), ("ptrace", "ALLOW"), ("socket", "ALLOW"),
    ]  # fmt: skip
    assert ("bpf", "ALLOW") in rules(convert(frozenset({"CAP_SYS_ADMIN"})))
    assert ("bpf", "ERRNO") not in rules(convert(frozenset({"CAP_SYS_ADMIN"})))
    assert ("arch_prctl", "ALLOW") not in rules(convert(machine="aarch64"))
    assert ("ptrace", "ALLOW") not in rules(convert(kernel=(4, 7)))
    assert plain["syscalls"][-1]["args"] == [{"index": 2, "value": 9, "valueTwo": 0, "op": "SCMP_CMP_NE"}]
    assert plain["syscalls"][2]["errnoRet"] == 1


@pytest.mark.skipif(not seccomp.DEFAULT_PROFILE.exists(), reason="containers-common is not installed")
def test_shipped_profile() -> None:
    text = seccomp.default_profile(frozenset(DEFAULT))
    profile = json.loads(text)
    allowed = {n for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for n in rule["names"]}
    assert {"read", "write", "clone", "execve", "chroot"} <= allowed
    assert not {"bpf", "init_module", "kexec_load"} & allowed
    assert seccomp.default_profile(frozenset(DEFAULT)) is text, "kept for the hot path"
    began = time.perf_counter()
    seccomp.default_profile(frozenset(DEFAULT))
    assert time.perf_counter() - began < 0.1


def test_missing_profile(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        seccomp.default_profile(frozenset(), tmp_path / "none.json")
    assert "apt install" in caught.value.hint


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"defaultAction": "A", "syscalls": [{"names": ["x"]}]}'])
def test_malformed_profile(tmp_path: Path, text: str) -> None:
    file = tmp_path / "profile.json"
    file.write_text(text)
    with pytest.raises(InvalidParameter):
        seccomp.profile_from_file(file, frozenset())


@pytest.mark.skipif(bpf._library() is None, reason="libseccomp is not installed")
def test_compiled_program() -> None:
    text = json.dumps(convert())
    program = bpf.compiled(text)
    assert program is not None
    assert len(base64.b64decode(program)) % 8 == 0, "made of struct sock_filter"
    assert bpf.compiled(text) is program
    assert bpf.compiled(json.dumps(convert(frozenset({"CAP_SYS_ADMIN"})))) != program


def test_profile_that_only_the_runtime_can_compile() -> None:
    assert bpf.compiled(json.dumps({**convert(), "flags": ["SECCOMP_FILTER_FLAG_LOG"]})) is None
    assert bpf.compiled(json.dumps({"defaultAction": "SCMP_ACT_NOVEL", "syscalls": []})) is None
