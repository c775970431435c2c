"""Files that are fetched at first access: every way to get at one, and what happens when that is not possible."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.kernel.tree.grounds import need_on_demand
from tests.kernel.tree.on_demand_site import MTIME, TestSite, content, fill_store, open_tree

from engine.spec.errors import Unavailable, Unsupported
from engine.tree import content as contents
from engine.tree import filling, holder, selftest
from engine.tree.beneath import lease
from engine.tree.content import CHUNK
from engine.tree.fills import Fills
from engine.tree.listing import version_of
from engine.tree.on_demand import OnDemandHydration

BIG = 2 * CHUNK + 12345
FILES = {
    "small": content(5000, 1),
    "big": content(BIG, 2),
    "empty": b"",
    "dir/script": b"#!/bin/sh\nexit 42\n",
    "dir/true": Path("/bin/true").read_bytes(),
    "dir/page": content(4096, 3),
    "deep/er/file": content(70_000, 4),
}

READ = "import sys,hashlib; print(hashlib.md5(open(sys.argv[1],'rb').read()).hexdigest())"
PREAD = """
import os,sys,hashlib
fd=os.open(sys.argv[1],os.O_RDONLY); n=os.fstat(fd).st_size; d=bytearray(n)
for o in reversed(range(0,n,1000)): d[o:o+1000]=os.pread(fd,1000,o)
print(hashlib.md5(d).hexdigest())"""
MMAP = """
import mmap,sys,hashlib
f=open(sys.argv[1],'rb'); m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ); print(hashlib.md5(m).hexdigest())"""
SENDFILE = """
import os,sys,hashlib,tempfile
a=os.open(sys.argv[1],os.O_RDONLY); t=tempfile.TemporaryFile(); n=os.fstat(a).st_size; o=0
while o<n: o+=os.sendfile(t.fileno(),a,o,n-o)
t.seek(0); print(hashlib.md5(t.read()).hexdigest())"""
COPY_RANGE = """
import os,sys,hashlib,tempfile
a=os.open(sys.argv[1],os.O_RDONLY); t=tempfile.TemporaryFile(dir=sys.argv[2])
while os.copy_file_range(a,t.fileno(),1<<24): pass
t.seek(0); print(hashlib.md5(t.read()).hexdigest())"""
HOLES = """
import os,sys,hashlib
fd=os.open(sys.argv[1],os.O_RDONLY); n=os.fstat(fd).st_size
assert os.lseek(fd,0,os.SEEK_HOLE)==n, 'a hole'
print(hashlib.md5(os.pread(fd,n,0)).hexdigest())"""
DIRECT = """
import os,sys,mmap,hashlib
fd=os.open(sys.argv[1],os.O_RDONLY|os.O_DIRECT); b=mmap.mmap(-1,1<<25); n=os.readv(fd,[b])
print(hashlib.md5(b[:n]).hexdigest())"""


def run(code: str, *arguments: object, seconds: float = 20) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that can be killed while it waits for a file."""
    argv = [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False)


def digest(path: Path) -> str:
    done = run(READ, path)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass
class Volume:
    """A tree whose files are placeholders."""

    site: TestSite
    digests: dict[str, str]
    hydration: OnDemandHydration = field(init=False)

    def path(self, name: str) -> Path:
        return self.site.root / name

    def open(self, **options: float) -> None:
        self.hydration = open_tree(self.site, **options)  # type: ignore[arg-type]

    def blocks(self, name: str) -> int:
        return self.path(name).lstat().st_blocks

    def where(self, name: str) -> str:
        found = contents.read_at(str(self.path(name)))
        return found.where if found else "local"

    def evict_all(self) -> int:
        return self.hydration._evictor.make_room(1 << 40)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    need_on_demand(tmp_path)
    made = Volume(TestSite(tmp_path), fill_store(tmp_path, FILES))
    made.open(patience=5)
    yield made
    made.hydration.close()
    assert holder.end(made.site.run)


