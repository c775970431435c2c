"""Whatever is killed, at any moment: no read returns anything but the object's bytes. Errors and waits are allowed.

The worker (which fetches, evicts and answers) and the holder are killed at random, alone and together, while processes
read, map, execute and copy files, and write into some, and somebody else writes other objects of some names. This
process has a copy of the group's descriptor, as a container's monitor has; without one, the worker and the holder are
not killed together.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.tree.grounds import need_on_demand
from tests.kernel.tree.on_demand_site import content, fill_store

from engine.tree.fanotify import Group

KILLS = 200
READERS = 4

READER = r"""
import errno, hashlib, json, mmap, os, random, subprocess, sys, tempfile
root, manifest, log, seed = sys.argv[1:]
random.seed(int(seed))
digests = json.load(open(manifest))
names = sorted(n for n in digests if not n.startswith("w/"))
writes = sorted(n for n in digests if n.startswith("w/") and int(n[2:]) % 4 == int(seed))
REFUSED = (errno.EIO, errno.EPERM)  # the kernel's own answer when the worker is killed inside read(2) is EPERM
out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
scratch = tempfile.mkdtemp(dir=os.path.dirname(log))

def md5(data): return hashlib.md5(data).hexdigest()
def read(path):
    with open(path, "rb") as f: return md5(f.read())
