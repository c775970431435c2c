"""A busybox root file system and a runtime of the test's own, with a check that nothing stays behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from engine.runtime import cgroup
from engine.runtime.bundle import Bundle
from engine.runtime.conmon import Conmon, ExitStatus, exit_status, wait_exit
from engine.runtime.execs import ExecProcess, start_exec
from engine.runtime.model import ContainerSpec, ExecSpec, ProcessSpec
from engine.runtime.oci_spec import exec_process, oci_config_text
from engine.runtime.probe import probe_runtime

BUSYBOX = shutil.which("busybox")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if BUSYBOX is None:
        pytest.skip("needs busybox-static")
    root = tmp_path_factory.mktemp("busybox")
    root.chmod(0o755)
    for name in ("bin", "proc", "dev", "sys", "tmp", "etc", "root", "home/app"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    subprocess.run(["chroot", str(root), "/bin/busybox", "--install", "-s", "/bin"], check=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\napp:x:1001:\naudio:x:29:app\n")
    (root / "not-executable").write_text("#!/bin/sh\n")
    return root


@pytest.fixture(scope="session")
def runtime_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probe")


@dataclass
class Lab:
    """Makes containers and remembers them."""

    conmon: Conmon
    rootfs: Path
    directory: Path
    tag: str
    made: list[Bundle] = field(default_factory=list)

    def spec(self, *args: str, container_id: str = "", **changes: Any) -> ContainerSpec:
        process_fields = {
            name: changes.pop(name)
            for name in ("env", "cwd", "user", "groups", "tty", "console_size")
            if name in changes
        }
        name = container_id or uuid.uuid4().hex + uuid.uuid4().hex
        spec = ContainerSpec(
            id=name,
            process=ProcessSpec(args=args, **process_fields),
            rootfs=self.rootfs,
            cgroup_path=f"/{self.tag}/{name}",
        )
        return replace(spec, **changes)

    def log_path(self, bundle: Bundle) -> Path:
        return self.directory / f"{bundle.id[:12]}.log"

    def create(self, spec: ContainerSpec, **options: Any) -> Bundle:
        bundle = self.conmon.bundle(spec.id)
        self.made.append(bundle)
        self.conmon.create(
            bundle, oci_config_text(spec), tty=spec.process.tty, log_path=self.log_path(bundle), seconds=20, **options
        )
        return bundle

    def run(self, *args: str, **changes: Any) -> Bundle:
        bundle = self.create(self.spec(*args, **changes))
        self.conmon.runtime.start(bundle.id)
        return bundle

    def wait(self, bundle: Bundle, seconds: float = 20) -> ExitStatus:
        pidfd = self.conmon.pidfd(bundle)
        if pidfd is not None:
            assert wait_exit(pidfd, seconds), "the container did not end"
            os.close(pidfd)
        status = exit_status(bundle)
        assert status is not None
        return status

    def exec(
        self, bundle: Bundle, *args: str, stdin: bool = False, attached: bool = True, **fields: Any
    ) -> ExecProcess:
        process = exec_process(bundle.read_config(), ExecSpec(args=args, **fields))
        return start_exec(self.conmon, bundle, uuid.uuid4().hex, process, stdin=stdin, attached=attached, seconds=20)


@pytest.fixture(params=["fastest", "runc"])
def lab(rootfs: Path, runtime_cache: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    if request.param == "runc" and shutil.which("runc", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("needs runc")
    directory = Path(tempfile.mkdtemp(prefix="engine-rt-", dir="/tmp"))
    tag = f"engine-test-{uuid.uuid4().hex[:8]}"
    found = probe_runtime(runtime_cache, None if request.param == "fastest" else request.param)
    conmon = Conmon(runtime=replace(found, root=directory / "s"), exec_root=directory, cgroup=f"/{tag}/conmon")
    lab = Lab(conmon, rootfs, directory, tag)
    try:
        yield lab
        for bundle in lab.made:
            conmon.delete(bundle, force=True)
        assert_nothing_left(lab)
    finally:
        for bundle in lab.made:
            if bundle.exists():
                conmon.delete(bundle, force=True)
        cgroup.remove(f"/{tag}")
        shutil.rmtree(directory, ignore_errors=True)


def assert_nothing_left(lab: Lab) -> None:
    """No bundle, no state, no monitor, no mount, no cgroup of a container."""
    assert Bundle.all(lab.conmon.exec_root) == []
    assert lab.conmon.runtime.containers() == []
    assert str(lab.directory) not in Path("/proc/self/mountinfo").read_text()
    eventually(lambda: not processes_naming(str(lab.directory)))
    left = [path for path in cgroup.hierarchy().directories(f"/{lab.tag}") if path.is_dir()]
    assert [child for path in left for child in path.iterdir() if child.is_dir() and child.name != "conmon"] == []


def processes_naming(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if text.encode() in command:
                found.append(int(entry.name))
    return found


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