def test_placeholders_look_like_the_files(volume: Volume) -> None:
    for name, data in FILES.items():
        facts = volume.path(name).lstat()
        assert (facts.st_size, facts.st_mtime_ns, facts.st_mode & 0o777) == (len(data), MTIME, 0o755)
        assert volume.blocks(name) * 512 <= 4096  # the attribute may need a block
    assert volume.site.store.gets == 0


@pytest.mark.parametrize("name", ["small", "big"])
@pytest.mark.parametrize("code", [READ, PREAD, MMAP, SENDFILE, HOLES, DIRECT], ids=lambda c: c.split("(")[0][-8:])
def test_every_way_of_reading(volume: Volume, code: str, name: str) -> None:
    done = run(code, volume.path(name))
    assert (done.returncode, done.stdout.strip()) == (0, volume.digests[name]), done.stderr
    assert volume.path(name).stat().st_mtime_ns == MTIME


def test_copy_file_range(volume: Volume, tmp_path: Path) -> None:
    done = run(COPY_RANGE, volume.path("big"), tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, volume.digests["big"]), done.stderr


@pytest.mark.parametrize("options", [[], ["--sparse=always"], ["--reflink=auto"], ["-a"]])
def test_cp_trusts_no_hole(volume: Volume, tmp_path: Path, options: list[str]) -> None:
    subprocess.run(["cp", *options, volume.path("big"), tmp_path / "copy"], check=True, timeout=20)
    assert hashlib.md5((tmp_path / "copy").read_bytes()).hexdigest() == volume.digests["big"]


def test_programs_are_executed(volume: Volume) -> None:
    assert subprocess.run([volume.path("dir/script")], timeout=20, check=False).returncode == 42
    assert volume.hydration._hydrator.filled_bytes
    assert subprocess.run([volume.path("dir/true")], timeout=20, check=False).returncode == 0


def test_neighbours_come_along_and_big_files_do_not(volume: Volume) -> None:
    assert digest(volume.path("dir/page")) == volume.digests["dir/page"]
    until(lambda: volume.where("dir/script") == volume.where("dir/true") == "filled")
    assert volume.where("big") == "remote"


def test_hydrated_files_raise_no_events(volume: Volume) -> None:
    digest(volume.path("big"))
    info = Path(f"/proc/self/fdinfo/{volume.hydration.descriptors()[0]}").read_text()
    assert f"fanotify ino:{volume.path('big').stat().st_ino:x} " not in info
    assert f"fanotify ino:{volume.path('small').stat().st_ino:x} " in info


def test_truncating_open(volume: Volume) -> None:
    assert run("import sys; open(sys.argv[1],'wb').write(b'new')", volume.path("big")).returncode == 0
    assert volume.path("big").read_bytes() == b"new"
    assert run("import os,sys; os.truncate(sys.argv[1], 100)", volume.path("small")).returncode == 0
    assert volume.path("small").read_bytes() == FILES["small"][:100]
    assert volume.path("small").stat().st_mtime_ns != MTIME


def test_append(volume: Volume) -> None:
    assert run("import sys; open(sys.argv[1],'ab').write(b'tail')", volume.path("big")).returncode == 0
    assert volume.path("big").read_bytes() == FILES["big"] + b"tail"


def test_growing_reads_zeroes_only_behind_the_object(volume: Volume) -> None:
    assert run("import os,sys; os.truncate(sys.argv[1], 9000)", volume.path("small")).returncode == 0
    assert volume.path("small").read_bytes() == FILES["small"] + bytes(4000)


def test_rename_and_hard_link_of_a_placeholder(volume: Volume) -> None:
    volume.path("big").rename(volume.path("dir/moved"))
    os.link(volume.path("dir/moved"), volume.path("link"))
    volume.path("dir").rename(volume.path("other"))
    assert digest(volume.path("link")) == volume.digests["big"]
    assert digest(volume.path("other/moved")) == volume.digests["big"]
    assert digest(volume.path("other/page")) == volume.digests["dir/page"]


