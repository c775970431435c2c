"""Names that a key cannot have: they are stored in another spelling, and come back on every host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.storage import servers
from tests.kernel.tree.grounds import Place, need_on_demand, store_of

from engine.spec.errors import InvalidParameter
from engine.spec.storage import Store
from engine.tree import holder

NAMES = [
    os.fsdecode(name)
    for name in (
        b"new\nline", b"back\\slash", b"tab\t", b"return\r", b"bell\x07", b"del\x7f", b"latin-\xe9", b"\xff\xfe",
        b".engine-mine", b".engine-attributes.json", "␊".encode(), "‛".encode(), "．".encode(), b"plain",
    )
]  # fmt: skip


@pytest.fixture(params=["memory", "file"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return store_of(f"memory://{tmp_path.name}{os.getpid()}")
    return store_of(f"file://{tmp_path}/store", {"fsync": "false"})


@pytest.fixture(params=["sync", "on-demand"])
def mode(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "on-demand":
        need_on_demand(tmp_path)
    yield request.param
    for host in "ab":
        holder.end(tmp_path / host / "run")


def content(place: Place) -> dict[str, bytes]:
    """All files and links, by their paths; files are read by another process."""
    code = (
        "import os, sys; os.chdir(sys.argv[1]); found = {}\n"
        "for top, _, files in os.walk(b'.'):\n"
        "    for each in (os.path.join(top, f)[2:] for f in files):\n"
        "        found[os.fsdecode(each)] = os.readlink(each) if os.path.islink(each) else open(each, 'rb').read()\n"
        "print(ascii(found))"
    )
    argv = [sys.executable, "-I", "-S", "-c", code, str(place.path)]
    return eval(subprocess.run(argv, check=True, capture_output=True, timeout=60, text=True).stdout)


def test_every_name_comes_back(tmp_path, store, mode):
    wanted = {}
    with Place(tmp_path, store, mode=mode) as place:
        for name in NAMES:
            (place.path / f"in-{name}").mkdir()
            for path in (name, f"in-{name}/{name}"):
                wanted[path] = b"of " + os.fsencode(path)
                (place.path / path).write_bytes(wanted[path])
            (place.path / f"to-{name}").symlink_to(name)
            wanted[f"to-{name}"] = os.fsencode(name)
        place.sync()
        assert place.tree.status().reason == ""
    with Place(tmp_path, store, "b", mode=mode) as other:
        assert other.tree.status().reason == ""
        assert content(other) == wanted
        for name in NAMES:  # and are renamed and removed
            (other.path / f"in-{name}").rename(other.path / f"in-{name}\n2")
            wanted[f"in-{name}\n2/{name}"] = wanted.pop(f"in-{name}/{name}")
            (other.path / name).unlink()
            del wanted[name]
        other.sync()
    with place.reopened() as again:
        assert again.tree.status().reason == ""
        assert content(again) == wanted
        for each in again.path.iterdir():
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
        again.sync()
        assert [stat.key for stat in store.list() if ".engine-" not in stat.key] == []


@pytest.mark.skipif(shutil.which("rclone") is None, reason="rclone is not here")
def test_rclone_reads_them_from_s3(tmp_path):
    (tmp_path / "weed").mkdir()
    with servers.seaweed(tmp_path / "weed") as bucket:
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_S3_PROVIDER": "Other",
            "RCLONE_S3_ENDPOINT": bucket.options["endpoint-url"],
            "RCLONE_S3_ACCESS_KEY_ID": (tmp_path / "weed" / "access").read_text(),
            "RCLONE_S3_SECRET_ACCESS_KEY": (tmp_path / "weed" / "secret").read_text(),
            "RCLONE_S3_ENCODING": "Slash,BackSlash,Del,Ctl,InvalidUtf8,Dot",
        }
        foreign = os.fsdecode(b"their\\new\n\xff")
        remote = ":s3:" + bucket.url.removeprefix("s3://")
        with Place(tmp_path, store_of(bucket.url, bucket.options)) as place:
            for name in NAMES:
                (place.path / name).write_bytes(os.fsencode(name))
            place.sync()
            copy, theirs = tmp_path / "copy", tmp_path / "theirs"
            subprocess.run(["rclone", "copy", remote, copy], env=environ, check=True, timeout=120)
            files = {path.name: path.read_bytes() for path in copy.iterdir()}
            assert set(files.values()) > set(map(os.fsencode, NAMES))
            assert [files[name] for name in NAMES[:7]] == list(map(os.fsencode, NAMES[:7]))
            theirs.mkdir()
            for name in (foreign, "plain too"):
                (theirs / name).write_bytes(os.fsencode(name))
            subprocess.run(["rclone", "copy", theirs, remote], env=environ, check=True, timeout=120)
        with Place(tmp_path, store_of(bucket.url, bucket.options), "b") as other:
            assert content(other) == {name: os.fsencode(name) for name in [*NAMES, foreign, "plain too"]}
            # By its own rules rclone keeps a tab as it is, and the client cannot list such a key.
            environ.pop("RCLONE_S3_ENCODING")
            (theirs / "raw\ttab").write_bytes(b"raw")
            subprocess.run(["rclone", "copy", theirs, remote], env=environ, check=True, timeout=120)
        with Place(tmp_path, store_of(bucket.url, bucket.options), "b") as again:
            assert again.tree.status().state == "degraded"
            assert r"raw\ttab" in again.tree.status().reason
            assert "plain too" in content(again)
            (again.path / "written").write_bytes(b"1")
            again.sync()
        with pytest.raises(InvalidParameter, match=r"raw\\ttab.*Remove or rename"):
            Place(tmp_path, store_of(bucket.url, bucket.options), "c").__enter__()
