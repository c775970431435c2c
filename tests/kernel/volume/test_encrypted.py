"""Encrypted volumes on real file systems: what is at rest, who gets in, and what a restart needs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from engine.reconcile import gocryptfs
from engine.spec.errors import Conflict, Forbidden, InvalidParameter, Locked, NotFound
from engine.volume.encryption import NewKey

from .world import World, isolated

PASSPHRASE = b"correct horse battery staple"
NAME, CONTENT = "the-plain-name.txt", b"the plain content of a file " * 200
METHODS = ["image", "gocryptfs"]


@pytest.fixture
def base(tmp_path):
    (tmp_path / "pass").write_bytes(PASSPHRASE + b"\n")
    return tmp_path


def needs(method: str) -> None:
    if method == "gocryptfs" and shutil.which("gocryptfs") is None:
        pytest.skip("gocryptfs is not installed")
    if method == "image" and not Path("/sys/fs/ext4/features/encryption").exists():
        pytest.skip("this kernel's ext4 does not encrypt")


def make(world: World, method: str, **more: str) -> None:
    key = {} if "prompt" in more else {"passphrase-file": str(world.base / "pass")}
    world.volumes.create("vol", "encrypted", {"method": method, **key, **more})


def fill(world: World) -> Path:
    path = world.volumes.mount("vol", "c1")
    (path / NAME).write_bytes(CONTENT)
    return path


def read(world: World, user: str = "c1") -> bytes:
    return (world.volumes.mount("vol", user) / NAME).read_bytes()


def everything_at_rest(world: World) -> bytes:
    """All bytes and names below the volumes' directory, without what is sparse; and the database."""
    found = bytearray()
    for path in [world.base / "state.db", world.base / "state.db-wal", *world.root.rglob("*")]:
        found += path.name.encode() + b"\n"
        if not path.is_file():
            continue
        with path.open("rb") as file:
            position = 0
            while True:
                try:
                    position = os.lseek(file.fileno(), position, os.SEEK_DATA)
                    end = os.lseek(file.fileno(), position, os.SEEK_HOLE)
                except OSError:
                    break
                found += os.pread(file.fileno(), end - position, position)
                position = end
    return bytes(found)


@pytest.mark.parametrize("method", METHODS)
@isolated
def test_at_rest_nothing_is_plain(base, method):
    needs(method)
    world = World(base)
    make(world, method)
    fill(world)
    world.volumes.unmount("vol", "c1")
    secret = world.keys.read(world.volumes.encryption.path(world.volumes.get("vol")))
    at_rest = everything_at_rest(world)
    for plain in (NAME.encode(), CONTENT[:28], PASSPHRASE, secret, secret.hex().encode()):
        assert plain not in at_rest
    assert read(world) == CONTENT
    world.volumes.unmount("vol", "c1")
    world.volumes.remove("vol")
    world.assert_nothing_left()
    world.close()


@pytest.mark.parametrize("method", METHODS)
@isolated
def test_without_or_with_a_wrong_key_nothing_is_touched(base, method):
    needs(method)
    world = World(base)
    make(world, method)
    fill(world)
    world.volumes.unmount("vol", "c1")
    key = base / "pass"
    key.unlink()
    with pytest.raises(Locked, match="engine volume unlock vol"):
        world.volumes.mount("vol", "c1")
    assert world.volumes.inspect("vol")["Status"]["Locked"] is True
    assert str(key) in world.volumes.inspect("vol")["Status"]["Needs"]
    world.assert_nothing_left()
    key.write_bytes(b"wrong")
    with pytest.raises(Forbidden, match="wrong"):
        world.volumes.mount("vol", "c1")
    with pytest.raises(Forbidden):
        world.volumes.encryption.unlock("vol", b"wrong, too")
    world.assert_nothing_left()
    assert world.volumes.encryption.unlock("vol", PASSPHRASE) == "main"
    assert read(world) == CONTENT
    world.volumes.encryption.lock("vol")
    assert (world.volumes.mount("vol", "c2") / NAME).exists()  # it is mounted: its key is not needed
    for user in ("c1", "c2"):
        world.volumes.unmount("vol", user)
    with pytest.raises(Forbidden):
        world.volumes.mount("vol", "c1")
    world.close()