def test_unlinked_while_it_is_fetched(volume: Volume) -> None:
    volume.site.store.delay = 0.3
    reader = subprocess.Popen([sys.executable, "-I", "-S", "-c", READ, volume.path("big")], stdout=subprocess.PIPE)
    until(lambda: volume.site.store.gets > 0)
    volume.path("big").unlink()
    assert reader.communicate(timeout=20)[0].decode().strip() == volume.digests["big"]


def test_stat_does_not_fetch(volume: Volume) -> None:
    subprocess.run(["ls", "-lR", volume.site.root], check=True, timeout=20, stdout=subprocess.DEVNULL)
    subprocess.run(["du", "-s", volume.site.root], check=True, timeout=20, stdout=subprocess.DEVNULL)
    assert volume.site.store.gets == 0


def test_evicted_and_fetched_again(volume: Volume) -> None:
    def tree() -> dict[str, str]:
        return {name: digest(volume.path(name)) for name in FILES}

    assert tree() == volume.digests
    assert volume.evict_all() > BIG
    assert volume.blocks("big") == volume.blocks("small") <= 8
    assert {volume.path(n).stat().st_mtime_ns for n in FILES} == {MTIME}
    assert tree() == volume.digests
    assert volume.hydration.usage().hydrated_bytes >= BIG
    volume.evict_all()
    volume.evict_all()
    assert digest(volume.path("big")) == volume.digests["big"]


@pytest.mark.parametrize("hold", ["open", "mmap", "write"])
def test_files_in_use_are_not_evicted(volume: Volume, hold: str) -> None:
    path = volume.path("big")
    digest(path)
    keep = {
        "open": "f=open(sys.argv[1],'rb')",
        "mmap": "import mmap; f=open(sys.argv[1],'rb'); m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ); f.close()",
        "write": "f=open(sys.argv[1],'r+b')",
    }[hold]
    code = f"import sys; {keep}; print('held',flush=True); sys.stdin.read()"
    user = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert user.stdout is not None
    user.stdout.readline()
    before = volume.blocks("big")
    volume.evict_all()
    assert volume.blocks("big") == before
    user.communicate(timeout=10)
    volume.evict_all()
    assert volume.blocks("big") < before


def test_what_is_not_confirmed_in_the_store_is_not_evicted(volume: Volume) -> None:
    digest(volume.path("big"))
    digest(volume.path("small"))
    volume.site.store.inner.put("small", b"somebody else's")
    run("import sys; open(sys.argv[1],'r+b').write(b'changed here')", volume.path("big"))
    volume.evict_all()
    assert volume.path("big").read_bytes() == b"changed here" + FILES["big"][12:]
    assert volume.path("small").read_bytes() == FILES["small"]


def test_an_overwritten_file_stays_as_it_was_written(volume: Volume) -> None:
    """A write into a file that is not here waits for the content, and nothing is fetched over it."""
    volume.site.store.delay = 0.1
    code = "import os,sys; fd=os.open(sys.argv[1],os.O_RDWR); os.pwrite(fd,b'W'*5000,%d)"
    writers = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", code % offset, volume.path("big")])
        for offset in (0, CHUNK - 100, BIG - 5000)
    ]
    assert [w.wait(20) for w in writers] == [0, 0, 0]
    wanted = bytearray(FILES["big"])
    for offset in (0, CHUNK - 100, BIG - 5000):
        wanted[offset : offset + 5000] = b"W" * 5000
    assert volume.path("big").read_bytes() == wanted


def test_patience_ends_with_eio_and_the_next_one_succeeds(volume: Volume) -> None:
    volume.hydration.close()
    volume.open(patience=0.6)
    volume.site.store.down = True
    done = run(READ, volume.path("small"))
    assert done.returncode != 0
    assert f"[Errno {errno.EIO}]" in done.stderr
    with pytest.raises(Unavailable):
        volume.hydration.ensure("big")
    volume.site.store.down = False
    assert digest(volume.path("small")) == volume.digests["small"]
    volume.hydration.ensure("big")
    assert volume.path("big").read_bytes() == FILES["big"]