def pread(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size; data = bytearray(size)
        for at in reversed(range(0, size, 65536)): data[at:at + 65536] = os.pread(fd, 65536, at)
        return md5(data)
    finally: os.close(fd)
def mapped(path):
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m: return md5(m)
def sent(path):
    with open(path, "rb") as f, tempfile.TemporaryFile(dir=scratch) as t:
        while os.sendfile(t.fileno(), f.fileno(), None, 1 << 20): pass
        t.seek(0); return md5(t.read())
def ranged(path):
    with open(path, "rb") as f, tempfile.TemporaryFile(dir=scratch) as t:
        while os.copy_file_range(f.fileno(), t.fileno(), 1 << 24): pass
        t.seek(0); return md5(t.read())
def copied(path):
    target = os.path.join(scratch, "copy")
    done = subprocess.run(["cp", path, target], capture_output=True, text=True)
    if done.returncode:
        if "Input/output error" in done.stderr or "not permitted" in done.stderr: raise OSError(errno.EIO, "cp")
        return done.stderr
    return read(target)
def executed(path):
    code = subprocess.run([path]).returncode  # the script's interpreter opens it once more
    if code in (2, 126): raise OSError(errno.EIO, "exec")
    return digests[os.path.relpath(path, root)][0] if code == 42 else f"exit code {code}"

while True:
    if writes and random.random() < 0.05:
        name, act = writes.pop(), "write"
        try:
            fd = os.open(f"{root}/{name}", os.O_RDWR)
            os.pwrite(fd, b"WRITTEN", 100); os.close(fd)
            line = f"wrote {name}"
        except OSError as err:
            line = f"error {name} write {err.errno}" if err.errno in REFUSED else f"BAD {name} write {err}"
    else:
        act = random.choice([read, read, pread, mapped, sent, ranged, copied, executed])
        name = "script" if act is executed else random.choice(names)
        try:
            found = act(f"{root}/{name}")
            line = f"right {name} {act.__name__}" if found in digests[name] else f"BAD {name} {act.__name__} {found}"
        except OSError as err:
            kind = "error" if err.errno in REFUSED else "BAD"
            line = f"{kind} {name} {act.__name__} {err}"
    os.write(out, (line + "\n").encode())
"""


def _files() -> dict[str, bytes]:
    files = {f"small/{n}": content(random.Random(n).randrange(1, 90_000), n) for n in range(30)}
    files |= {f"w/{n}": content(20_000, 1000 + n) for n in range(60)}
    files |= {f"big{n}": content((9 << 20) + n, 2000 + n) for n in range(3)}
    files |= {name: versions[0] for name, versions in _changing().items()}
    return files | {"script": b"#!/bin/sh\nexit 42\n"}


def _changing() -> dict[str, list[bytes]]:
    """Objects that somebody else writes again and again: what they are in turn, no two as long as each other."""
    sizes = {"c/small": 30_000, "c/part": 7 << 20, "c/big": 9 << 20}
    return {name: [content(size + 700_000 * n, 3000 + n) for n in range(4)] for name, size in sizes.items()}


class Machine:
    """The store, the worker's parent, the holder and the readers."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.files = _files()
        self.changing = _changing()
        digests = {name: [digest] for name, digest in fill_store(base, self.files).items()}
        digests |= {name: [hashlib.md5(v).hexdigest() for v in each] for name, each in self.changing.items()}
        (base / "manifest").write_text(json.dumps(digests))
        self.log = base / "log"
        self.log.touch()
        self.held: Group | None = None
        self.readers: list[subprocess.Popen[bytes]] = []
        self.worker = -1
        with (base / "stderr").open("wb") as errors:
            self.parent = subprocess.Popen(
                [sys.executable, "-m", "tests.kernel.tree.on_demand_site", str(base), "0.005", "0.02"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=Path(__file__).parents[3],
            )  # fmt: skip

    def line(self, seconds: float = 30) -> str:
        assert self.parent.stdout is not None
        ready, _, _ = select.select([self.parent.stdout], [], [], seconds)
        assert ready, (self.base / "stderr").read_text()
        line = b""  # not more than a line: the next one is for the next call
        while not line.endswith(b"\n"):
            byte = os.read(self.parent.stdout.fileno(), 1)
            assert byte, (self.base / "stderr").read_text()
            line += byte
        return line.decode().strip()

    def start(self, *, ready: bool) -> None:
        assert self.parent.stdin is not None
        self.parent.stdin.write(b"start\n")
        self.parent.stdin.flush()
        while not (line := self.line()).isdecimal():
            pass
        self.worker = int(line)
        while ready and self.line() != "ready":
            pass

    def holder(self) -> int:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((self.base / "run/holder.lock").read_text())
        return -1

    def change(self, chance: random.Random) -> None:
        """Be somebody else who writes an object."""
        name = chance.choice(list(self.changing))
        fill_store(self.base, {name: chance.choice(self.changing[name])})

    def read(self) -> None:
        for seed in range(READERS):
            argv = [sys.executable, "-I", "-S", "-c", READER, self.base / "data", self.base / "manifest", self.log]
            self.readers.append(subprocess.Popen([*argv, str(seed)]))

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def bad(self) -> list[str]:
        return [line for line in self.lines() if line.startswith("BAD")]

    def stop_readers(self) -> None:
        for reader in self.readers:
            reader.kill()
        for reader in self.readers:
            reader.wait(10)

    def close(self) -> None:
        self.stop_readers()
        holder = self.holder()
        for pid in (self.worker, holder):
            kill(pid)
        self.parent.kill()
        self.parent.wait(10)
        (self.base / "run/holder.lock").unlink(missing_ok=True)
        if self.held is not None:
            self.held.close()


def kill(pid: int) -> None:
    if pid > 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    need_on_demand(tmp_path)
    made = Machine(tmp_path)
    try:
        made.start(ready=True)
        yield made
    finally:
        made.close()


def check(machine: Machine) -> None:
    """After the last restart: everything can be read, and is right; nothing that was written is lost."""
    before = len(machine.lines())
    end = time.monotonic() + 30
    while len(machine.lines()) < before + 50:
        assert time.monotonic() < end, "the readers do not go on"
        time.sleep(0.1)
    machine.stop_readers()
    assert machine.bad() == []
    written = {line.split()[1] for line in machine.lines() if line.startswith("wrote")}
    code = "import sys; sys.stdout.buffer.write(open(sys.argv[1],'rb').read())"
    for name, data in machine.files.items():
        argv = [sys.executable, "-I", "-S", "-c", code, str(machine.base / "data" / name)]
        found = subprocess.run(argv, capture_output=True, timeout=30, check=True).stdout
        changed = data[:100] + b"WRITTEN" + data[107:]
        if name in written:
            assert found == changed, name
        elif name in machine.changing:
            assert found in machine.changing[name], name
        elif name.startswith("w/"):
            assert found in (data, changed), name
        else:
            assert found == data, name


@pytest.mark.timeout(300)
def test_any_process_is_killed_at_any_time(machine: Machine) -> None:
    root = os.open(machine.base / "data", os.O_RDONLY)
    machine.held, there = Group.of(root)
    os.close(root)
    assert there
    machine.read()
    chance = random.Random(4)
    kills = 0
    while kills < KILLS:
        time.sleep(chance.uniform(0, 0.12))
        machine.change(chance)
        victims = chance.choice([["worker"], ["worker"], ["holder"], ["worker", "holder"], ["holder", "worker"]])
        for victim in victims:
            kill(machine.worker if victim == "worker" else machine.holder())
            kills += 1
        if "worker" in victims:
            if chance.random() < 0.3:
                time.sleep(chance.uniform(0, 0.1))
            machine.start(ready=chance.random() < 0.5)  # else it is killed while it starts, perhaps
        assert not machine.bad(), machine.bad()
    if machine.worker:
        kill(machine.worker)
        machine.start(ready=True)
    check(machine)
    right = sum(line.startswith("right") for line in machine.lines())
    assert right > 100


@pytest.mark.timeout(240)
def test_the_holder_alone_protects_while_the_worker_is_killed(machine: Machine) -> None:
    machine.read()
    chance = random.Random(5)
    for _ in range(30):
        time.sleep(chance.uniform(0, 0.1))
        kill(machine.worker)
        time.sleep(chance.uniform(0, 0.1))
        machine.start(ready=True)
        assert not machine.bad(), machine.bad()
    holder = machine.holder()
    kill(holder)
    end = time.monotonic() + 10
    while machine.holder() == holder:
        assert time.monotonic() < end, "no new holder"
        time.sleep(0.02)
    kill(machine.worker)
    time.sleep(0.2)
    machine.start(ready=True)
    check(machine)