@pytest.mark.parametrize("method", METHODS)
@isolated
def test_a_change_of_keys_touches_no_data(base, method):
    needs(method)
    world = World(base)
    make(world, method)
    fill(world)
    world.volumes.unmount("vol", "c1")
    data = world.root / world.volumes.get("vol").id
    before = {p: p.stat().st_mtime_ns for p in data.rglob("*") if p.is_file() and p.name != "keyslots.json"}
    encryption = world.volumes.encryption
    (base / "key").write_bytes(bytes(range(64)) + b"\n")
    assert [s["Name"] for s in encryption.rekey("vol", NewKey("file", f"file:{base}/key", None, "bytes"))] == [
        "main",
        "file",
    ]
    encryption.rekey("vol", NewKey("main", "prompt", b"another passphrase"))
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert read(world) == CONTENT  # by the key file
    world.volumes.unmount("vol", "c1")
    with pytest.raises(Forbidden):
        encryption.unlock("vol", PASSPHRASE)
    assert encryption.unlock("vol", b"another passphrase") == "main"
    encryption.rekey("vol", None, remove="file")
    encryption.lock("vol")
    with pytest.raises(Locked, match="passphrase"):
        world.volumes.mount("vol", "c1")
    with pytest.raises(Locked):
        encryption.rekey("vol", NewKey("evil", "prompt", b"evil"))
    with pytest.raises(Conflict, match="last one"):
        encryption.rekey("vol", None, remove="main", old=b"another passphrase")
    with pytest.raises(NotFound):
        encryption.rekey("vol", None, remove="file", old=b"another passphrase")
    assert [s["Source"] for s in encryption.slots("vol")] == ["prompt"]
    world.close()


@pytest.mark.parametrize("method", METHODS)
@isolated
def test_restart_with_and_without_the_key(base, method):
    needs(method)
    world = World(base)
    with pytest.raises(Locked, match="passphrase"):
        make(world, method, prompt="true")
    assert world.volumes.list() == []
    world.volumes.create("vol", "encrypted", {"method": method, "prompt": "true"}, key=PASSPHRASE)
    path = fill(world)
    world = world.restarted(live=("c1",))  # the daemon, not the host: nobody gives the key again
    assert (path / NAME).read_bytes() == CONTENT
    assert (world.volumes.mount("vol", "c2") / NAME).read_bytes() == CONTENT
    for user in ("c1", "c2"):
        world.volumes.unmount("vol", user)
    world.assert_nothing_left()
    world = world.restarted()  # as after a reboot: nothing is mounted, nobody has the key
    with pytest.raises(Locked):
        world.volumes.mount("vol", "c1")
    world.volumes.encryption.unlock("vol", PASSPHRASE)
    assert read(world) == CONTENT
    world.volumes.unmount("vol", "c1")
    world.volumes.remove("vol")
    world.close()


@isolated
def test_no_key_by_default_and_not_two(base):
    world = World(base)
    with pytest.raises(InvalidParameter, match="needs a key"):
        world.volumes.create("vol", "encrypted", {})
    with pytest.raises(InvalidParameter, match="both keys"):
        world.volumes.create("vol", "encrypted", {"passphrase-file": f"{base}/pass", "prompt": "true"})
    with pytest.raises(NotFound):
        world.volumes.create("vol", "encrypted", {"passphrase-file": "/nowhere/pass"})
    (base / "empty").write_bytes(b"\n")
    with pytest.raises(InvalidParameter, match="empty"):
        world.volumes.create("vol", "encrypted", {"passphrase-file": f"{base}/empty"})
    assert world.volumes.list() == []
    assert list(world.root.iterdir()) == []
    world.close()


@isolated
def test_keys_from_secrets_and_commands(base):
    needs("image")
    world = World(base)
    world.secrets.create("db", PASSPHRASE)
    world.volumes.create("by-secret", "encrypted", {"secret": "db", "method": "image", "size": "64m"})
    world.volumes.create(
        "by-command", "encrypted", {"command": f"/bin/cat {base}/pass", "method": "image", "size": "64m"}
    )
    for name in ("by-secret", "by-command"):
        world.volumes.mount(name, "u")
        world.volumes.unmount(name, "u")
    assert world.volumes.encryption.users_of_secret("db") == ["volume by-secret"]
    (base / "pass").unlink()
    with pytest.raises(Locked, match="/bin/cat"):
        world.volumes.mount("by-command", "u")
    world.close()