def test_an_object_that_is_gone_is_not_shown(volume: Volume) -> None:
    volume.site.store.inner.delete("small")
    assert f"[Errno {errno.EIO}]" in run(READ, volume.path("small")).stderr
    assert volume.site.missing == ["small"]


CHANGED = {
    "small": content(40, 21),
    "big": content(BIG, 22),
    "dir/true": b"",
    "dir/page": content(CHUNK + 1, 24),
    "deep/er/file": content(3 * CHUNK, 25),
}
"""Other objects of the same names: shorter, of the same length, empty, longer, and in parts instead of whole."""


def change_objects(site: TestSite) -> dict[str, str]:
    """Let somebody else write objects after the listing; return the digests."""
    for name, data in CHANGED.items():
        site.store.inner.put(name, data)
    return {name: hashlib.md5(data).hexdigest() for name, data in CHANGED.items()}


def test_an_object_that_was_changed_since_is_shown_as_it_is_now(volume: Volume) -> None:
    digests = change_objects(volume.site)
    for name, data in CHANGED.items():
        assert digest(volume.path(name)) == digests[name], name
        facts, stored = volume.path(name).stat(), volume.site.store.inner.head(name)
        assert stored is not None
        assert (facts.st_size, facts.st_mtime_ns) == (len(data), int((stored.mtime or 0) * 10**9)), name
    found = {path: (old, new) for path, _, _, old, new in volume.site.renewals}
    assert found.keys() == CHANGED.keys()
    assert found["big"][1] == version_of(volume.site.store.inner.head("big"))  # type: ignore[arg-type]
    after = {path: signature for path, _, signature, _, _ in volume.site.renewals}
    assert {p: b for p, b, _, _ in volume.site.settled if p in after} == after


@pytest.mark.parametrize("name", ["deep/er/file", "big", "small"])
def test_a_helper_that_ends_while_a_file_becomes_another_one(volume: Volume, name: str, monkeypatch) -> None:
    """Between the attribute and the length: whoever goes on fetches the new object, whole, and nothing of the old."""
    digests = change_objects(volume.site)
    with monkeypatch.context() as patch:
        patch.setattr(filling.os, "ftruncate", lambda fd, size: (_ for _ in ()).throw(OSError(errno.EIO, "the end")))
        assert f"[Errno {errno.EIO}]" in run(READ, volume.path(name)).stderr
    volume.hydration.close()
    volume.open(patience=5)
    assert digest(volume.path(name)) == digests[name]


@pytest.mark.parametrize("value", [None, b"", b"[]", b'{"v":2}', b"\xff"])
def test_a_file_that_does_not_say_what_it_is_is_not_shown(volume: Volume, value: bytes | None) -> None:
    path = volume.path("small")
    if value is None:
        os.removexattr(path, contents.ATTRIBUTE)
    else:
        os.setxattr(path, contents.ATTRIBUTE, value)
    assert f"[Errno {errno.EIO}]" in run(READ, path).stderr
    volume.hydration.close()
    volume.open(patience=5)
    if value is not None:  # without the attribute and without the mark it is like any other file
        assert f"[Errno {errno.EIO}]" in run(READ, path).stderr


def test_a_copied_attribute_is_not_believed(volume: Volume) -> None:
    attribute = os.getxattr(volume.path("small"), contents.ATTRIBUTE)
    volume.path("copy").write_bytes(bytes(5000))
    os.setxattr(volume.path("copy"), contents.ATTRIBUTE, attribute)
    volume.hydration.close()
    volume.open(patience=5)
    assert f"[Errno {errno.EIO}]" in run(READ, volume.path("copy")).stderr


