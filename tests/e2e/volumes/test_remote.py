"""Remote volumes on a real S3 server, by both command lines, through the deaths of daemon, helper and server."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Cli
from tests.host import EngineHost, until
from tests.kernel.storage.servers import Place, seaweed
from tests.namespaces import call_in

from engine.plugins import Plugins
from engine.spec.storage import Store
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores


class Bucket:
    """A bucket on the machine, seen past the engine."""

    def __init__(self, host: EngineHost, place: Place) -> None:
        self._host, self.place = host, place

    def options(self, prefix: str, *more: str) -> list[str]:
        """Return the `-o` words of a volume on a prefix of the bucket."""
        given = [f"url={self.place.url}/{prefix}", *(f"{k}={v}" for k, v in self.place.options.items()), *more]
        return [word for option in given for word in ("-o", option)]

    def get(self, prefix: str, key: str) -> bytes | None:
        """Return an object's content."""

        def read(store: Store) -> bytes | None:
            return None if store.head(key) is None else store.get(key)

        return self._with_store(prefix, read)

    def _with_store(self, prefix: str, use: Any) -> Any:
        def work() -> Any:
            stores = Stores(Plugins())
            plan = stores.plan(f"{self.place.url}/{prefix}", self.place.options)
            store = stores.open(plan, Secrets())
            try:
                return use(store)
            finally:
                store.close()

        return call_in(self._host.netns, work)