@isolated
def test_damaged_key_slots_are_a_clear_error(base):
    needs("image")
    world = World(base)
    make(world, "image", size="64m")
    slots = Path(world.volumes.encryption.path(world.volumes.get("vol")))
    good = slots.read_bytes()
    slots.write_bytes(good[: len(good) // 2])
    with pytest.raises(Exception, match="key slots of a volume are damaged"):
        world.volumes.mount("vol", "c1")
    assert world.volumes.inspect("vol")["Status"]["Locked"] is True
    slots.write_bytes(good)
    world.volumes.mount("vol", "c1")
    world.volumes.unmount("vol", "c1")
    world.close()


@isolated
def test_a_dead_gocryptfs_is_seen_and_started_again(base):
    needs("gocryptfs")
    world = World(base)
    make(world, "gocryptfs")
    path = fill(world)
    server = serving(world)
    os.kill(server, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not gocryptfs.is_dead(str(path)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(OSError):
        (path / NAME).read_bytes()  # it fails closed: nothing reaches the disk below
    with pytest.raises(OSError):
        (path / "new").write_bytes(b"x")
    owner = world.volumes.get("vol").owner
    assert [d.fields for d in world.reconciler.diff(owner)] == [{"process": ("running", "ended")}]
    assert world.reconciler.repair(owner).errors == ()
    assert (path / NAME).read_bytes() == CONTENT
    world.volumes.unmount("vol", "c1")
    world.volumes.remove("vol")
    world.assert_nothing_left()
    world.close()


def serving(world: World) -> int:
    """The process that serves the volume: its command line has paths, and its environment no key."""
    store = str(world.root / world.volumes.get("vol").id / "encrypted")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_bytes()
            if b"gocryptfs" in argv and store.encode() in argv:
                for place in (argv, (process / "environ").read_bytes()):
                    assert PASSPHRASE not in place
                return int(process.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise AssertionError("no gocryptfs process")


def rclone(bucket: Path, *arguments: str) -> str:
    """Run stock rclone with rclone's defaults: the passphrase, and no second password."""
    hidden = subprocess.run(
        ["rclone", "obscure", PASSPHRASE.decode()], capture_output=True, text=True, timeout=20, check=True
    )
    environment = {
        "PATH": os.environ["PATH"], "HOME": "/nonexistent", "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_C_TYPE": "crypt", "RCLONE_CONFIG_C_REMOTE": str(bucket),
        "RCLONE_CONFIG_C_PASSWORD": hidden.stdout.strip(),
    }  # fmt: skip
    done = subprocess.run(
        ["rclone", *arguments], capture_output=True, text=True, timeout=30, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("cache", ["plain", "encrypted"])
@isolated
def test_stock_rclone_reads_and_writes(base, cache):
    if shutil.which("rclone") is None:
        pytest.skip("rclone is not installed")
    needs("image")
    bucket = base / "bucket"
    bucket.mkdir()
    world = World(base)
    made = {"url": f"file://{bucket}", "passphrase-file": f"{base}/pass"}
    world.volumes.create("vol", "encrypted", {**made, "cache": cache})
    path = fill(world)
    assert world.volumes.sync("vol", 30) == 0
    assert not any(NAME in p.name for p in bucket.rglob("*"))
    assert rclone(bucket, "cat", f"C:{NAME}").encode() == CONTENT
    rclone(bucket, "copyto", "/etc/hostname", "C:from/rclone")
    world.volumes.encryption.rekey("vol", NewKey("main", "prompt", b"new"))  # rclone's password stays
    world.volumes.unmount("vol", "c1")
    if cache == "encrypted":
        assert NAME.encode() not in everything_at_rest(world)
    with pytest.raises(Locked):
        world.volumes.mount("vol", "c1")
    world.volumes.encryption.unlock("vol", b"new")
    path = world.volumes.mount("vol", "c1")
    assert (path / "from/rclone").read_bytes() == Path("/etc/hostname").read_bytes()
    assert world.volumes.encryption.password("vol") == PASSPHRASE
    world.volumes.unmount("vol", "c1")
    (base / "pass").write_bytes(b"wrong")
    with pytest.raises(Forbidden, match="does not open this store"):
        world.volumes.create("other", "encrypted", made)
    assert PASSPHRASE not in everything_at_rest(world)
    world.volumes.remove("vol")
    world.assert_nothing_left()
    world.close()