def test_a_copy_with_attributes_is_a_file_of_its_own(volume: Volume) -> None:
    digest(volume.path("small"))
    subprocess.run(["cp", "-a", volume.path("small"), volume.path("copy")], check=True, timeout=20)
    assert os.getxattr(volume.path("copy"), contents.ATTRIBUTE)
    volume.hydration.close()
    (volume.site.base / "fills").unlink()
    found = contents.read_at(str(volume.path("copy")))
    assert found is not None
    os.setxattr(volume.path("copy"), contents.ATTRIBUTE, replace(found, boot="another run").encode())
    volume.open(patience=5)
    assert digest(volume.path("copy")) == volume.digests["small"]
    volume.hydration.ensure("copy")


def test_a_reboot_in_the_middle(volume: Volume) -> None:
    """What was only in memory is fetched again; what a program had written to the disk stays."""
    for name in ("small", "big", "deep/er/file"):
        digest(volume.path(name))
    volume.hydration.close()
    (volume.site.base / "fills").unlink()
    for name in ("small", "big"):
        fd = os.open(volume.path(name), os.O_RDWR)
        found = contents.read(fd)
        assert found is not None
        if name == "big":  # changed here, and a part never came to the disk
            os.pwrite(fd, b"W" * 100, 50)
            subprocess.run(["fallocate", "-p", "-o", str(CHUNK), "-l", "8192", volume.path(name)], check=True)
        else:
            subprocess.run(["fallocate", "-p", "-o", "0", "-l", "8192", volume.path(name)], check=True)
            os.utime(fd, ns=(MTIME, MTIME))
        contents.write(fd, replace(found, boot="another run"))
        os.close(fd)
    volume.open(patience=5)
    assert digest(volume.path("small")) == volume.digests["small"]
    wanted = bytearray(FILES["big"])
    wanted[50:150] = b"W" * 100
    assert digest(volume.path("big")) == hashlib.md5(wanted).hexdigest()


def test_what_was_written_to_the_disk_counts_after_a_reboot(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_RDONLY)
    fills = Fills(tmp_path / "fills", root)
    fills.sync()
    again = Fills(tmp_path / "fills", root)
    os.close(root)
    found = contents.Content("filled", "k", "v", 1, 0, 0, 1, boot=contents.boot_id(), at=0)
    assert again.present(found, 1)
    assert not again.present(replace(found, boot="another"), 1)
    (tmp_path / "fills").write_text("[broken")
    assert Fills(tmp_path / "fills", 0).present(found, 1)
    assert not Fills(tmp_path / "fills", 0).present(replace(found, boot="another"), 1)


def test_the_disk_is_full(tmp_path: Path) -> None:
    """Files that are in the store make room for those that are wanted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is missing")
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-m", "0", image], check=True, timeout=20)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True, timeout=20)
    try:
        files = {f"f{n}": content(CHUNK * 2, n) for n in range(5)}  # 80 MiB
        site = TestSite(disk)
        site.store.inner = _store(tmp_path, files)
        hydration = open_tree(site, patience=5)
        try:
            for name, data in files.items():
                assert digest(site.root / name) == hashlib.md5(data).hexdigest()
        finally:
            hydration.close()
            assert holder.end(site.run)
    finally:
        subprocess.run(["umount", disk], check=True, timeout=20)


def _store(base: Path, files: dict[str, bytes]):  # type: ignore[no-untyped-def]
    fill_store(base, files)
    return TestSite(base).store.inner


def test_a_file_system_without_events_is_refused(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True, timeout=20)
    try:
        with pytest.raises(Unsupported, match="on demand"):
            selftest.check(tmp_path)
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True, timeout=20)


def until(condition, seconds: float = 10) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_a_broken_lease_does_not_end_the_process(tmp_path: Path) -> None:
    """The kernel's usual signal would: an opener comes while a file is being evicted."""
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    assert lease(fd)
    with pytest.raises(BlockingIOError):  # it begins to break the lease, and does not wait
        os.open(tmp_path / "file", os.O_RDWR | os.O_NONBLOCK)
    time.sleep(0.05)
    os.close(fd)