@pytest.fixture(scope="module")
def bucket(host: EngineHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """An S3 server on the machine."""
    server = seaweed(tmp_path_factory.mktemp("weed"))
    place = call_in(host.netns, server.__enter__)
    try:
        yield Bucket(host, place)
    finally:
        server.__exit__(None, None, None)


def status(host: EngineHost, name: str) -> dict[str, Any]:
    """Return the status of a volume."""
    return dict(json.loads(host.engine("volume", "inspect", name).stdout)[0]["Status"])


def released(host: EngineHost, name: str) -> bool:
    """Tell whether everything of a volume is uploaded, and its helper has ended."""
    return "State" not in status(host, name)


def helpers(host: EngineHost) -> list[int]:
    """Return the process ids of all helpers on the machine."""
    return [
        int(p) for p in host.run("pgrep", "-f", r"engine\.helper serve", check=False).stdout.split() if _ours(host, p)
    ]


def _ours(host: EngineHost, pid: str) -> bool:
    try:
        return f"/engine-{host.instance}/helpers/" in Path(f"/proc/{pid}/cgroup").read_text()
    except FileNotFoundError:
        return False


def kill_helpers(host: EngineHost) -> None:
    """Kill all helpers."""
    for pid in until(lambda: helpers(host), "a helper"):
        os.kill(pid, signal.SIGKILL)


def test_a_volume_on_a_bucket(cli: Cli, clean: EngineHost, bucket: Bucket) -> None:
    prefix = f"round-{os.urandom(4).hex()}"
    cli("volume", "create", "-d", "remote", *bucket.options(prefix), "vol")
    script = "echo one > /v/one; mkdir -p /v/deep/er; echo two > /v/deep/er/two; chmod 640 /v/one; ln -s one /v/link"
    cli("run", "--rm", "-v", "vol:/v", "busybox", "sh", "-c", script)
    until(lambda: released(clean, "vol"), "everything is uploaded")
    assert bucket.get(prefix, "one") == b"one\n"
    assert bucket.get(prefix, "deep/er/two") == b"two\n"
    cli("volume", "rm", "vol")
    assert bucket.get(prefix, "one") == b"one\n", "the bucket's content is not the volume's to remove"
    cli("volume", "create", "-d", "remote", *bucket.options(prefix), "again")
    script = "cat /v/one /v/deep/er/two /v/link; stat -c %a /v/one; readlink /v/link; rm -r /v/deep"
    assert cli("run", "--rm", "-v", "again:/v", "busybox", "sh", "-c", script).stdout == "one\ntwo\none\n640\none\n"
    until(lambda: released(clean, "again"), "everything is uploaded")
    assert bucket.get(prefix, "deep/er/two") is None
    cli("volume", "rm", "again")


def test_what_cannot_work_is_refused_at_create(cli: Cli, clean: EngineHost, bucket: Bucket, tmp_path: Path) -> None:
    def refused(*options: str) -> str:
        done = cli("volume", "create", "-d", "remote", *options, "vol", check=False)
        assert done.returncode != 0
        return done.stderr

    assert "Did you mean 'mode'" in refused(*bucket.options("x", "moed=sync"))
    assert "url" in refused("-o", "mode=sync")
    missing = Bucket(clean, bucket.place._replace(url="s3://no-such-bucket"))
    assert re.search("no-such-bucket|NoSuchBucket|not found|does not exist", refused(*missing.options("x")))
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-key")
    options = {**bucket.place.options, "secret-key": f"file:{wrong}"}
    text = refused(*Bucket(clean, bucket.place._replace(options=options)).options("x"))
    assert re.search("credentials|[Ss]ignature|[Ff]orbidden|[Dd]enied|refuse", text), text
    assert "not-the-key" not in text
    options = {**bucket.place.options, "endpoint-url": "http://127.0.0.1:9", "deadline": "2"}
    assert "127.0.0.1:9" in refused(*Bucket(clean, bucket.place._replace(options=options)).options("x"))
    assert cli("volume", "ls", "-q").stdout == ""


def test_a_barrier(clean: EngineHost, bucket: Bucket) -> None:
    prefix = f"sync-{os.urandom(4).hex()}"
    clean.engine("volume", "create", "-d", "remote", *bucket.options(prefix), "vol")
    clean.engine("run", "-d", "--name", "writer", "-v", "vol:/v", "busybox", "sleep", "1000")
    clean.engine("exec", "writer", "sh", "-c", "for i in 1 2 3 4 5; do echo $i > /v/$i; done; sync")
    assert clean.engine("volume", "sync", "vol").stdout == "vol\n"
    assert [bucket.get(prefix, str(n)) for n in range(1, 6)] == [f"{n}\n".encode() for n in range(1, 6)]
    found = status(clean, "vol")
    assert (found["State"], found["PendingFiles"], found["Files"], found["Mounted"]) == ("ready", 0, 5, True)
    done = clean.engine("volume", "sync", "none", check=False)
    assert done.returncode == 1
    assert "no such volume" in done.stderr
    clean.engine("rm", "-f", "writer")
    clean.engine("volume", "rm", "vol")


def test_a_daemon_that_is_killed(clean: EngineHost, bucket: Bucket) -> None:
    prefix = f"daemon-{os.urandom(4).hex()}"
    clean.engine("volume", "create", "-d", "remote", *bucket.options(prefix), "vol")
    clean.engine("run", "-d", "--name", "writer", "-v", "vol:/v", "busybox", "sleep", "1000")
    former = helpers(clean)
    clean.engine("exec", "writer", "sh", "-c", "echo before > /v/before")
    clean.kill_daemon()
    until(lambda: bucket.get(prefix, "before") == b"before\n", "the helper goes on without a daemon")
    clean.start_daemon()
    assert helpers(clean) == former
    clean.engine("exec", "writer", "sh", "-c", "echo after > /v/after")
    clean.engine("volume", "sync", "vol")
    assert bucket.get(prefix, "after") == b"after\n"
    clean.engine("rm", "-f", "writer")
    until(lambda: released(clean, "vol"), "everything is uploaded")


def test_a_helper_that_is_killed(clean: EngineHost, bucket: Bucket) -> None:
    prefix = f"helper-{os.urandom(4).hex()}"
    clean.engine("volume", "create", "-d", "remote", *bucket.options(prefix), "vol")
    clean.engine("run", "-d", "--name", "writer", "-v", "vol:/v", "busybox", "sleep", "1000")
    kill_helpers(clean)
    clean.engine("exec", "writer", "sh", "-c", "echo meanwhile > /v/meanwhile; cat /v/meanwhile")
    until(lambda: bucket.get(prefix, "meanwhile") == b"meanwhile\n", "another helper uploads it")
    clean.engine("rm", "-f", "writer")
    until(lambda: released(clean, "vol"), "everything is uploaded")


def test_all_that_is_ours_is_killed(clean: EngineHost, bucket: Bucket) -> None:
    prefix = f"both-{os.urandom(4).hex()}"
    clean.engine("volume", "create", "-d", "remote", *bucket.options(prefix), "vol")
    clean.engine("run", "-d", "--name", "writer", "-v", "vol:/v", "busybox", "sleep", "1000")
    assert clean.daemon is not None
    clean.daemon.send_signal(signal.SIGSTOP)  # it would start another helper
    kill_helpers(clean)
    (tree,) = (clean.data_root / "volumes").glob("*/tree")
    (tree / "file").write_text("written while nobody looked\n")
    clean.kill_daemon()
    clean.kill_containers()
    clean.start_daemon()
    until(lambda: released(clean, "vol"), "everything is uploaded")
    assert bucket.get(prefix, "file") == b"written while nobody looked\n"
    clean.engine("rm", "-f", "writer")


def test_files_on_demand(cli: Cli, clean: EngineHost, bucket: Bucket) -> None:
    """Where the host cannot fetch on demand, the volume is in mode `sync`, and all of this holds nevertheless."""
    prefix = f"demand-{os.urandom(4).hex()}"
    cli("volume", "create", "-d", "remote", *bucket.options(prefix), "first")
    script = "for i in 1 2 3; do dd if=/dev/urandom of=/v/f$i bs=64k count=16; done; cd /v; md5sum f? > sums"
    cli("run", "--rm", "-v", "first:/v", "busybox", "sh", "-c", script)
    until(lambda: released(clean, "first"), "everything is uploaded")
    cli("volume", "create", "-d", "remote", *bucket.options(prefix, "mode=on-demand", "cache-size=10m"), "vol")
    cli("run", "-d", "--name", "reader", "-v", "vol:/v", "busybox", "sleep", "1000")
    cli("exec", "reader", "cat", "/v/f1")
    kill_helpers(clean)
    assert cli("exec", "reader", "sh", "-c", "cd /v; md5sum -c sums; rm f1").stdout == "f1: OK\nf2: OK\nf3: OK\n"
    cli("rm", "-f", "reader")
    until(lambda: released(clean, "vol"), "everything is uploaded")
    assert bucket.get(prefix, "f1") is None
    assert bucket.get(prefix, "f2") is not None


def test_a_server_that_is_down(clean: EngineHost, bucket: Bucket, tmp_path: Path) -> None:
    server = seaweed(tmp_path)
    place = call_in(clean.netns, server.__enter__)
    other = Bucket(clean, place)
    quick = ("patience=2", "deadline=2")
    try:
        clean.engine("volume", "create", "-d", "remote", *other.options("x", *quick), "vol")
        clean.engine("run", "-d", "--name", "writer", "-v", "vol:/v", "busybox", "sleep", "1000")
        clean.engine("exec", "writer", "sh", "-c", "echo old > /v/old")
        clean.engine("volume", "sync", "vol")
    finally:
        for pid in clean.run("pgrep", "-f", f"server -dir={tmp_path}").stdout.split():
            os.kill(int(pid), signal.SIGKILL)  # asked politely, it takes ten seconds
        server.__exit__(None, None, None)
    clean.engine("exec", "writer", "sh", "-c", "cat /v/old; echo new > /v/new; mv /v/old /v/older")
    found = until(lambda: (now := status(clean, "vol"))["State"] == "degraded" and now, "the volume is degraded")
    assert other.place.options["endpoint-url"].removeprefix("http://") in found["Reason"]
    clean.kill_daemon()
    clean.start_daemon()
    assert clean.engine("ps", "-q").stdout.split()
    assert clean.engine("volume", "ls", "-q").stdout.split() == ["vol"]
    assert clean.engine("exec", "writer", "cat", "/v/new", "/v/older").stdout == "new\nold\n"
    done = clean.engine("volume", "sync", "-t", "1", "vol", check=False)
    assert done.returncode == 1
    clean.engine("rm", "-f", "writer")
    done = clean.engine("volume", "rm", "vol", check=False)
    assert done.returncode == 1
    assert "not in its store yet" in done.stderr
    clean.restart_daemon()
    clean.engine("volume", "rm", "--force", "vol")
